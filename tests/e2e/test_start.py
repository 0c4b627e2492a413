"""What the processes have imported once they are up: half of a start is imports, and each stays in memory."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from devroute.auth.tokens import new_token
from devroute.mesh.envoy import stop
from tests.support.ports import free_port

#: By command: what may not have been imported when it is online, or ready.
NOT_YET = {
    "up": {
        *("aiohttp", "attr", "cryptography", "ctypes", "email", "h2", "hpack", "hyperframe", "jwt"),
        *("importlib.metadata", "multidict", "prometheus_client", "pygments", "redis", "rich.console"),
        *("structlog", "yaml", "yarl", "devroute.agent.child_process", "devroute.agent.comparisons"),
        *("devroute.agent.control.server", "devroute.agent.host_header", "devroute.agent.login"),
        *("devroute.inspector.history", "devroute.inspector.server", "devroute.mesh", "devroute.proxy"),
    },
    "proxy": {
        *("aiohttp", "aiosignal", "attr", "cryptography", "frozenlist", "jwt", "multidict", "opentelemetry"),
        *("prometheus_client", "propcache", "pygments", "redis", "rich.console", "yarl", "devroute.agent"),
        *("devroute.auth.jwks_fetch", "devroute.inspector", "devroute.mesh", "devroute.proxy.aiohttp_app"),
        *("devroute.replicas.shared_registry", "devroute.proxy.telemetry.tracing"),
    },
}
_IMPORTED = re.compile(rb"import time: +\d+ \| +\d+ \| +(\S+)")


class Started:
    """A process of ours. `imported`: its modules, as far as its output has been read."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.imported: set[str] = set()

    async def says(self, text: bytes) -> bytes:
        """The rest of the line that has this text."""
        assert self.process.stdout is not None
        said = b""
        while line := await self.process.stdout.readline():
            if (found := _IMPORTED.match(line)) is not None:
                self.imported.add(found[1].decode())
            elif text in line:
                return line.partition(text)[2].strip()
            else:
                said += line
        pytest.fail(said.decode())

    def loaded(self, names: Iterable[str]) -> set[str]:
        return {name for name in names if any(f"{each}.".startswith(f"{name}.") for each in self.imported)}


@asynccontextmanager
async def started(folder: Path, *arguments: str) -> AsyncIterator[Started]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-X", "importtime", "-m", "devroute", *arguments),
        cwd=folder,
        env={"HOME": str(folder), "DEVROUTE_TOKEN": (folder / "secret").read_text(encoding="utf-8")},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Started(process)
    finally:
        await stop(process)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    secret, record = new_token("alice")
    (tmp_path / "tokens.yaml").write_text(record.as_yaml(), encoding="utf-8")
    (tmp_path / "secret").write_text(secret, encoding="utf-8")
    (tmp_path / "policy.yaml").write_text('services: ["*"]\n', encoding="utf-8")
    return tmp_path


@asynccontextmanager
async def proxy(folder: Path, control: int) -> AsyncIterator[Started]:
    files = ("--policy", "policy.yaml", "--tokens", "tokens.yaml", "--host", "127.0.0.1")
    ports = ("--data-port", "0", "--control-port", str(control), "--admin-port", "0")
    async with started(folder, "proxy", *files, *ports) as it:
        await it.says(b'"proxy.ready"')
        yield it


async def test_what_is_imported_until_a_process_is_up(folder: Path) -> None:
    """What serves the page of `up`, and the proxy's API, is loaded for its first client, and those that come
    meanwhile wait too."""
    control, page = free_port(), free_port()
    url = f"http://127.0.0.1:{control}"
    async with (
        proxy(folder, control) as server,
        started(folder, "up", "b=8001", "--server", url, "--inspector", str(page)) as agent,
    ):
        assert "devroute.proxy.app" in server.imported
        assert server.loaded(NOT_YET["proxy"]) == set()
        link = (await agent.says(b"Inspector: ")).decode()
        assert {"devroute.agent.app", "devroute.inspector.port"} <= agent.imported
        assert agent.loaded(NOT_YET["up"]) == set()
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            answers = await asyncio.gather(*(browser.get(f"http://127.0.0.1:{page}/") for _ in range(3)))
            assert [answer.status for answer in answers] == [401] * 3  # all that wait for it
            async with browser.get(link) as shown:
                assert (shown.status, shown.content_type) == (200, "text/html")
            answers = await asyncio.gather(*(browser.get(f"{url}/api/status") for _ in range(3)))
            assert [answer.status for answer in answers] == [401] * 3
