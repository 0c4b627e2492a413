"""What a client sends before the other end is connected is judged as what it sends later."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from devroute.agent.reach.byte_pipe import BytePipe
from devroute.agent.reach.mesh_port import MeshPort
from devroute.errors import ReachPageDenied
from devroute.http.http1.response import parse_response_head
from tests.support.eventually import eventually, quiet
from tests.support.loopback import App, AppStream
from tests.support.ports import free_port

CONNECTED = parse_response_head(
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n", b"GET"
)
EVIL = b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n"


def admit(first: bytes) -> bool:
    if b"evil" in first:
        raise ReachPageDenied("a page of a web site")
    return first.endswith(b"\r\n\r\n")


@asynccontextmanager
async def pipe() -> AsyncIterator[tuple[BytePipe, AppStream, asyncio.StreamReader, asyncio.StreamWriter]]:
    """A pipe whose loop has begun to read, as uvloop does and Python 3.11.2, and whose other end is not
    connected yet; the client's connection."""
    loop = asyncio.get_running_loop()
    made: list[BytePipe] = []
    app = App()

    def accept() -> BytePipe:
        to = MeshPort("db", 5432, tcp=True)
        made.append(BytePipe(loop, set(), app, to, lambda name, error: None, admit=admit))
        return made[-1]

    async with await loop.create_server(accept, "127.0.0.1", free_port()) as server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await asyncio.wait_for(app.opened.wait(), 20)
        made[0].transport.resume_reading()
        try:
            yield made[0], app.streams[0], reader, writer
        finally:
            writer.close()
            made[0].abort()


@pytest.mark.parametrize("early", [0, 1, len(b"GET / HTTP/1.1\r\nHost: ev"), len(EVIL)])
async def test_a_head_that_begins_before_the_other_end_is_connected_is_judged_whole(early: int) -> None:
    async with pipe() as (_, stream, reader, writer):
        writer.write(EVIL[:early])
        await quiet(lambda: bytes(stream.body))
        stream.sink.on_head(CONNECTED)
        writer.write(EVIL[early:])
        assert b"403" in await asyncio.wait_for(reader.readline(), 20)
        assert stream.body == b""
        assert stream.cancelled.is_set()


async def test_bytes_that_are_early_are_sent_in_their_order() -> None:
    async with pipe() as (_, stream, _, writer):
        writer.write(b"GET / HTTP/1.1\r\n")
        await quiet(lambda: bytes(stream.body))
        stream.sink.on_head(CONNECTED)
        writer.write(b"Host: db\r\n\r\n")
        await eventually(lambda: stream.body == b"GET / HTTP/1.1\r\nHost: db\r\n\r\n")


async def test_what_a_connection_sent_before_it_was_adopted_comes_first() -> None:
    loop = asyncio.get_running_loop()
    app = App()
    adopted: list[BytePipe] = []

    class Before(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            adopted.append(BytePipe(loop, set(), app, MeshPort("db", 5432, tcp=True), lambda *_: None))
            adopted[0].adopt(self.transport, data)

    async with await loop.create_server(Before, "127.0.0.1", free_port()) as server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"one ")
        await asyncio.wait_for(app.opened.wait(), 20)
        writer.write(b"two")
        await quiet(lambda: bytes(app.streams[0].body))
        assert app.streams[0].body == b""
        app.streams[0].sink.on_head(CONNECTED)
        await eventually(lambda: app.streams[0].body == b"one two")
        writer.close()
        adopted[0].abort()
