"""An app that sends an unrequested response at the worst moment: when the next request takes the connection
before the loop has read it."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from devroute.upstream.dialer import Dialer
from devroute.upstream.http1_pool import Http1Pool
from tests.support.eventually import PATIENCE_S
from tests.support.loopback import Client, get, post

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nmine"
POISON = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison"


class App:
    """Accepts and serves connections by hand, so that what a line sends has arrived when it returns."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self.upstream = Http1Pool(Dialer("127.0.0.1", self._listening.getsockname()[1]))
        self._connections: list[socket.socket] = []

    async def serve(self, client: Client) -> socket.socket:
        """Respond to the one request that is open, on a new connection."""
        loop = asyncio.get_running_loop()
        connection, _ = await asyncio.wait_for(loop.sock_accept(self._listening), PATIENCE_S)
        connection.setblocking(False)
        self._connections.append(connection)
        await asyncio.wait_for(loop.sock_recv(connection, 65536), PATIENCE_S)
        connection.sendall(ANSWER)
        await asyncio.wait_for(client.done.wait(), PATIENCE_S)
        return connection

    async def close(self) -> None:
        await self.upstream.close()
        for each in (*self._connections, self._listening):
            each.close()


@pytest.fixture
async def app() -> AsyncIterator[App]:
    app = App()
    yield app
    await app.close()


async def test_bytes_that_arrive_just_before_the_next_request_are_not_its_response(app: App) -> None:
    first, second = Client(), Client()
    app.upstream.open(get(), first)
    connection = await app.serve(first)
    connection.sendall(POISON)
    app.upstream.open(get(), second)  # in the same turn: the loop had no chance to read the poison
    await app.serve(second)
    assert (first.body, second.body) == (b"mine", b"mine")


async def test_a_connection_that_ended_just_before_a_post_is_not_used_for_it(app: App) -> None:
    first, second = Client(), Client()
    app.upstream.open(get(), first)
    (await app.serve(first)).close()
    app.upstream.open(post(2), second).send_data(b"hi")
    await app.serve(second)
    assert second.error is None
    assert second.body == b"mine"
