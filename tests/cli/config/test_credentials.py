"""Which credentials are sent to which server, and what a repository's file may not set."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from devroute.agent.settings import AgentSettings
from devroute.auth.tls import is_exposed
from devroute.cli.config.credentials import same_server
from devroute.cli.config.project_file import PERMITTED
from devroute.cli.config.sources import (
    Source,
    agent_settings,
    client_settings,
    given_settings,
    read_environment,
    read_file,
)
from devroute.errors import ConfigInvalid, ServerNotConfirmed

OURS, THEIRS = "https://ours.example", "https://evil.example"


def settled(
    *,
    flags: dict[str, object] | None = None,
    env: dict[str, str] | None = None,
    repo: str = "",
    home: str = "",
) -> AgentSettings:
    return given_settings(
        [
            Source("command line", flags or {}),
            read_environment({f"DEVROUTE_{name.upper()}": value for name, value in (env or {}).items()}),
            read_file(repo, "devroute.yaml", own=False),
            read_file(home, "config.yaml"),
        ]
    )


def token(settings: AgentSettings) -> str:
    return settings.token.get_secret_value()


@pytest.mark.parametrize(
    "yours",
    [
        {"env": {"token": "secret-1"}},
        {"flags": {"token": "secret-1"}},
        {"home": "token: secret-1"},
        {"home": f"server: {OURS}\ntoken: secret-1"},
        {"home": "token_command: print-secret"},
        {"env": {"token_command": "print-secret"}},
        {"home": f"servers: {{{OURS}: {{token: secret-1}}}}\ntoken: secret-1"},
        {"env": {"token": "secret-1"}, "home": f"servers: {{{THEIRS}: {{token: secret-2}}}}"},
        {"home": "client_cert: a.pem\nclient_key: a.key"},
    ],
)
def test_a_repository_cannot_send_the_user_s_credentials_to_its_own_server(yours: dict[str, object]) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        settled(repo=f"server: {THEIRS}", **yours)  # type: ignore[arg-type]
    assert caught.value.message.startswith(f"devroute.yaml names the server '{THEIRS}', but the ")
    assert f"--server {THEIRS}" in caught.value.hint
    assert "secret-1" not in caught.value.message + caught.value.hint


def test_a_repository_may_choose_among_the_user_s_servers_and_each_gets_its_own_token() -> None:
    home = f"server: {OURS}\ntoken: one\nservers:\n  {THEIRS}:\n    token: two\n    ca_file: /ca.pem\n"
    assert token(settled(home=home)) == "one"
    settings = settled(repo=f"server: {THEIRS}", home=home)
    assert (token(settings), str(settings.ca_file)) == ("two", "/ca.pem")
    assert token(settled(env={"server": THEIRS}, home=home)) == "two"
    assert token(settled(env={"server": THEIRS, "token": "three"}, home=home)) == "three"


@pytest.mark.parametrize("named", [OURS, OURS + "/", "https://ours.example:443", "wss://OURS.example"])
def test_a_repository_that_names_the_user_s_server_gets_the_user_s_credentials(named: str) -> None:
    assert token(settled(repo=f"server: {named}", home=f"server: {OURS}\ntoken: one")) == "one"


def test_the_user_s_server_takes_precedence_over_the_repository_s() -> None:
    settings = settled(repo=f"server: {THEIRS}", env={"server": OURS, "token": "one"})
    assert (settings.server, token(settings)) == (OURS, "one")


def test_a_token_of_the_repository_itself_may_go_to_any_server() -> None:
    assert token(settled(repo=f"server: {THEIRS}\ntoken: shared")) == "shared"
    assert token(settled(repo="token: shared", home=f"server: {OURS}\ntoken: one")) == "shared"


BOTH = f"server: {THEIRS}\ntoken: shared\nservices: [foo=8001]"


@pytest.mark.parametrize("read", [client_settings, agent_settings])
@pytest.mark.parametrize(
    ("flags", "env", "home", "confirmed"),
    [
        ({}, {}, "", False),
        ({}, {}, f"server: {OURS}\ntoken: one", False),
        ({}, {}, f"servers: {{{OURS}: {{}}}}", False),
        ({"name": "ann"}, {"services": "foo=8001"}, "output: text", False),
        ({"token": "one"}, {"server": OURS}, "", True),
        ({"server": THEIRS}, {}, "", True),
        ({}, {"server": THEIRS}, "", True),
        ({}, {}, f"server: {THEIRS}", True),
        ({}, {}, f"servers: {{{THEIRS}: {{}}}}", True),
        ({}, {}, f"servers: {{'{THEIRS}:443': {{token: two}}}}", True),
    ],
)
def test_a_server_and_token_of_a_repository_are_used_once_the_user_has_confirmed_the_server(
    read: Callable[[list[Source]], object],
    flags: dict[str, object],
    env: dict[str, str],
    home: str,
    confirmed: bool,
) -> None:
    sources = [
        Source("command line", flags),
        read_environment({f"DEVROUTE_{name.upper()}": value for name, value in env.items()}),
        read_file(BOTH, "devroute.yaml", own=False),
        read_file(home, "config.yaml"),
    ]
    if confirmed:
        read(sources)
        return
    with pytest.raises(ServerNotConfirmed, match="its author could send requests to your apps") as caught:
        read(sources)
    assert (caught.value.server, "shared" in str(caught.value)) == (THEIRS, False)
    assert f"--server {THEIRS}" in caught.value.hint


def test_without_a_credential_a_repository_may_name_any_server() -> None:
    assert settled(repo=f"server: {THEIRS}").server == THEIRS


@pytest.mark.parametrize(
    "line",
    [
        "token_command: rm -rf /",
        "ca_file: ca.pem",
        "client_cert: a.pem",
        "client_key: a.key",
        "insecure_plain_http: true",
        "servers: {}",
        "direct: evil.vpn.example",
        "command: [sh]",
    ],
)
def test_a_repository_s_file_may_not_run_commands_or_change_trust(line: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"is not permitted in a file that comes|there is no setting"):
        read_file(line, "devroute.yaml", own=False)
    if not line.startswith("command"):
        read_file(line, "config.yaml")


@pytest.mark.parametrize(
    "services",
    [
        "{db: 'db.internal:5432'}",
        "[foo=8001, admin=10.0.0.1:80]",
        "[foo=http://169.254.169.254:80]",
        "{x: 'grpc://[fd00::1]:9000'}",
        "foo=8001 bar=vault:8200",
        "['foo=localhost.evil.example:80']",
    ],
)
def test_a_repository_s_file_gives_no_access_to_the_laptop_s_networks(services: str) -> None:
    with pytest.raises(ConfigInvalid, match="is not on this laptop"):
        read_file(f"services: {services}", "devroute.yaml", own=False)
    assert read_file(f"services: {services}", "config.yaml").values["services"]


@pytest.mark.parametrize(
    "services",
    [
        "{foo: 8001, bar: 'grpc://localhost:9000'}",
        "[foo=8001, bar=http://127.0.0.1:80, 'baz=[::1]:80', LOCAL=LOCALHOST:1]",
        "[foo]",
        "7",
    ],
)
def test_a_repository_s_file_may_name_ports_of_the_laptop(services: str) -> None:
    assert read_file(f"services: {services}", "devroute.yaml", own=False).values["services"]


def test_every_setting_is_permitted_or_refused_in_a_repository_s_file() -> None:
    refused = {"token_command", "ca_file", "client_cert", "client_key", "insecure_plain_http", "servers"}
    assert {*AgentSettings.model_fields, "proxy"} == PERMITTED | refused | {
        "command",
        "direct",
        "forward_proxy",
        "inspector_history",
        "login",
        "metrics",
        "reach_direct",
        "takeover",
    }


@pytest.mark.parametrize(
    "rules", ["[-authorization]", "[card_number, -cookie]", "-authorization", "a,-cookie"]
)
def test_a_repository_s_file_cannot_reduce_redaction(rules: str) -> None:
    with pytest.raises(ConfigInvalid, match="may add fields, but not remove any"):
        read_file(f"redact: {rules}", "devroute.yaml", own=False)
    assert read_file(f"redact: {rules}", "config.yaml").values["redact"]


@pytest.mark.parametrize("key", ["descriptor_set", "proto", "proto_path"])
def test_a_repository_names_no_files_from_elsewhere(key: str) -> None:
    for path in (
        "/etc/passwd",
        "../a.binpb",
        "a/../../b",
        "~/a",
        f"a.binpb{os.pathsep}/etc/passwd",
        "[a, /b]",
    ):
        with pytest.raises(ConfigInvalid, match=f"{key}: .* is not below the folder of this file"):
            read_file(f"{key}: {path}", "devroute.yaml", own=False)
    assert getattr(settled(repo=f"{key}: [api/a, b]"), key) == (Path("api/a"), Path("b"))
    assert getattr(settled(repo=f"{key}: api/a"), key) == (Path("api/a"),)
    with pytest.raises(ConfigInvalid, match=f"{key}: write a path or a list of paths"):
        settled(repo=f"{key}: 5")
    for path in (os.pathsep, "a\0b", "~no-such-user/a"):
        with pytest.raises(ConfigInvalid, match=r"the environment: .*: a path"):
            settled(env={key: path})


def test_a_repository_cannot_extend_recording() -> None:
    repo = "inspector: 4041\ninspector_memory_mb: 4096\ninspector_body_mb: 9"
    settings = settled(repo=repo, home="inspector: off\ninspector_body_mb: 0.5")
    assert (settings.inspector, settings.inspector_memory_mb, settings.inspector_body_mb) == (
        False,
        4096,
        0.5,
    )
    assert settled(repo=repo, env={"inspector": "off"}).inspector is False
    assert settled(repo=repo).inspector == 4041


def test_redaction_of_a_repository_is_added_to_the_user_s() -> None:
    mine = "redact: [card_number, -x-api-key]"
    assert settled(home=mine, repo="redact: [$.user.pin]").redact == (
        "card_number",
        "-x-api-key",
        "$.user.pin",
    )
    assert settled(home=mine, repo="redact: []").redact == ("card_number", "-x-api-key")
    assert settled(repo="redact: [$.user.pin]").redact == ("$.user.pin",)
    with pytest.raises(ConfigInvalid, match="redact: write a list"):
        settled(home="redact: {a: b}", repo="redact: [c]")
    both = settled(env={"redact": "one two"}, home=mine, repo="redact: three")
    assert both.redact == ("one", "two", "three")


def test_the_first_source_decides_between_a_token_and_a_command() -> None:
    settings = settled(flags={"token": "one"}, home="token_command: print it")
    assert (token(settings), settings.token_command) == ("one", ())
    settings = settled(env={"token_command": "print 'a b'"}, home="token: one")
    assert (token(settings), settings.token_command) == ("", ("print", "a b"))
    with pytest.raises(ConfigInvalid, match=r"config.yaml: token and token_command are both set"):
        settled(home="token: one\ntoken_command: print it")
    with pytest.raises(ConfigInvalid, match=r"token_command: .*No closing quotation"):
        settled(home="""token_command: 'print "'""")


def with_login(**given: str) -> AgentSettings:
    """With a login for OURS, as `devroute login` leaves it."""
    repo, home, env = (given.get(each, "") for each in ("repo", "home", "env"))
    return given_settings(
        [
            read_environment({"DEVROUTE_TOKEN": env}),
            read_file(repo, "devroute.yaml", own=False),
            read_file(home, "config.yaml"),
            Source("devroute login", {"servers": {f"{OURS}:443": {"login": "/state/ours.json"}}}),
        ]
    )


@pytest.mark.parametrize("where", ["home", "repo"])
def test_a_login_is_used_with_its_server_from_either_file(where: str) -> None:
    assert str(with_login(**{where: f"server: {OURS}"}).login) == "/state/ours.json"
    other = with_login(**{where: f"server: {THEIRS}"})
    assert (other.login, other.has_credential) == (None, False)


@pytest.mark.parametrize(
    "given",
    [
        {"env": "mine"},
        {"home": f"server: {OURS}\ntoken: mine"},
        {"home": f"server: {OURS}\nservers: {{{OURS}: {{token: mine}}}}"},
        {"home": f"server: {OURS}\ntoken_command: print-mine"},
    ],
)
def test_a_token_that_is_set_takes_precedence_over_a_login(given: dict[str, str]) -> None:
    settings = with_login(**({"home": f"server: {OURS}"} | given))
    assert settings.login is None
    assert token(settings) == "mine" or settings.token_command == ("print-mine",)


def test_no_file_names_a_login() -> None:
    with pytest.raises(ConfigInvalid, match="there is no setting 'login'"):
        read_file("login: /etc/passwd", "config.yaml")
    assert "login" not in read_environment({"DEVROUTE_LOGIN": "/etc/passwd"}).values


def test_a_certificate_without_its_key_is_refused() -> None:
    with pytest.raises(ConfigInvalid, match="client_cert and client_key belong together"):
        settled(home="client_cert: a.pem")


@pytest.mark.parametrize("server", ["http://devroute.example", "ws://10.0.0.1:8081", "http://localhost.evil"])
def test_no_token_goes_over_plain_http(server: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        settled(flags={"server": server, "token": "secret-1"})
    assert "plain http" in caught.value.message
    assert "https://" in caught.value.hint
    with pytest.raises(ConfigInvalid, match="plain http"):
        settled(flags={"server": server}, home="token_command: print it")
    assert settled(flags={"server": server}).server == server
    allowed = settled(flags={"server": server, "token": "secret-1", "insecure_plain_http": True})
    assert token(allowed) == "secret-1"


@pytest.mark.parametrize(
    "server", ["https://x.example", "wss://x", "http://localhost:1", "http://127.0.0.2", "ws://[::1]:8"]
)
def test_tls_and_loopback_are_not_exposed(server: str) -> None:
    assert not is_exposed(server)


def test_servers_are_equal_by_scheme_host_and_port() -> None:
    assert same_server("http://a:80/x/", "ws://A/x")
    for other in ("https://a:80/x", "http://a:81/x", "http://a/y", "http://b/x", "a", "http://a:x", ""):
        assert not same_server("http://a/x", other)
