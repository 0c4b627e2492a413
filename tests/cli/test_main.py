import asyncio
import importlib
import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from aiohttp import web

import devroute
from devroute.agent.settings import AgentSettings
from devroute.auth.authenticator import Authenticator
from devroute.auth.tokens import Tokens, new_token
from devroute.cli.main import run
from devroute.cli.status import describe_running, describe_status, in_words
from devroute.cli.table import table
from devroute.contract.target import Address
from devroute.errors import LaptopOffline, NameTaken
from devroute.policy.policy import Policy
from devroute.proxy.control.api import create_app
from devroute.proxy.control.control import Control
from devroute.proxy.control.http import create_runner
from devroute.proxy.settings import ProxySettings
from devroute.routing.decision import LaptopService

SECRET, RECORD = new_token("alice")
CONFIGURED = {"DEVROUTE_SERVER": "http://127.0.0.1:1", "DEVROUTE_TOKEN": SECRET}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder without configuration files."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


Captured = pytest.CaptureFixture[str]


def replace_part(monkeypatch: pytest.MonkeyPatch, name: str, run_part: Callable[..., object]) -> None:
    """Replace `run` of the module `name`, which a command calls once its settings are read."""
    monkeypatch.setattr(importlib.import_module(f"devroute.{name}"), "run", run_part)


# --- contract check -----------------------------------------------------------------------------------------


def test_contract_check_explains_a_contract(capsys: Captured) -> None:
    assert run(["contract", "check", '{"foo": "alice"}'], {}) == 0
    assert capsys.readouterr().out.startswith("all requests for foo go to the laptop alice")


def test_contract_check_as_json_has_the_parsed_entries(capsys: Captured) -> None:
    contract = '{"foo": {"to": "version:v2", "percent": 5}}'
    assert run(["contract", "check", contract, "--output", "json"], {}) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["valid"] is True
    assert document["entries"]["foo"]["target"] == "version:v2"
    assert document["entries"]["foo"]["percent"] == 5


def test_contract_check_names_the_place_of_an_error(capsys: Captured) -> None:
    assert run(["contract", "check", '{"foo": "192.168.1.12"}'], {}) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        "devroute: service 'foo': target '192.168.1.12': a port is missing; write 192.168.1.12:8001\n"
    )
    assert run(["contract", "check", "{", "--output", "json"], {}) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "contract-invalid"


def test_contract_check_prints_the_contract_that_was_meant(capsys: Captured) -> None:
    assert run(["contract", "check", "{'foo': 'alice'}"], {}) == 1
    assert 'hint: write double quotes instead of single ones; send X-devroute: {"foo": "alice"}' in (
        capsys.readouterr().err
    )
    assert run(["contract", "check", "foo=alice", "--output", "json"], {}) == 1
    assert json.loads(capsys.readouterr().out)["corrected"] == '{"foo": "alice"}'


# --- token new ----------------------------------------------------------------------------------------------


def test_token_new_prints_the_secret_once_and_keeps_its_hash(capsys: Captured, tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    file.write_text("# our team\n" + RECORD.as_yaml().rstrip("\n"))
    file.chmod(0o644)
    assert run(["token", "new", "bob", "--file", str(file)], {}) == 0
    captured = capsys.readouterr()
    secret = captured.out.strip()
    text = file.read_text()
    assert secret not in text + captured.err
    assert text.startswith("# our team\n")
    tokens = Tokens.parse(text)
    assert [tokens.identity_of(each, 0).subject for each in (secret, SECRET)] == ["bob", "alice"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["tokens.yaml"]


def test_token_new_leaves_a_broken_file_alone(capsys: Captured, tmp_path: Path) -> None:
    file = tmp_path / "tokens.yaml"
    file.write_text("alice: secret")
    assert run(["token", "new", "bob", "--file", str(file)], {}) == 20
    assert file.read_text() == "alice: secret"
    assert run(["token", "new", "Bob"], {}) == 20
    assert run(["token", "new", "bob", "--file", "nowhere/tokens.yaml"], {}) == 20
    assert "cannot be written" in capsys.readouterr().err
    assert "Traceback" not in capsys.readouterr().err


# --- up, proxy, demo ----------------------------------------------------------------------------------------


def test_up_passes_on_flags_environment_files_and_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[AgentSettings] = []

    async def agent(settings: AgentSettings, *others: object) -> int:
        seen.append(settings)
        return 7

    replace_part(monkeypatch, "agent.app", agent)
    (tmp_path / "devroute.yaml").write_text("server: https://here\nname: here\noutput: json")
    home = tmp_path / "home" / ".config" / "devroute"
    home.mkdir(parents=True)
    (home / "config.yaml").write_text(f"servers: {{https://here: {{token: {SECRET}}}}}\nserver: http://home")
    environment = {"HOME": str(tmp_path / "home"), "DEVROUTE_NAME": "env"}
    line = [
        "up",
        "foo=8001",
        "bar=grpc://localhost:9000",
        "--direct",
        "10.0.0.1",
        "--",
        "app",
        "--server",
        "-x",
        "--",
    ]
    assert run(line, environment) == 7
    settings = seen[0]
    assert (settings.server, settings.name, settings.output) == ("https://here", "env", "json")
    assert settings.token.get_secret_value() == SECRET
    assert settings.command == ("app", "--server", "-x", "--")
    assert [str(spec.direct) for spec in settings.services] == ["10.0.0.1:8001", "10.0.0.1:9000"]


def test_errors_of_a_part_become_a_line_a_hint_and_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    async def agent(settings: AgentSettings, *others: object) -> int:
        raise NameTaken("'alice' is taken", hint="use --name alice-2")

    replace_part(monkeypatch, "agent.app", agent)
    assert run(["up", "foo=8001"], CONFIGURED) == 30
    assert capsys.readouterr().err == "devroute: 'alice' is taken\n  hint: use --name alice-2\n"


def test_a_bug_is_one_line_and_a_traceback_only_on_demand(
    monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    async def agent(settings: AgentSettings, *others: object) -> int:
        raise ZeroDivisionError("oops")

    replace_part(monkeypatch, "agent.app", agent)
    assert run(["up", "foo=8001"], CONFIGURED) == 1
    error = capsys.readouterr().err
    assert "internal error: ZeroDivisionError: oops" in error
    assert "Traceback" not in error
    assert run(["up", "foo=8001"], CONFIGURED | {"DEVROUTE_DEBUG": "1"}) == 1
    assert "Traceback" in capsys.readouterr().err


def test_proxy_and_demo_get_their_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []

    def proxy(settings: ProxySettings) -> int:
        seen.append(settings)
        return 0

    async def demo(keep: bool, service: str) -> int:
        seen.append((keep, service))
        return 0

    replace_part(monkeypatch, "proxy.app", proxy)
    replace_part(monkeypatch, "mesh.demo.app", demo)
    assert (
        run(
            ["proxy", "--host", "127.0.0.1", "--data-port", "0", "--policy", "p.yaml"],
            {"DEVROUTE_ADMIN_PORT": "0"},
        )
        == 0
    )
    assert run(["demo", "--keep", "--service", "orders"], {}) == 0
    settings, keep = seen
    assert isinstance(settings, ProxySettings)
    assert (settings.data_host, settings.admin_host, settings.data_port, settings.admin_port) == (
        "127.0.0.1",
        "127.0.0.1",
        0,
        0,
    )
    assert (settings.control_port, settings.policy, keep) == (8081, Path("p.yaml"), (True, "orders"))


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        (["up"], 20, "not set up yet: services missing"),
        (["up", "foo"], 20, "command line: services: 'foo': write SERVICE=PORT"),
        (["up", "foo=1", "--server", "nowhere"], 20, "command line: --server: 'nowhere' is not a URL"),
        (["proxy", "--data-port", "70000"], 20, "command line: --data-port: "),
        (["proxy", "--data-port", "x"], 2, "--data-port"),
        (["ls", "--output", "xml"], 20, "command line: --output: "),
        (["ls", "--proxy", "socks5://x"], 20, "command line: --proxy: a proxy of type 'socks5'"),
        (["up", "foo=1", "--except-methods", "FOO"], 20, "--except-methods: 'FOO' is not a method of HTTP"),
        (["up", "foo=1", "--ca-file", "/no/ca.pem"], 20, "/no/ca.pem: No such file"),
        (["doctor", "--ca-file", "/no/ca.pem"], 20, ""),
        (["doctor", "notaurl"], 2, "'notaurl' is not a URL in the mesh; write one like http://a.qa.example/"),
        (["doctor", "a.qa:80/x"], 2, "'a.qa:80/x' is not a URL in the mesh; write one like http://a.qa:80/x"),
        (
            ["trace", "curl", "-s", "http://a/"],
            2,
            "write -- before the command: devroute trace -- curl -s http://a/",
        ),
        (["trace", "http://a/"], 2, "write -- before the command: devroute trace -- curl http://a/"),
        (["trace", "--", "http://a/"], 20, "hint: devroute trace -- curl http://a/"),
        (["up", "b=1", "--timeout", "5"], 2, "--timeout: only applies with --wait"),
        (["nonsense"], 2, "No such command"),
        (["contract", "check"], 2, "CONTRACT"),
        (["ls", "--server", "http://127.0.0.1:1"], 40, "http://127.0.0.1:1 cannot be reached"),
    ],
)
def test_wrong_input_has_an_exit_code_and_a_reason(
    line: list[str], code: int, said: str, capsys: Captured
) -> None:
    assert run(line, CONFIGURED) == code
    error = capsys.readouterr().err
    assert said in error
    assert SECRET not in error


def test_a_password_in_a_flag_is_warned_of(capsys: Captured) -> None:
    line = ["ls", "--server", "http://127.0.0.1:1", "--proxy", "http://me:hunter2@127.0.0.1:1"]
    assert run(line, CONFIGURED) == 40
    said = capsys.readouterr().err
    assert ("ps shows the password" in said, "hunter2" in said) == (True, False)
    assert run([*line[:-1], "off"], CONFIGURED) == 40
    assert "ps" not in capsys.readouterr().err


def test_a_variable_is_named_as_it_is_written(capsys: Captured) -> None:
    assert run(["ls"], CONFIGURED | {"DEVROUTE_FORWARD_PROXY": "socks5://x"}) == 20
    assert "the environment: DEVROUTE_FORWARD_PROXY: a proxy of type" in capsys.readouterr().err


def test_a_wrong_configuration_file_is_named(capsys: Captured, tmp_path: Path) -> None:
    (tmp_path / "devroute.yaml").write_text("serber: x")
    assert run(["ls"], {}) == 20
    assert "devroute.yaml: there is no setting 'serber'" in capsys.readouterr().err
    (tmp_path / "devroute.yaml").write_bytes(b"\xff")
    assert run(["ls"], {}) == 20
    assert "devroute.yaml: not UTF-8" in capsys.readouterr().err


# --- ls and status ------------------------------------------------------------------------------------------


#: As registry.py lists them.
TUNNELLED = {"scheme": "http", "via": "tunnel", "address": None}
DIRECT = {"service": "foo", "scheme": "http", "via": "direct", "address": "10.0.0.1:8001"}


class Directory:
    laptops: Sequence[Mapping[str, object]] = ()

    def lookup(self, name: str, service: str) -> LaptopService:
        raise LaptopOffline(name)

    def listing(self) -> Sequence[Mapping[str, object]]:
        return self.laptops

    def count(self) -> int:
        return len(self.laptops)


async def permit(address: Address, service: str) -> None:
    return None


async def test_ls_and_status_show_the_server_in_text_and_json(capsys: Captured) -> None:
    directory = Directory()
    authenticate = Authenticator(lambda: Tokens((RECORD,))).authenticate
    runner = create_runner(create_app(Control(directory, Policy, authenticate, permit, 1.0)))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"ws://127.0.0.1:{runner.addresses[0][1]}/"

    async def devroute_prints(*line: str, token: str = SECRET) -> tuple[int, str, str]:
        environment = {"DEVROUTE_SERVER": url, "DEVROUTE_TOKEN": token}
        code = await asyncio.to_thread(run, line, environment)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    assert "no laptop is online" in (await devroute_prints("ls"))[1]
    directory.laptops = [
        {"name": "alice", "services": [TUNNELLED | {"service": "foo"}, TUNNELLED | {"service": "bar"}]},
        {"name": "bob-2", "services": [DIRECT]},
    ]
    assert (await devroute_prints("ls"))[:2] == (
        0,
        "NAME   SERVICES\nalice  foo (tunnel), bar (tunnel)\nbob-2  foo (10.0.0.1:8001)\n",
    )
    code, out, _ = await devroute_prints("ls", "--output", "json")
    assert json.loads(out)["laptops"] == directory.laptops
    code, out, _ = await devroute_prints("status")
    shown = dict(re.split("  +", line, maxsplit=1) for line in out.splitlines())
    assert (code, shown["you"], shown["laptops"]) == (0, "alice", "2 are online")
    assert shown["server"].startswith(f"{url.rstrip('/')} (devroute {devroute.__version__}, up for ")
    assert shown["token"] == "does not expire"
    assert shown["contracts"] == "may name every service, and need no signature"
    assert shown["without a tunnel"] == "no laptop is reached"
    assert json.loads((await devroute_prints("status", "--output", "json"))[1])["you"] == "alice"
    code, out, err = await devroute_prints("ls", token="dvr_wrong")
    assert (code, out, "the token is not known" in err, "dvr_wrong" in err) == (30, "", True, False)
    await runner.cleanup()


async def test_a_server_that_is_not_devroute_is_reported(capsys: Captured) -> None:
    async def page(request: web.Request) -> web.Response:
        return web.Response(text="<html>hello</html>")

    app = web.Application()
    app.router.add_get("/api/laptops", page)
    runner = create_runner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    environment = {"DEVROUTE_SERVER": f"http://127.0.0.1:{runner.addresses[0][1]}", "DEVROUTE_TOKEN": SECRET}
    assert await asyncio.to_thread(run, ["ls"], environment) == 40
    assert "is not devroute's control port" in capsys.readouterr().err
    await runner.cleanup()


def test_a_status_of_another_release_is_shown_as_far_as_it_is_understood() -> None:
    document = {
        "you": "ci",
        "groups": ["qa", "dev"],
        "token_expires_s": 7300,
        "you_may_register": ["b", "c"],
        "you_may_reach": [
            {
                "services": ["*"],
                "namespaces": ["shop"],
                "hosts": [],
                "ports": ["1-65535"],
                "protocols": ["http"],
            },
            {
                "services": ["orders-db"],
                "namespaces": ["data"],
                "hosts": ["db.acme.example"],
                "ports": ["5432"],
                "protocols": ["tcp"],
            },
        ],
        "laptops": 1,
        "entries": {"a": "https://a.qa.example", "shop": "https://shop.qa.example"},
        "replicas": 2,
        "registry": "unavailable",
        "policy": {
            "networks": ["10.0.0.0/8"],
            "ports": ["80"],
            "services": [],
            "signed_contracts_only": True,
        },
        "new_thing": {"a": True},
    }
    assert describe_status("http://s", document) == [
        "server            http://s (devroute -)",
        "you               ci, in the groups qa, dev",
        "token             expires in 2 hours 1 minute",
        "you may register  b, c",
        "you may reach     every service in shop by http;"
        " orders-db in data and db.acme.example at ports 5432 by tcp",
        "laptops           1 is online",
        "contracts         may name no service, and must be signed",
        "without a tunnel  10.0.0.0/8; ports 80",
        "called at         https://a.qa.example, https://shop.qa.example",
        "registry          unavailable: a laptop that dials now is known to its own replica alone",
        "replicas          2",
        "new thing         a: yes",
    ]
    assert "you may reach     no service of the mesh" in describe_status("http://s", {"you_may_reach": []})
    shown = describe_status("http://s", {"replicas": 2, "registry": "available", "entries": {}})
    assert not any(line.startswith(("registry", "called", "entries")) for line in shown)


def test_the_status_of_this_machine_has_the_local_ports_into_the_mesh() -> None:
    ports = [{"service": "c.shop:80", "local": "127.0.0.1:26509"}]
    process = {"name": "alice", "server": "http://s", "pid": 1, "online": True}
    assert describe_running([{**process, "reach": {"ports": ports, "proxy": 1080}}, process]) == [
        "alice is online at http://s (process 1)",
        "  c.shop:80 is reached at 127.0.0.1:26509",
        "  SOCKS and HTTP proxy: 127.0.0.1:1080",
        "alice is online at http://s (process 1)",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 seconds"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "1 minute 1 second"),
        (600, "10 minutes"),
        (659, "10 minutes"),
        (8 * 3600, "8 hours"),
        (8 * 3600 - 1, "7 hours 59 minutes"),
        (2 * 86_400 - 1, "1 day 23 hours"),
        (12.9 * 86_400, "12 days"),
    ],
)
def test_a_span_of_time_is_not_rounded_down_by_much(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_a_table_shows_no_control_characters() -> None:
    assert table([{"a": "x\x1b[31m", "b_c": True}]) == "A       B C\nx?[31m  yes"


# --- the process --------------------------------------------------------------------------------------------


def test_every_command_has_help_with_an_example(capsys: Captured) -> None:
    for line in (
        ["up"],
        ["proxy"],
        ["demo"],
        ["ls"],
        ["status"],
        ["contract", "check"],
        ["token", "new"],
        ["version"],
    ):
        assert run([*line, "--help"], {}) == 0
        assert f"Example: devroute {' '.join(line)}" in capsys.readouterr().out


def test_version_is_printed_by_the_installed_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "devroute", "--version"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout == f"devroute {devroute.__version__}\n"


def test_ctrl_c_ends_a_command_with_130_and_no_traceback() -> None:
    """`ls` with a server that accepts and never responds."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = subprocess.Popen(
            [sys.executable, "-m", "devroute", "ls", "--server", f"http://127.0.0.1:{port}"],
            env={**os.environ, "DEVROUTE_TOKEN": SECRET},
            stderr=subprocess.PIPE,
            text=True,
        )
        listener.settimeout(20)
        connection, _ = listener.accept()
        with connection:
            connection.recv(1)
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in error
