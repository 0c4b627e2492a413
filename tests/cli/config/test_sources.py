import pytest

from devroute.cli.config.names import COMMAND_LINE
from devroute.cli.config.sources import (
    Source,
    agent_settings,
    client_settings,
    proxy_settings,
    reach_settings,
    read_environment,
    read_file,
)
from devroute.contract.service_spec import ServiceSpec, with_direct
from devroute.contract.target import Address, Malformed
from devroute.errors import ConfigInvalid

SECRET = "dvr_do-not-show"
BASE = Source("the base", {"server": "https://base", "token": SECRET, "services": ["foo=8001"]})


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("foo=8001", ServiceSpec("foo", "localhost", 8001)),
        ("foo=app.local:8001", ServiceSpec("foo", "app.local", 8001)),
        ("foo=http://127.0.0.1:8001/", ServiceSpec("foo", "127.0.0.1", 8001)),
        ("foo=grpc://localhost:9000", ServiceSpec("foo", "localhost", 9000, "grpc")),
        ("foo=https://localhost:8443", ServiceSpec("foo", "localhost", 8443, "https")),
        ("foo=grpcs://localhost:9443", ServiceSpec("foo", "localhost", 9443, "grpcs")),
        ("foo=[::1]:8001", ServiceSpec("foo", "::1", 8001)),
    ],
)
def test_a_service_and_its_local_place_are_read(text: str, spec: ServiceSpec) -> None:
    assert ServiceSpec.parse(text) == spec


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("foo", "write SERVICE=PORT, such as b=8001"),
        ("8001", "write SERVICE=PORT"),
        ("foo=", "the port is missing"),
        ("foo=0", "port '0' is not a number from 1 to 65535"),
        ("foo=http", "port 'http'"),
        (
            "foo=ftp://localhost:1",
            "scheme 'ftp' is not supported; write http:// or grpc://, with TLS https://",
        ),
        ("Foo=8001", "write foo"),
        ("foo=localhost:", "a port is missing"),
    ],
)
def test_a_wrong_service_is_refused_with_the_right_form(text: str, problem: str) -> None:
    with pytest.raises(Malformed) as caught:
        ServiceSpec.parse(text)
    assert problem in str(caught.value)


def test_each_source_takes_precedence_over_the_next() -> None:
    flags = Source("the flags", {"name": "from-flags", "server": None})
    environment = read_environment(
        {"DEVROUTE_SERVER": "https://env:1", "DEVROUTE_NAME": "from-env", "OTHER": "x"}
    )
    here = read_file("server: http://here:1\noutput: json\nservices: {foo: 8001}", "./devroute.yaml")
    home = read_file(f"output: text\ntoken: {SECRET}\nservices: [bar=1]", "config.yaml")
    settings = agent_settings([flags, environment, here, home])
    assert settings.name == "from-flags"
    assert settings.server == "https://env:1"
    assert settings.output == "json"
    assert settings.services == (ServiceSpec("foo", "localhost", 8001),)
    assert settings.token.get_secret_value() == SECRET


def test_an_empty_variable_counts_as_absent_and_services_may_be_separated_by_commas() -> None:
    environment = read_environment(
        {
            "DEVROUTE_NAME": "",
            "DEVROUTE_SERVICES": "foo=1, bar=2",
            "DEVROUTE_TOKEN": "t",
            "DEVROUTE_SERVER": "https://s",
        }
    )
    settings = agent_settings([environment])
    assert settings.name is None
    assert [spec.service for spec in settings.services] == ["foo", "bar"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("false", False), ("off", False), ("on", True), ("4041", 4041), ("'4041'", 4041)],
)
def test_the_inspector_is_on_off_or_at_a_port(text: str, value: bool | int) -> None:
    inspector = agent_settings([read_file(f"inspector: {text}", "here"), BASE]).inspector
    assert (inspector, type(inspector)) == (value, type(value))


def test_rules_of_redaction_are_read_from_files_and_variables() -> None:
    listed = read_file("redact: [card_number, $.user.pin, -x-api-key]", "here")
    assert agent_settings([listed, BASE]).redact == ("card_number", "$.user.pin", "-x-api-key")
    variable = read_environment({"DEVROUTE_REDACT": "card_number, $.user.pin"})
    assert agent_settings([variable, listed, BASE]).redact == ("card_number", "$.user.pin")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("inspector: 0", "inspector: '0' is neither a port nor true or false"),
        ("inspector: 70000", "neither a port"),
        ("inspector: [1]", "neither a port"),
        ("inspector_body_mb: 0", "inspector_body_mb: Input should be greater than 0"),
        ("redact: {a: b}", "redact: write a list of names and paths"),
        ("redact: [1]", "redact: write a list"),
        ("redact: [$.a..]", "redact: "),
        ("redact: [-x-unheard]", "not redacted by default"),
    ],
)
def test_a_wrong_setting_of_the_inspector_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        agent_settings([read_file(text, "here"), BASE])
    assert problem in caught.value.message


def test_a_direct_address_gives_each_service_its_own_port() -> None:
    settings = agent_settings(
        [Source("x", {"direct": "192.168.1.12", "services": ["foo=8001", "bar=8002"]}), BASE]
    )
    assert [spec.direct for spec in settings.services] == [
        Address("192.168.1.12", 8001),
        Address("192.168.1.12", 8002),
    ]
    one = with_direct([ServiceSpec.parse("foo=8001")], "192.168.1.12:9001")
    assert one[0].direct == Address("192.168.1.12", 9001)
    with pytest.raises(Malformed, match="cleartext"):
        with_direct([ServiceSpec.parse("foo=https://localhost:8443")], "192.168.1.12")
    assert with_direct([ServiceSpec.parse("foo=8001")], "fd00::1")[0].direct == Address("fd00::1", 8001)
    with pytest.raises(ConfigInvalid, match="write the host only"):
        agent_settings(
            [Source("x", {"direct": "192.168.1.12:1", "services": ["foo=8001", "bar=8002"]}), BASE]
        )
    for wrong in ("a b", "192.168.1.300", "", "fd00::1::2"):
        with pytest.raises(ConfigInvalid, match="direct: "):
            agent_settings([Source("x", {"direct": wrong}), BASE])


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"server": "localhost:8081"},
            "the place: server: 'localhost:8081' is not a URL; write it like https://",
        ),
        ({"server": "http://"}, "server: "),
        ({"server": "http://x:99999"}, "server: "),
        ({"server": "https://alice:dvr_do-not-show@host"}, "server: the URL holds a user or password"),
        *(
            ({"server": f"https://alice:dvr_do-not-show{rest}"}, "server: the URL holds a user or password")
            for rest in ("@host:99999", "@host:x", "\uff0f@host", "@[host", "@")
        ),
        ({"server": "https://host/?a=b"}, "server: "),
        ({"output": "xml"}, "the place: output: "),
        (
            {"name": "Alice"},
            "the place: name: a laptop's name consists of a-z, 0-9 and inner hyphens; write alice",
        ),
        ({"services": ["foo"]}, "the place: services: 'foo': write SERVICE=PORT"),
        ({"services": ["foo=1", "foo=2"]}, "the place: services: service 'foo' is given twice"),
        ({"services": [f"s{i}=1" for i in range(65)]}, "at most 64"),
        ({"services": "foo=1"}, "the place: services: write a list"),
        ({"token": [SECRET]}, "the place: token: "),
    ],
)
def test_a_wrong_setting_is_refused_naming_source_and_field_without_a_secret(
    values: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        agent_settings([Source("the place", values), BASE])
    assert problem in caught.value.message
    assert SECRET not in caught.value.message


def test_all_missing_settings_are_named_at_once_with_remedies() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        agent_settings([])
    assert caught.value.message == "not set up yet: server, token and services missing"
    for step in ("devroute init asks for server and token", "DEVROUTE_SERVER=", "DEVROUTE_TOKEN", "b=8001"):
        assert step in caught.value.hint
    with pytest.raises(ConfigInvalid, match="not set up yet: services missing") as caught:
        agent_settings([Source("x", {"server": "https://x", "token": SECRET})])
    assert "devroute init asks" not in caught.value.hint
    with pytest.raises(ConfigInvalid, match="not set up yet: token missing"):
        client_settings([Source("x", {"server": "http://x"})])


@pytest.mark.parametrize(
    "reach", [{"reach": ["c.shop:80"]}, {"reach_env": True}, {"reach_port": "1080"}, {"reach_port": "true"}]
)
def test_a_laptop_that_reaches_the_mesh_needs_no_services(reach: dict[str, object]) -> None:
    base = Source("x", {"server": "https://x", "token": SECRET})
    assert agent_settings([Source("y", reach), base]).reaches
    assert not agent_settings([Source("y", {"services": ["b=1"]}), base]).reaches


def test_devroute_reach_offers_nothing_and_always_has_the_port_for_proxies() -> None:
    here = read_file(
        "services: {b: 8001}\nshadow: 25%\nreach: [c.shop:80]\nreach_env: true\nonly_path: [/x]",
        "devroute.yaml",
    )
    settings = reach_settings([here, BASE])
    assert (settings.services, settings.shadow, settings.only_path, settings.reach_env) == (
        (),
        None,
        (),
        False,
    )
    assert [str(each.to) for each in settings.reach] == ["c.shop:80"]
    assert settings.reach_port is True
    assert reach_settings([Source("flags", {"reach_port": "1090"}), BASE]).reach_port == 1090


def test_a_wrong_way_into_the_mesh_names_its_place() -> None:
    with pytest.raises(ConfigInvalid) as caught:
        agent_settings([Source(COMMAND_LINE, {"reach": ["c.shop"]}), BASE])
    assert "command line: --reach: 'c.shop': a port is missing; write 'c.shop:80'" in caught.value.message
    with pytest.raises(ConfigInvalid, match="reach_direct is not permitted"):
        read_file("reach_direct: true", "devroute.yaml", own=False)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (f"token: '{SECRET}", "f.yaml: not valid YAML at line"),
        ("- a", "f.yaml: write one setting per line"),
        ("serber: x", "f.yaml: there is no setting 'serber'"),
        ("command: [rm]", "f.yaml: there is no setting 'command'"),
    ],
)
def test_a_wrong_file_is_refused_naming_it(text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        read_file(text, "f.yaml")
    assert problem in caught.value.message
    assert SECRET not in caught.value.message


def test_secrets_do_not_show_in_settings() -> None:
    assert SECRET not in repr(agent_settings([BASE]))
    assert SECRET not in str(client_settings([BASE]))


def test_the_proxy_reads_its_section_of_a_file_and_variables_before_it() -> None:
    file = read_file(
        "server: http://x\nproxy:\n  data_port: 1\n  control_port: 2\n  policy: p.yaml", "f.yaml"
    )
    settings = proxy_settings([read_environment({"DEVROUTE_CONTROL_PORT": "3"}), file])
    assert (settings.data_port, settings.control_port, str(settings.policy)) == (1, 3, "p.yaml")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("proxy: 8080", "f.yaml: proxy: "),
        ("proxy: {data_prot: 1}", "f.yaml: proxy: there is no setting 'data_prot'"),
        ("proxy: {data_port: 70000}", "f.yaml: data_port: "),
        ("proxy: {idle_timeout: 0}", "f.yaml: idle_timeout: "),
    ],
)
def test_a_wrong_proxy_setting_is_refused_naming_file_and_field(text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        proxy_settings([read_file(text, "f.yaml")])
    assert problem in caught.value.message
