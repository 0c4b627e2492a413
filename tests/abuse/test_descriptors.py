"""A client opens connections until the proxy has no descriptor left: health checks and reloads go on."""

import asyncio
import json
import resource
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.support.eventually import PATIENCE_S, eventually

LIMIT = 128

#: Runs the proxy with the standard loop, as where uvloop is not installed.
WITHOUT_UVLOOP = "import sys; sys.modules['uvloop'] = None; from devroute.cli.main import main; main()"
WITH_ANY = "from devroute.cli.main import main; main()"


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (LIMIT // 2, LIMIT))


Logged = Callable[[], list[dict[str, str]]]


@asynccontextmanager
async def proxy(folder: Path, script: str) -> AsyncIterator[tuple[dict[str, int], Logged]]:
    """Its ports, and what it has logged."""
    (folder / "policy.yaml").write_text("services: ['*']\n")
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script, "proxy", "--host", "127.0.0.1", "--policy", "policy.yaml"),
            *("--data-port", "0", "--control-port", "0", "--admin-port", "0"),
            cwd=folder,
            env={"HOME": str(folder), "DEVROUTE_RELOAD_INTERVAL": "0.5"},
            stderr=log,
            preexec_fn=limited,
        )

    def logged() -> list[dict[str, str]]:
        return [json.loads(line) for line in (folder / "log").read_text().splitlines() if line.endswith("}")]

    try:
        ready = await eventually(lambda: next((e for e in logged() if e["event"] == "proxy.ready"), None))
        yield {name: int(ready[f"{name}_port"]) for name in ("data", "control", "admin")}, logged
    finally:
        process.kill()
        await process.wait()


async def first_byte(reader: asyncio.StreamReader) -> bytes:
    """Of a response; b"" where the connection is refused, which is closed at once."""
    try:
        return await asyncio.wait_for(reader.read(1), PATIENCE_S)
    except ConnectionError:
        return b""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
@pytest.mark.parametrize("script", [WITHOUT_UVLOOP, WITH_ANY])
@pytest.mark.parametrize("port", ["data", "control"])
async def test_health_checks_and_reloads_go_on(tmp_path: Path, script: str, port: str) -> None:
    async with proxy(tmp_path, script) as (ports, logged), AsyncExitStack() as stack:
        closed = 0
        while closed < LIMIT // 2:
            reader, writer = await asyncio.open_connection("127.0.0.1", ports[port])
            stack.callback(writer.close)
            writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            closed += not await first_byte(reader)
        for _ in range(5):
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as session,
                session.get(f"http://127.0.0.1:{ports['admin']}/healthz") as response,
            ):
                assert response.status == 200
        (tmp_path / "policy.yaml").write_text("services: [foo]\n")
        await eventually(lambda: any(event["event"] == "file.loaded" for event in logged()))
        assert sum(event["event"] != "request" for event in logged()) < LIMIT // 4
