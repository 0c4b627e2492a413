"""A response that is complete before its request: the client gets it, however much of the upload follows."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import h2.events
import pytest

from devroute.downstream.listener import Listener
from devroute.errors import TargetUnreachable
from devroute.http.aio.connection import MAX_LINGER_SECONDS
from devroute.http.message import InboundRequest
from devroute.routing.route import Route
from tests.support import h2_peer
from tests.support.data_port import Router, always, app_behind, data_port
from tests.support.eventually import PATIENCE_S, eventually

MIB = 1024 * 1024
REFUSAL = b"HTTP/1.1 413 Content Too Large\r\ncontent-length: 9\r\n\r\ntoo large"

AppPlay = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


# --- what apps do with an upload that they refuse -----------------------------------------------------------


async def close_at_once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """With data unread, so that the kernel sends a reset."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(REFUSAL)


async def close_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(300_000)
    writer.write(REFUSAL)


async def stop_reading(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(REFUSAL)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await asyncio.Event().wait()


async def read_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(REFUSAL)
    while await reader.read(1 << 16):
        pass


PLAYS: dict[str, AppPlay | None] = {
    "the app closes at once": close_at_once,
    "the app closes later": close_later,
    "the app stops reading": stop_reading,
    "the app reads on": read_on,
    "the proxy refuses": None,
}


@asynccontextmanager
async def app(play: AppPlay) -> AsyncIterator[int]:
    tasks = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        try:
            await play(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()


def no_app(request: InboundRequest) -> Route:
    raise TargetUnreachable("the laptop has no app")


@asynccontextmanager
async def playing(way: str, play: AppPlay | None) -> AsyncIterator[tuple[int, Listener]]:
    async with AsyncExitStack() as stack:
        router: Router = no_app
        if play is not None:
            port = await stack.enter_async_context(app(play))
            router = always((await stack.enter_async_context(app_behind(port, way)))[0])
        yield await stack.enter_async_context(data_port(router))


# --- a client that reads nothing before all is sent ---------------------------------------------------------


async def upload(port: int, size: int, *, chunked: bool) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    framing = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % size
    writer.write(b"POST / HTTP/1.1\r\nhost: foo\r\n%b\r\n\r\n" % framing)
    piece = bytes(1 << 16)
    for _ in range(size // len(piece)):
        writer.write(b"10000\r\n%b\r\n" % piece if chunked else piece)
        await writer.drain()
    if chunked:
        writer.write(b"0\r\n\r\n")
    await writer.drain()
    status = int((await reader.readuntil(b"\r\n\r\n")).split(b" ")[1])
    writer.transport.abort()
    return status


async def upload_by_http2(port: int, size: int) -> int:
    """A client may stop when its stream is reset after the response (RFC 9113 §8.1)."""
    peer = await h2_peer.dial(port)
    number = peer.request(end=False, grpc=False)
    piece = bytes(1 << 14)
    for _ in range(size // len(piece)):
        while not peer.ended and peer.wire.local_flow_control_window(number) < len(piece):
            await peer.turn()
            if any(isinstance(event, h2.events.StreamReset | h2.events.StreamEnded) for event in peer.events):
                break
        else:
            peer.send(number, piece)
            continue
        break
    head = await peer.until(h2.events.ResponseReceived, number=number)
    assert isinstance(head, h2.events.ResponseReceived)
    peer.close()
    return int(dict(head.headers)[b":status"])


@pytest.mark.parametrize("kind", ["length", "chunked", "h2"])
@pytest.mark.parametrize("way", ["direct", "tunnel"])
@pytest.mark.parametrize("play", PLAYS)
async def test_the_client_of_a_large_upload_gets_the_early_response(play: str, way: str, kind: str) -> None:
    async with playing(way, PLAYS[play]) as (port, _):
        for size in (5 * MIB, 20 * MIB) if kind == "length" else (5 * MIB,):
            async with asyncio.timeout(PATIENCE_S):
                if kind == "h2":
                    status = await upload_by_http2(port, size)
                else:
                    status = await upload(port, size, chunked=kind == "chunked")
            assert status == (502 if PLAYS[play] is None else 413)


async def test_the_rest_of_an_upload_is_read_for_no_longer_than_half_a_minute() -> None:
    async with playing("direct", None) as (port, server):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: foo\r\ncontent-length: 1000\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 502 ")
        began = server.now
        for second in range(1, int(MAX_LINGER_SECONDS)):
            writer.write(b"x")
            server.tick(began + second)
            await asyncio.sleep(0)
        (connection,) = server.connections
        server.tick(began + MAX_LINGER_SECONDS + 1)
        await eventually(lambda: connection not in server.connections)
        writer.transport.abort()
