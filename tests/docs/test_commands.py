"""Runs every command that a page shows, as a reader would who goes through the pages in their order.

A proxy runs beside them by the quickstart's lines, and a laptop of alice's is online. Each program has a
handler; a command without one fails the test, so that no page can show what nothing runs. What takes minutes,
a terminal or a cluster is run by the test that ELSEWHERE names.
"""

import asyncio
import json
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from devroute.contract import grammar
from devroute.contract.name import is_named, parse_name
from devroute.headers import CONTRACT
from devroute.mesh.manifests.registry import Registry
from tests.docs import pages
from tests.docs.warm_start import Run, WarmStart, warm_start
from tests.support import grpc_shop
from tests.support.eventually import eventually
from tests.support.paths import ROOT

PLATFORM = ROOT / "docs" / "quickstart-platform-team.md"
CONTRACT_PAGE = ROOT / "docs" / "contract.md"
#: In the order in which one makes files that others read.
ORDER = [PLATFORM, CONTRACT_PAGE, *(page for page in pages.PAGES if page not in (PLATFORM, CONTRACT_PAGE))]
COMMANDS = list({each.text: each for page in ORDER for each in pages.commands(page)}.values())

#: Commands by their first words, and the test that runs them.
ELSEWHERE = {
    "devroute doctor http://a.qa.example/": (
        "tests/envoy/test_doctor.py::test_the_round_trip_passes_the_mesh_or_reports_where_it_ended"
    ),
    "devroute login": (
        "tests/sso/test_login.py::test_a_login_is_used_by_every_command_until_logout_ends_it_everywhere"
    ),
    "devroute init": "tests/cli/test_init.py::test_a_prompt_is_repeated_after_a_refusal_and_shows_no_token",
    "python3 devroute.pyz": (
        "tests/packaging/test_package.py::test_the_single_file_runs_from_another_folder"
    ),
    "make demo": ("tests/mesh/demo/test_demo.py::test_an_app_of_one_s_own_joins_the_demo_in_two_lines"),
    "devroute curl --expect": "tests/envoy/test_trace.py::test_curl_fails_if_another_one_answered",
    "devroute expect": (
        "tests/envoy/test_trace.py::test_expect_waits_for_who_is_named_or_reports_who_responded"
    ),
    "devroute mcp": "tests/agent/mcp/test_server.py::test_status_shows_what_runs_here_and_who_the_user_is",
    "curl --proxy": "tests/agent/reach/test_clients.py::test_curl_uses_the_proxy_port_in_each_form",
    "pytest --devroute": (
        "tests/pytest_plugin/test_plugin.py"
        "::test_the_tests_requests_have_the_contract_and_the_summary_says_who_answered"
    ),
    "devroute up b=8001 --detach": (
        "tests/cli/test_background.py"
        "::test_it_is_online_and_its_app_listens_when_the_command_returns_and_down_ends_both"
    ),
    "devroute down": (
        "tests/cli/test_background.py"
        "::test_it_is_online_and_its_app_listens_when_the_command_returns_and_down_ends_both"
    ),
    "curl --unix-socket": (
        "tests/agent/control/test_control.py::test_curl_asks_a_running_agent_as_the_page_shows"
    ),
    "devroute admin": "tests/cli/test_dashboard.py::test_an_administrator_ends_blocks_lists_and_unblocks",
    "make test-istio": "tests/istio/test_main_job.py",  # by .ci/run
    "python -m tests.istio": "tests/istio/test_main_job.py",  # the same rig
}
#: Proxies that the commands start listen on free ports of loopback.
PORTS = ["--host", "127.0.0.1", "--data-port", "0", "--control-port", "0", "--admin-port", "0"]
#: Stands for the app in `devroute up ... -- uvicorn app:app`.
UVICORN = f"#!{sys.executable}\nimport sys\nsys.exit(sys.argv[1:] != ['app:app'])\n"
#: curl, which finds each host at the same port of this machine.
CURL = """#!{python} -IS
import os, sys
words = [each.replace("https://", "http://") for each in sys.argv[1:]]
os.execv({curl!r}, ["curl", "--connect-to", "::127.0.0.1:{port}", *words])
"""
ANSWER = (
    b"HTTP/1.1 200 OK\r\nx-devroute-result: laptop\r\nx-devroute-reason: laptop: alice\r\n"
    b"content-type: application/json\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}"
)
HAR = {
    "log": {
        "version": "1.2",
        "creator": {"name": "a browser", "version": "1"},
        "entries": [
            {
                "startedDateTime": "2026-01-01T00:00:00Z",
                "time": 1,
                "request": {"method": "GET", "url": "http://a.qa.example/", "headers": []},
                "response": {
                    "status": 200,
                    "headers": [{"name": "content-type", "value": "application/json"}],
                    "content": {"mimeType": "application/json", "text": "{}"},
                },
            }
        ],
    }
}


def elsewhere(command: pages.Command) -> str | None:
    found = [test for start, test in ELSEWHERE.items() if f"{command.text} ".startswith(f"{start} ")]
    return found[0] if found else None


class Reader:
    """Types the commands of the pages in one folder."""

    def __init__(self, warm: WarmStart, folder: Path, environment: dict[str, str]) -> None:
        self.warm = warm
        self.folder = folder
        self.environment = environment
        self.heads: list[str] = []
        self.entry_port = 0
        self.handlers: dict[str, Callable[[list[str], str], Awaitable[str]]] = {
            "devroute": self.devroute,
            "curl": self.curl,
            "kubectl": self.kubectl,
            "helm": self.helm,
            "make": self.make,
            "pip": self.install,
            "pipx": self.install,
        }

    async def run(self, command: pages.Command) -> None:
        """A line, which may be a pipeline. Raises AssertionError."""
        lexer = shlex.shlex(command.text, posix=True, punctuation_chars="|")
        lexer.whitespace_split = True
        output, words = "", list(lexer)
        while words:
            cut = words.index("|") if "|" in words else len(words)
            argv, words = words[:cut], words[cut + 1 :]
            assert argv[0] in self.handlers, f"{command}: no handler for {argv[0]}, and not ELSEWHERE"
            try:
                output = await self.handlers[argv[0]](argv[1:], output)
            except AssertionError as error:
                raise AssertionError(f"{command}: {error}") from error

    async def start(self, argv: list[str], **environment: str) -> Run:
        return await self.warm.start(argv, self.folder, {**self.environment, **environment})

    async def devroute(self, argv: list[str], _: str) -> str:
        if argv[0] == "up" and "--" not in argv:
            return await self.until(argv, "X-devroute: ")
        if argv[0] == "reach":
            return await self.until(argv, "SOCKS")
        if argv == ["ls", "--watch"]:
            return await self.until(argv, "online")
        if argv[0] == "proxy":
            # /var is not ours; everything else is as the page has it.
            argv = [each.replace("/var/log/devroute", str(self.folder)) for each in argv]
            # There is no Redis behind that name, without which a replica starts, too.
            argv = [each.replace("redis.devroute:6379", "127.0.0.1:1") for each in argv]
            return await self.until([*argv, *PORTS], '"proxy.ready"', DEVROUTE_PEER_PORT="0")
        if argv[0] == "replay":
            argv = [str(self.entry_port) if each == "8001" else each for each in argv]
        seen = len(self.heads)
        run = await self.start(argv)
        code = await asyncio.wait_for(run.code, 20)
        assert code == 0, f"exit code {code}: {run.output}"
        if argv[0] == "curl":
            self.carry_contracts(seen)
        return run.output

    async def until(self, argv: list[str], text: str, **environment: str) -> str:
        """Start what runs until Ctrl-C, and press it once its output has this text."""
        run = await self.start(argv, **environment)
        await eventually(lambda: text in run.output or run.code.done(), f"{argv}: {text}")
        assert text in run.output, run.output
        run.interrupt()
        code = await asyncio.wait_for(run.code, 20)
        assert code in (0, 130), f"exit code {code}: {run.output}"
        return run.output

    async def curl(self, argv: list[str], _: str) -> str:
        seen = len(self.heads)
        process = await asyncio.create_subprocess_exec(
            self.folder / "bin" / "curl", "-sS", *argv, stdout=asyncio.subprocess.PIPE
        )
        output, _errors = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0
        self.carry_contracts(seen)
        return output.decode()

    def carry_contracts(self, seen: int) -> None:
        """Each request since the first `seen` has a contract that sidecars understand."""
        assert len(self.heads) > seen, "no request was sent"
        for head in self.heads[seen:]:
            found = re.search(rf"^{CONTRACT}: (.*)\r$", head, re.IGNORECASE | re.MULTILINE)
            assert found, f"no contract: {head}"
            if is_named(found[1]):
                parse_name(found[1])
            else:
                grammar.parse(found[1])

    async def kubectl(self, argv: list[str], stdin: str) -> str:
        """What kubectl would look at first; tests/istio applies the manifests to a real API server."""
        names = {(each["kind"], each["metadata"]["name"]) for each in self.manifests(stdin)}
        match [each for each in argv if not each.startswith("--selector")]:
            case ["apply", "-f", "-"]:
                assert names, "nothing to apply"
            case ["apply", "-f", file]:
                assert all(each["kind"] for each in self.manifests((self.folder / file).read_text())), file
            case ["apply", "-k", folder] | ["delete", "--ignore-not-found", "--kustomize", folder]:
                base = self.folder / folder
                listed = yaml.safe_load((base / "kustomization.yaml").read_text())["resources"]
                assert all((base / each).exists() for each in listed), listed
            case ["-n", "devroute", "create", "secret", "generic", "devroute-registry", url]:
                (container,) = self.deployment()["spec"]["template"]["spec"]["containers"]
                (given,) = [each["valueFrom"] for each in container["env"] if "REGISTRY" in each["name"]]
                key = given["secretKeyRef"]["key"]
                Registry(url.removeprefix(f"--from-literal={key}="))
            case ["-n", "devroute", "create", "secret", "generic", _, source]:
                assert (self.folder / source.removeprefix("--from-file=")).exists(), source
            case ["--namespace", "shop", "delete", "envoyfilter", name]:
                assert re.fullmatch(r"devroute(-[a-z]+)?", name), name
            case ["delete", "envoyfilter", "--all-namespaces", *_]:
                labels = "app.kubernetes.io/part-of=devroute"
                assert labels in argv, argv
            case _:
                raise AssertionError(f"no case for kubectl {argv}")
        return ""

    async def helm(self, argv: list[str], _: str) -> str:
        """What Helm would look at first; tests/mesh/manifests/test_chart_helm.py renders it."""
        assert argv[:2] == ["install", "devroute"], argv
        chart = self.folder / argv[2]
        assert yaml.safe_load((chart / "Chart.yaml").read_text())["name"] == "devroute"
        options = dict(zip(argv[3::2], argv[4::2], strict=True))
        values = yaml.safe_load((chart / "values.yaml").read_text())
        own_namespace = options["--namespace"] == values["namespace"]
        assert own_namespace is (options.get("--set") == "createNamespace=false"), argv
        return ""

    def deployment(self) -> dict[str, Any]:
        return yaml.safe_load((self.folder / "mesh/base/deployment.yaml").read_text())

    @staticmethod
    def manifests(text: str) -> list[dict[str, dict[str, str]]]:
        return [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]

    async def install(self, argv: list[str], _: str) -> str:
        """From the checkout; tests/packaging does it."""
        match = re.fullmatch(r"install \.(?:\[(\w+)\])?", " ".join(argv))
        assert match, argv
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        assert match[1] in {None, *project["optional-dependencies"]}
        return ""

    async def make(self, argv: list[str], _: str) -> str:
        text = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in (each for each in argv if "=" not in each):
            assert re.search(rf"^{target}:", text, re.MULTILINE), f"no target {target}"
        return ""


@pytest.fixture
async def reader(tmp_path: Path) -> AsyncIterator[Reader]:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl")
    site, home, binaries = tmp_path / "site", tmp_path / "home", tmp_path / "home" / "bin"
    for each in (site, home, binaries):
        each.mkdir()
    async with AsyncExitStack() as stack:
        warm = await stack.enter_async_context(warm_start(tmp_path))
        reader = Reader(warm, home, {"HOME": str(home), "PATH": str(binaries), "PYTHONUNBUFFERED": "1"})

        async def serve(incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
            reader.heads.append((await incoming.readuntil(b"\r\n\r\n")).decode())
            outgoing.write(ANSWER)
            outgoing.close()

        entry = await stack.enter_async_context(await asyncio.start_server(serve, "127.0.0.1", 0))
        reader.entry_port = entry.sockets[0].getsockname()[1]
        (home / "shop.har").write_text(json.dumps(HAR), encoding="utf-8")
        shutil.copy(grpc_shop.PROTO, home)
        (home / "shop.binpb").write_bytes(grpc_shop.descriptor_set())
        wrapped = CURL.format(python=sys.executable, curl=curl, port=reader.entry_port)
        for name, text in [("uvicorn", UVICORN), ("curl", wrapped)]:
            (binaries / name).write_text(text, encoding="utf-8")
            (binaries / name).chmod(0o755)
        for name, text in pages.files(PLATFORM).items():
            (site / name).write_text(text, encoding="utf-8")
        made = await warm.start(["token", "new", "alice", "--file", "tokens.yaml"], site, {})
        assert await made.code == 0, made.output
        secret = made.output.split()[0]
        line = next(each.text for each in pages.commands(PLATFORM) if each.text.startswith("devroute proxy "))
        proxy = await warm.start([*shlex.split(line)[1:], *PORTS], site, {})
        ready = await eventually(lambda: re.search(r'.*"proxy.ready".*', proxy.output), "the proxy is ready")
        port = json.loads(ready[0])["control_port"]
        reader.environment |= {"DEVROUTE_SERVER": f"http://127.0.0.1:{port}", "DEVROUTE_TOKEN": secret}
        yield reader


async def test_every_command_of_every_page_works(reader: Reader) -> None:
    """Laptops one after the other, since they offer the same services. One is online beside the others."""
    mine = [each for each in COMMANDS if elsewhere(each) is None]
    up = [each for each in mine if each.text.startswith("devroute up ")]
    assert len(up) >= 4
    assert len(mine) >= 30
    online = await reader.start(["up", "b=8001"])
    await eventually(lambda: "X-devroute: " in online.output, "alice is online")
    assert """curl -H 'X-devroute: {"b": "alice"}'""" in online.output
    for command in (each for each in mine if each not in up):
        for name, text in pages.files(command.page).items():
            (reader.folder / name).write_text(text, encoding="utf-8")
        await reader.run(command)
    online.interrupt()
    assert await online.code == 130, online.output
    for command in up:
        await reader.run(command)


def test_the_tests_that_run_the_rest_exist() -> None:
    for test in ELSEWHERE.values():
        path, _, name = test.partition("::")
        assert f"def {name}" in (ROOT / path).read_text(encoding="utf-8")
    unused = [each for each in ELSEWHERE if not any(f"{it.text} ".startswith(f"{each} ") for it in COMMANDS)]
    assert unused == []
