"""Connections that receive nothing until their reading is resumed, on each kind of loop."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from devroute.http.aio.connection import RECEIVE_BYTES
from devroute.http.aio.paused_connection import PausedConnection
from tests.support.eventually import eventually, quiet

#: Bytes that the kernel does not take for a peer which does not read.
MORE_THAN_BUFFERS = 64 * 1024 * 1024


class Paused(PausedConnection):
    """`begins`: as in uvloop, which begins to read after connection_made. `keeps_open`: its half, when the
    peer closes the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, begins: bool, keeps_open: bool = True) -> None:
        super().__init__(loop)
        self._begins = begins
        self._keeps_open = keeps_open
        self.events: list[str] = []
        self.data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._begins:
            self.transport.resume_reading()

    def received(self, data: bytes) -> None:
        self.events.append("data")
        self.data += data

    def received_end(self) -> bool:
        self.events.append("end")
        return self._keeps_open

    def lost(self, error: Exception | None) -> None:
        self.events.append("lost" if error is None else type(error).__name__)


@asynccontextmanager
async def accepted(
    sent: bytes, *, end: bool = False, **options: bool
) -> AsyncIterator[tuple[Paused, socket.socket]]:
    """A connection whose peer has sent this, and the peer, which has closed its half if `end`."""
    loop = asyncio.get_running_loop()
    made: list[Paused] = []

    def accept() -> Paused:
        made.append(Paused(loop, **options))
        return made[-1]

    async with await loop.create_server(accept, "127.0.0.1", 0) as server:
        with socket.create_connection(server.sockets[0].getsockname()) as peer:
            peer.setblocking(False)
            await loop.sock_sendall(peer, sent)
            if end:
                peer.shutdown(socket.SHUT_WR)
            await eventually(lambda: made and made[0].transport is not None)
            await quiet(lambda: list(made[0].events))
            yield made[0], peer
            made[0].abort()


@pytest.mark.parametrize("begins", [False, True])
async def test_nothing_is_received_before_reading_is_resumed(begins: bool) -> None:
    async with accepted(b"hello", begins=begins) as (connection, peer):
        assert connection.events == []
        peer.send(b", and more")
        await quiet(lambda: list(connection.events))
        assert connection.events == []
        connection.resume_reading()
        await eventually(lambda: connection.data == b"hello, and more")


@pytest.mark.parametrize("begins", [False, True])
async def test_a_peer_that_sends_on_has_to_wait(begins: bool) -> None:
    async with accepted(b"", begins=begins) as (connection, peer):
        sent = 0
        for _ in range(10):
            with suppress(BlockingIOError):
                while sent < MORE_THAN_BUFFERS:
                    sent += peer.send(bytes(RECEIVE_BYTES))
            await quiet(lambda: list(connection.events))
        assert sent < MORE_THAN_BUFFERS
        assert connection.events == []
        connection.resume_reading()
        await eventually(lambda: len(connection.data) == sent)


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("sent", [b"", b"hello"])
@pytest.mark.parametrize("keeps_open", [False, True])
async def test_the_end_follows_the_data_and_is_reported_once(
    begins: bool, sent: bytes, keeps_open: bool
) -> None:
    async with accepted(sent, end=True, begins=begins, keeps_open=keeps_open) as (connection, _):
        assert connection.events == []
        connection.resume_reading()
        expected = [*(["data"] if sent else []), "end", *([] if keeps_open else ["lost"])]
        await eventually(lambda: len(connection.events) >= len(expected))
        await quiet(lambda: list(connection.events))
        assert connection.events == expected


async def test_a_pause_at_the_first_data_holds_back_the_end() -> None:
    async with accepted(b"", end=True, begins=True) as (connection, _):
        assert connection.events == []
        connection.resume_reading()
        connection.pause_reading()
        assert connection.events == ["end"]


async def test_a_connection_that_is_reset_meanwhile_is_lost_and_receives_nothing() -> None:
    async with accepted(b"hello", begins=True) as (connection, _):
        connection.abort()
        await eventually(lambda: connection.events == ["lost"])
        connection.resume_reading()
        await quiet(lambda: list(connection.events))
        assert connection.events == ["lost"]
