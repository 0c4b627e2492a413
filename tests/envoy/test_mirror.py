"""Mirrored requests through real Envoy and the real proxy: complete where the target works, and never at the
cost of the request itself."""

import asyncio
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from devroute.mesh.istio.sidecar import Endpoint
from tests.envoy import app as big
from tests.envoy.harness import serving
from tests.envoy.real import Mesh, real_mesh
from tests.support.eventually import PATIENCE_S
from tests.support.ports import free_port

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

SIZE = 20 * 1024 * 1024
COPIES = [bytes(piece) for piece in big.pieces(SIZE)]
CHECK = zlib.crc32(b"".join(COPIES))


async def checksum(request: web.Request) -> dict[str, Any]:
    size = check = 0
    async for piece in request.content.iter_any():
        size, check = size + len(piece), zlib.crc32(piece, check)
    return {
        "method": request.method,
        "path": request.path_qs,
        "host": request.host,
        "size": size,
        "check": check,
    }


async def counted(request: web.Request) -> web.Response:
    return web.json_response({"who": "app", **await checksum(request)})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with real_mesh(tmp_path_factory.mktemp("mirror")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def foo(mesh: Mesh) -> str:
    return await mesh.sidecar("foo", await mesh.stack.enter_async_context(serving(counted)))


async def pieces() -> AsyncIterator[bytes]:
    for piece in COPIES:
        yield piece


def post(mesh: Mesh, url: str, target: Endpoint, **more: object) -> Any:
    contract = {"foo": {"to": f"{target.host}:{target.port}", "mirror": True, **more}}
    return mesh.client.post(url, headers={"x-devroute": json.dumps(contract)}, data=pieces())


async def upload(mesh: Mesh, foo: str, target: Endpoint) -> str:
    """Send 20 MB in chunks; the result after the real service has had all of them in time."""
    began = time.monotonic()
    async with post(mesh, foo, target) as response:
        seen = await response.json()
        assert (response.status, seen["who"], seen["size"], seen["check"]) == (200, "app", SIZE, CHECK)
        assert time.monotonic() - began < PATIENCE_S
        return str(response.headers["x-devroute-result"])


@asynccontextmanager
async def raw(talk: Callable[[asyncio.StreamReader], Any]) -> AsyncIterator[Endpoint]:
    """A target below HTTP: `talk` decides what is read of each connection."""
    over = asyncio.Event()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await talk(reader)
        await over.wait()
        writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=4096)
    try:
        yield Endpoint(*server.sockets[0].getsockname()[:2])
    finally:
        over.set()
        server.close()


# --- the copy ----------------------------------------------------------------------------------------------


async def test_a_mirrored_upload_of_20_mb_arrives_at_both_targets(mesh: Mesh, foo: str) -> None:
    copies: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def target(request: web.Request) -> web.Response:
        copies.put_nowait(await checksum(request))
        return web.Response(status=500, headers={"x-devroute-result": "error"})

    async with serving(target) as laptop:
        assert await upload(mesh, foo + "/up?a=b", laptop) == "mirror"
        async with asyncio.timeout(PATIENCE_S):
            copy = await copies.get()
    host, port = foo.removeprefix("http://").split(":")
    assert copy == {
        "method": "POST",
        "path": "/up?a=b",
        "host": f"{host}-shadow:{port}",
        "size": SIZE,
        "check": CHECK,
    }


async def test_a_share_of_requests_is_copied(mesh: Mesh, foo: str) -> None:
    copied = asyncio.Semaphore(0)

    async def target(_: web.Request) -> web.Response:
        copied.release()
        return web.Response()

    async with serving(target) as laptop:
        contract = {"foo": {"to": f"{laptop.host}:{laptop.port}", "mirror": True, "percent": 50}}
        headers = {"x-devroute": json.dumps(contract)}
        results = []
        for _ in range(100):
            async with mesh.client.get(foo, headers=headers) as response:
                assert (await response.json())["who"] == "app"
                results.append(response.headers["x-devroute-result"])
        count = results.count("mirror")
        assert set(results) == {"mirror", "service"}
        assert 20 < count < 80  # 50 ± 6 sigma
        async with asyncio.timeout(PATIENCE_S):
            for _ in range(count):
                await copied.acquire()
        assert copied.locked()


# --- never at the request's cost ---------------------------------------------------------------------------


async def nothing(_: asyncio.StreamReader) -> None:
    pass


async def the_head(reader: asyncio.StreamReader) -> None:
    await reader.readuntil(b"\r\n\r\n")


async def a_little(reader: asyncio.StreamReader) -> None:
    await reader.readexactly(100_000)


@pytest.mark.parametrize("talk", [nothing, the_head, a_little])
async def test_a_target_that_hangs_delays_no_request(mesh: Mesh, foo: str, talk: Any) -> None:
    async with raw(talk) as hung:
        assert await upload(mesh, foo, hung) == "mirror"
        # And the next ones neither, beside the copies that still wait.
        assert [await upload(mesh, foo, hung) for _ in range(2)] == ["mirror"] * 2


async def test_a_target_that_is_absent_delays_no_request(mesh: Mesh, foo: str) -> None:
    gone = Endpoint("127.0.0.1", free_port())
    assert await upload(mesh, foo, gone) == "fallback"
    contract = json.dumps({"foo": {"to": "nobody", "mirror": True}})
    async with mesh.client.post(foo, headers={"x-devroute": contract}, data=pieces()) as response:
        assert (await response.json())["size"] == SIZE
        assert "not online" in response.headers["x-devroute-reason"]


async def test_a_target_that_disconnects_in_the_middle_delays_no_request(mesh: Mesh, foo: str) -> None:
    connected = asyncio.Event()

    async def breaks_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100_000)
        connected.set()
        writer.transport.abort()

    server = await asyncio.start_server(breaks_off, "127.0.0.1", 0)
    async with server:
        assert await upload(mesh, foo, Endpoint(*server.sockets[0].getsockname()[:2])) == "mirror"
        await asyncio.wait_for(connected.wait(), PATIENCE_S)


async def test_a_proxy_that_dies_with_the_copy_delays_no_request(tmp_path: Path) -> None:
    async with real_mesh(tmp_path) as mesh, raw(the_head) as hung:
        foo = await mesh.sidecar("foo", await mesh.stack.enter_async_context(serving(counted)))

        async def body() -> AsyncIterator[bytes]:
            for number, piece in enumerate(COPIES):
                if number == 50:
                    mesh.proxy.command.process.kill()
                yield piece

        contract = {"foo": {"to": f"{hung.host}:{hung.port}", "mirror": True}}
        headers = {"x-devroute": json.dumps(contract)}
        async with mesh.client.post(foo, headers=headers, data=body()) as response:
            seen = await response.json()
        assert (seen["who"], seen["size"], seen["check"]) == ("app", SIZE, CHECK)


async def test_upgrades_and_long_bodies_are_not_copied(mesh: Mesh, foo: str) -> None:
    async def socket(request: web.Request) -> web.StreamResponse:
        answer = web.WebSocketResponse()
        await answer.prepare(request)
        async for message in answer:
            await answer.send_str(f"heard {message.data}")
        return answer

    async with serving(socket) as app, serving(socket) as laptop:
        url = await mesh.sidecar("foo", app, "foo-socket")
        contract = {"foo": {"to": f"{laptop.host}:{laptop.port}", "mirror": True}}
        headers = {"x-devroute": json.dumps(contract)}
        async with mesh.client.ws_connect(url, headers=headers) as connection:
            await connection.send_str("hello")
            assert await connection.receive_str(timeout=PATIENCE_S) == "heard hello"


async def test_the_memory_of_a_proxy_with_waiting_copies_is_bounded(mesh: Mesh, foo: str) -> None:
    def resident() -> int:
        status = Path(f"/proc/{mesh.proxy.command.process.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) // 1024

    before = resident()
    async with raw(the_head) as hung:
        assert [await upload(mesh, foo, hung) for _ in range(14)] == ["mirror"] * 14
        assert resident() - before < 192  # MiB; the uploads are 280, and shadow.py keeps 128 at most
    async with aiohttp.ClientSession() as client, client.get(foo) as response:
        assert response.status == 200
