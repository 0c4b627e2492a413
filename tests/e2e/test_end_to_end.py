"""Raw HTTP/1.1 from the data port to an app, with real processes: direct, through the tunnel, and through the
tunnel of another replica.

Covers what Envoy handles itself: Expect, upgrades other than WebSocket, half-close.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import pytest
import pytest_asyncio

from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from tests.support.eventually import eventually
from tests.support.redis_server import NEEDED, SERVER, running_redis
from tests.support.resolve_reader import decode

pytestmark = pytest.mark.asyncio(loop_scope="module")

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

#: Seconds within which an app has to be cancelled once its client has gone (issue 3).
CANCEL_S = 0.1
#: So much more on a machine whose cores are all in use; without a cancellation it would never end.
BUSY_S = 19.0


@dataclass
class Way:
    """The way from a client to an app; `handler` serves each of its connections, one request each. `other`:
    the replica that has to forward requests for the laptop, None without a Redis."""

    proxy: testbed.RunningProxy
    other: testbed.RunningProxy | None
    app_port: int
    handler: Handler | None = None

    def forwarding(self) -> testbed.RunningProxy:
        """The other replica; skips the test where there is none."""
        if self.other is None:
            pytest.skip(NEEDED)
        return self.other

    async def dial(self, way: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        proxy = self.forwarding() if way == "forwarded" else self.proxy
        return await asyncio.open_connection(proxy.data.host, proxy.data.port)

    def head(self, way: str, method: str = "GET", fields: str = "") -> bytes:
        contract = json.dumps({"foo": f"127.0.0.1:{self.app_port}" if way == "direct" else "alice"})
        lines = (
            f"{method} /path HTTP/1.1\r\nhost: foo\r\nx-devroute: {contract}\r\nx-devroute-matched: foo\r\n"
        )
        return f"{lines}{fields}\r\n".encode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Way]:
    folder = tmp_path_factory.mktemp("way")
    secret, record = new_token("alice")
    way: Way | None = None

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if way is not None:  # before that, the agent looks whether the app listens
                assert way.handler is not None
                await way.handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    app = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = app.sockets[0].getsockname()[1]
    async with contextlib.AsyncExitStack() as stack:
        redis = {}
        if SERVER is not None:
            url = stack.enter_context(running_redis(folder)).url
            redis = {"DEVROUTE_REGISTRY": url, "DEVROUTE_PEER_PORT": "0"}
        proxy = await stack.enter_async_context(testbed.proxy(folder, [record], environment=redis))
        other = None
        if redis:
            (folder / "other").mkdir()
            other = await stack.enter_async_context(
                testbed.proxy(folder / "other", [record], environment=redis)
            )
        server = proxy.server
        laptop = testbed.laptop(folder, "alice", server, secret, f"foo=127.0.0.1:{port}")
        await stack.enter_async_context(laptop)
        way = served = Way(proxy, other, port)
        if other is not None:
            await eventually(lambda: is_served(served), "the other replica to serve the laptop")
        yield way
    app.close()


async def forwarded_head(way: Way, fields: str = "") -> bytes:
    """The head of the response to a request that the other replica forwards; the app responds 204."""

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n")

    way.handler = app
    reader, writer = await way.dial("forwarded")
    writer.write(way.head("forwarded", fields=fields))
    head = await read_head(reader)
    writer.close()
    return head


async def is_served(way: Way) -> bool:
    """Whether the other replica forwards requests."""
    head = await forwarded_head(way)
    return head.startswith(b"HTTP/1.1 204")


async def test_a_forwarded_request_stands_in_one_log_with_the_replica_of_the_laptop(running: Way) -> None:
    head = await forwarded_head(running, "x-request-id: only-once\r\n")
    assert b"x-devroute-result: laptop\r\nx-devroute-reason: foo answered by alice (tunnel)\r\n" in head
    (line,) = await eventually(
        lambda: lines_of(running.forwarding(), "only-once"), "a line of the access log"
    )
    assert line["replica"] == f"{running.proxy.data.host}:{running.proxy.data.port}"
    assert not lines_of(running.proxy, "only-once")


async def test_every_replica_names_the_one_that_has_the_laptop(running: Way) -> None:
    replicas = running.proxy, running.forwarding()
    sent = {"x-devroute": '{"foo": "alice"}', "x-devroute-candidates": "foo"}
    async with aiohttp.ClientSession(headers=sent) as session:
        for replica in replicas:
            async with session.get(f"{replica.server}/resolve") as response:
                lines = decode(await response.read())
            assert lines["decision"] == ["detour"]
            assert lines["owner"] == [f"{running.proxy.data.host}:{running.proxy.data.port}"]


def lines_of(proxy: testbed.RunningProxy, request_id: str) -> list[dict[str, object]]:
    found = [each for each in proxy.command.events() if each.get("request_id") == request_id]
    return [each for each in found if each.get("event") == "request"]


@pytest.fixture(params=["tunnel", "direct", "forwarded"])
def by(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)


async def test_a_body_waits_for_the_apps_own_100(running: Way, by: str) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"expect: 100-continue" in await read_head(reader)
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        writer.write(
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\n" + await reader.readexactly(3)
        )

    running.handler = app
    reader, writer = await running.dial(by)
    writer.write(running.head(by, "PUT", "expect: 100-continue\r\ncontent-length: 3\r\n"))
    assert (await read_head(reader)).startswith(b"HTTP/1.1 100 ")
    writer.write(b"abc")
    assert b"x-devroute-result: laptop" in await read_head(reader)
    assert await reader.readexactly(3) == b"abc"
    writer.close()


async def test_trailers_arrive_in_both_directions(running: Way, by: str) -> None:
    seen = asyncio.get_running_loop().create_future()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        seen.set_result(await reader.readuntil(b"x-sum: 5\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
            b"2\r\nok\r\n0\r\nX-Status: 0\r\n\r\n"
        )

    running.handler = app
    reader, writer = await running.dial(by)
    writer.write(running.head(by, "POST", "transfer-encoding: chunked\r\ntrailer: x-sum\r\n"))
    writer.write(b"5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n")
    assert await asyncio.wait_for(seen, 20) == b"5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n"
    await read_head(reader)
    assert await asyncio.wait_for(reader.readuntil(b"0\r\nX-Status: 0\r\n\r\n"), 20) == (
        b"2\r\nok\r\n0\r\nX-Status: 0\r\n\r\n"
    )
    writer.close()


async def test_a_response_may_start_before_its_request_has_ended(running: Way, by: str) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(3):
            line = await reader.readline()
            size = int(line, 16)
            data = await reader.readexactly(size + 2)
            writer.write(line + data)
        await reader.readuntil(b"0\r\n\r\n")
        writer.write(b"0\r\n\r\n")

    running.handler = app
    reader, writer = await running.dial(by)
    writer.write(running.head(by, "POST", "transfer-encoding: chunked\r\n"))
    await read_head(reader)
    for piece in (b"1\r\na\r\n", b"2\r\nbb\r\n", b"3\r\nccc\r\n"):
        writer.write(piece)
        assert await asyncio.wait_for(reader.readexactly(len(piece)), 20) == piece
    writer.write(b"0\r\n\r\n")
    assert await asyncio.wait_for(reader.readexactly(5), 20) == b"0\r\n\r\n"
    writer.close()


async def test_an_upgrade_is_two_pipes_that_close_independently(running: Way, by: str) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"upgrade: reverse" in await read_head(reader)
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: reverse\r\n\r\nhello"
        )
        everything = await reader.read()  # up to the client's half-close
        writer.write(everything[::-1])

    running.handler = app
    reader, writer = await running.dial(by)
    writer.write(running.head(by, fields="connection: upgrade\r\nupgrade: reverse\r\n"))
    assert (await read_head(reader)).startswith(b"HTTP/1.1 101 ")
    assert await reader.readexactly(5) == b"hello"
    writer.write(b"abc")
    writer.write(b"def")
    writer.write_eof()
    assert await asyncio.wait_for(reader.read(), 20) == b"fedcba"
    writer.close()


async def test_the_app_may_close_its_half_of_an_upgrade_first(running: Way, by: str) -> None:
    heard = asyncio.get_running_loop().create_future()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: talk\r\n\r\nbye")
        writer.write_eof()
        heard.set_result(await reader.read())

    running.handler = app
    reader, writer = await running.dial(by)
    writer.write(running.head(by, fields="connection: upgrade\r\nupgrade: talk\r\n"))
    await read_head(reader)
    assert await asyncio.wait_for(reader.read(), 20) == b"bye"
    writer.write(b"still here")
    writer.write_eof()
    assert await asyncio.wait_for(heard, 20) == b"still here"
    writer.close()


@pytest.mark.parametrize(
    "when", ["before the answer", "in the middle of the answer", "in the middle of the request"]
)
async def test_an_app_is_cancelled_as_soon_as_its_client_disconnects(
    running: Way, by: str, when: str
) -> None:
    loop = asyncio.get_running_loop()
    reached, gone = loop.create_future(), loop.create_future()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        if when == "in the middle of the answer":
            writer.write(
                b"HTTP/1.1 200 OK\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n"
            )
        reached.set_result(None)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        gone.set_result(loop.time())

    running.handler = app
    reader, writer = await running.dial(by)
    if when == "in the middle of the request":
        writer.write(running.head(by, "POST", "content-length: 1000\r\n") + b"x")
    else:
        writer.write(running.head(by))
    await asyncio.wait_for(reached, 20)
    if when == "in the middle of the answer":
        await read_head(reader)
    closed = loop.time()
    writer.transport.abort()
    assert await asyncio.wait_for(gone, 20) - closed < CANCEL_S + BUSY_S
