"""Runs what README and the pages for users show: every `devroute` line, and the policy beside it."""

import asyncio
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from devroute.mesh import testbed
from devroute.policy import explain
from devroute.policy.policy import Policy
from tests.support.eventually import eventually
from tests.support.paths import ROOT

#: In the order in which one makes files that the next reads.
PAGES = [
    "quickstart-platform-team",
    "contract",
    "quickstart-qa",
    "quickstart-engineer",
    "results",
    "inspector",
]
TEXT = "".join(
    path.read_text(encoding="utf-8")
    for path in [*(ROOT / "docs" / f"{name}.md" for name in PAGES), ROOT / "README.md"]
)

COMMANDS = list(
    dict.fromkeys(
        line.partition(" #")[0].strip()
        for line in re.findall(
            r"^ {4,}(devroute .*)$", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL), re.MULTILINE
        )
        # The fixture runs the proxy; the tests of init, replay and curl run those.
        if not line.startswith(("devroute proxy", "devroute init", "devroute replay", "devroute curl"))
    )
)
UP = [command for command in COMMANDS if command.startswith("devroute up")]
#: Takes the place of the app in `devroute up ... -- uvicorn app:app`.
UVICORN = f"#!{sys.executable}\nimport sys\nsys.exit(sys.argv[1:] != ['app:app'])\n"
#: Takes the place of curl in `devroute trace -- curl ...`.
CURL = f"#!{sys.executable}\nimport sys\nsys.exit(not any('x-devroute-trace' in each for each in sys.argv))\n"


class Readme:
    """The folder of a reader, with a proxy started by its lines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {"HOME": str(folder), "PATH": str(folder / "bin"), "PYTHONUNBUFFERED": "1"}

    async def run(self, line: str) -> asyncio.subprocess.Process:
        words = shlex.split(line)
        assert words[0] == "devroute"
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "devroute", *words[1:]),
            cwd=self.folder,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def succeeds(self, line: str) -> None:
        process = await self.run(line)
        output, _ = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0, f"{line}: {output.decode()}"

    async def stays_online(self, line: str) -> None:
        """Until Ctrl-C, or until its child process has ended."""
        if " -- " in line:
            await self.succeeds(line)
            return
        process = await self.run(line)
        assert process.stdout is not None
        seen = b""
        async with asyncio.timeout(20):
            while b"X-devroute: " not in seen:
                more = await process.stdout.read(4096)
                assert more, f"{line}: {seen.decode()}"
                seen += more
        process.send_signal(signal.SIGINT)
        rest, _ = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 130, f"{line}: {(seen + rest).decode()}"
        if line == "devroute up b=8001":
            assert """curl -H 'X-devroute: {"b": "alice"}'""" in seen.decode()


@pytest.fixture
async def readme(tmp_path: Path) -> AsyncIterator[Readme]:
    readme = Readme(tmp_path)
    policy = re.search(r"```yaml\n( *# policy\.yaml\n.*?)```", TEXT, re.DOTALL)
    assert policy is not None
    (tmp_path / "policy.yaml").write_text(policy[1], encoding="utf-8")
    (tmp_path / "bin").mkdir()
    for name, text in [("uvicorn", UVICORN), ("curl", CURL)]:
        stub = tmp_path / "bin" / name
        stub.write_text(text, encoding="utf-8")
        stub.chmod(0o755)
    made = await readme.run("devroute token new alice --file tokens.yaml")
    output, _ = await made.communicate()
    secret = output.decode().split()[0]
    proxy_line = re.search(r"^ {4}devroute (proxy .*)$", TEXT, re.MULTILINE)
    assert proxy_line is not None
    ports = ("--host", "127.0.0.1", "--data-port", "0", "--control-port", "0", "--admin-port", "0")
    async with testbed.command(tmp_path, "proxy", (*shlex.split(proxy_line[1]), *ports), {}) as proxy:
        ready = await eventually(
            lambda: [each for each in proxy.events() if each.get("event") == "proxy.ready"],
            "the proxy is ready",
            process=proxy,
        )
        readme.environment |= {
            "DEVROUTE_SERVER": f"http://127.0.0.1:{ready[0]['control_port']}",
            "DEVROUTE_TOKEN": secret,
        }
        yield readme


def test_the_policy_of_the_pages_draws_no_warning() -> None:
    found = re.search(r"```yaml\n( *# policy\.yaml\n.*?)```", TEXT, re.DOTALL)
    assert found is not None
    assert explain.remarks(Policy.parse(found[1])) == []


def test_the_pages_show_commands() -> None:
    assert len(COMMANDS) >= 8
    assert len(UP) >= 4


async def test_every_command_of_the_pages_works(readme: Readme) -> None:
    """In order, since one makes files that the next reads; beside them the laptops, one at a time."""
    others = [line for line in COMMANDS if line not in UP]

    async def each(lines: list[str], works: Callable[[str], Awaitable[None]]) -> None:
        for line in lines:
            await works(line)

    async with asyncio.TaskGroup() as group:
        group.create_task(each(UP, readme.stays_online))
        group.create_task(each(others, readme.succeeds))
