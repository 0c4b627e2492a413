"""Connections behind a 101: nothing of the server is passed on before the client has that."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from devroute.agent.mesh_links import tcp_request
from devroute.errors import UpstreamReset
from devroute.http.aio.connection import RECEIVE_BYTES
from devroute.upstream.dialer import Dialer
from devroute.upstream.tcp import TcpConnection, TcpStream, TcpUpstream
from tests.support.eventually import eventually, quiet
from tests.support.loopback import Client
from tests.support.ports import free_port
from tests.upstream.fakes import RecordingSink

#: Bytes that the kernel does not take for a peer which does not read.
MORE_THAN_BUFFERS = 64 * 1024 * 1024

#: `begins`: the loop begins to read after connection_made, as uvloop does, and Python 3.11.2.
on_each_loop = pytest.mark.parametrize("begins", [False, True])


class Dialled:
    """A connection that the client has no 101 of yet. `server`: its other end."""

    def __init__(
        self, connection: TcpConnection, stream: TcpStream, client: Client, server: socket.socket
    ) -> None:
        self.connection = connection
        self.stream = stream
        self.client = client
        self.server = server

    def received(self) -> tuple[int, int, bool]:
        """What the client has: responses, bytes, and the end."""
        return len(self.client.heads), self.client.size, self.client.done.is_set()

    async def nothing_arrives(self) -> bool:
        await quiet(self.received)
        return self.received() == (0, 0, False)

    def connect(self) -> None:
        self.stream.connected(self.connection)


@asynccontextmanager
async def dialled(*, begins: bool) -> AsyncIterator[Dialled]:
    loop = asyncio.get_running_loop()
    client = Client()
    stream = TcpStream("tcp://db:5432", client)
    with socket.create_server(("127.0.0.1", free_port())) as listening:
        listening.setblocking(False)
        _, connection = await loop.create_connection(
            lambda: TcpConnection(stream, loop), *listening.getsockname()
        )
        server, _ = await loop.sock_accept(listening)
        if begins:
            connection.transport.resume_reading()
        server.setblocking(False)
        try:
            yield Dialled(connection, stream, client, server)
        finally:
            stream.cancel()
            connection.abort()
            server.close()


@on_each_loop
async def test_what_a_server_says_at_once_follows_the_101(begins: bool) -> None:
    async with dialled(begins=begins) as it:
        for data in (b"220 mail.example ESMTP\r\n", b"250 more\r\n"):
            it.server.send(data)
            assert await it.nothing_arrives()
        it.connect()
        assert it.client.heads[0].status == 101
        await eventually(lambda: it.client.body == b"220 mail.example ESMTP\r\n250 more\r\n")


@on_each_loop
async def test_a_server_that_sends_on_has_to_wait(begins: bool) -> None:
    async with dialled(begins=begins) as it:
        sent = 0
        for _ in range(10):
            with suppress(BlockingIOError):
                while sent < MORE_THAN_BUFFERS:
                    sent += it.server.send(bytes(RECEIVE_BYTES))
            assert await it.nothing_arrives()
        assert sent < MORE_THAN_BUFFERS
        it.connect()
        await eventually(lambda: it.client.size == sent)


@on_each_loop
@pytest.mark.parametrize("sent", [b"", b"too many connections"])
@pytest.mark.parametrize("client_ended", [False, True])
async def test_the_end_follows_the_101_and_the_data(begins: bool, sent: bytes, client_ended: bool) -> None:
    async with dialled(begins=begins) as it:
        it.server.send(sent)
        it.server.shutdown(socket.SHUT_WR)
        assert await it.nothing_arrives()
        if client_ended:
            it.stream.send_end([])
        it.connect()
        await eventually(it.client.done.is_set)
        assert (it.client.error, it.client.body) == (None, sent)
        if client_ended:
            await eventually(lambda: it.connection.closed)
        else:  # its half stays open
            it.stream.send_data(b"goodbye")
            assert await asyncio.get_running_loop().sock_recv(it.server, 100) == b"goodbye"


async def test_a_client_that_takes_no_more_gets_the_end_later() -> None:
    async with dialled(begins=True) as it:
        it.server.send(b"hello")
        assert await it.nothing_arrives()
        it.stream.pause_response()
        it.connect()
        it.server.shutdown(socket.SHUT_WR)
        await quiet(it.received)
        assert it.received() == (1, 0, False)
        it.stream.resume_response()
        await eventually(it.client.done.is_set)
        assert it.client.body == b"hello"


async def test_what_was_sent_early_holds_its_source_until_the_server_reads() -> None:
    paused: list[bool] = []

    async def read_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        paused.append(sink.events[-1] == "pause")
        received.set_result(1 + len(await reader.read()))
        writer.close()

    received: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_server(read_late, "127.0.0.1", 0, limit=1024)
    port = server.sockets[0].getsockname()[1]
    upstream = TcpUpstream("tcp://db", Dialer("127.0.0.1", port, permit=lambda ip, port: None))
    async with server:
        sink = RecordingSink()
        stream = upstream.open(tcp_request("db:1"), sink)
        stream.send_data(bytes(MORE_THAN_BUFFERS))
        await sink.until(lambda events: "resume" in events)
        stream.send_end([])
        assert await received == MORE_THAN_BUFFERS
        await sink.until(lambda events: events[-1] == "end")
    assert (paused, sink.events[-2:]) == ([True], ["resume", "end"])
    await upstream.close()


async def test_the_end_of_the_servers_half_arrives_once_however_often_the_client_pauses() -> None:
    """asyncio reports it again whenever it may read."""
    async with dialled(begins=False) as it:
        it.connect()
        it.server.shutdown(socket.SHUT_WR)
        await eventually(it.client.done.is_set)
        for _ in range(2):
            it.stream.pause_response()
            it.stream.resume_response()
            await quiet(it.received)
        it.stream.send_data(b"still open")
        assert await asyncio.get_running_loop().sock_recv(it.server, 100) == b"still open"


async def test_a_connection_that_is_lost_meanwhile_is_an_error() -> None:
    async with dialled(begins=True) as it:
        it.server.send(b"hello")
        assert await it.nothing_arrives()
        it.connection.lose(ConnectionResetError())
        await eventually(it.client.done.is_set)
        it.connect()
        assert isinstance(it.client.error, UpstreamReset)
        assert it.received() == (0, 0, True)


async def test_a_client_that_fails_at_what_was_early_loses_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(data: bytes) -> None:
        raise ZeroDivisionError

    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: failures.append(context))
    async with dialled(begins=True) as it:
        it.server.send(b"hello")
        assert await it.nothing_arrives()
        monkeypatch.setattr(it.client, "on_data", fails)
        it.connect()
        await eventually(lambda: it.connection.closed)
    assert [type(each["exception"]) for each in failures] == [ZeroDivisionError]
