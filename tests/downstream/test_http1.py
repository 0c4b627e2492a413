"""The relay on real sockets: raw bytes in at the data port, a scripted app behind it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import h2.connection
import h2.settings
import pytest

from devroute.downstream.context import CompletedExchange, Timeouts
from devroute.downstream.http1 import MAX_PIPELINED_BYTES, Http1ServerConnection
from devroute.downstream.listener import Listener
from devroute.errors import DevrouteError, LaptopOffline
from devroute.http.aio.connection import RECEIVE_BYTES
from devroute.http.message import InboundRequest
from devroute.routing.route import Route
from devroute.upstream.circuit_breaker import OPEN_SECONDS
from devroute.upstream.dialer import Dialer
from devroute.upstream.http1_pool import Http1Pool
from tests.support.eventually import PATIENCE_S, eventually, quiet
from tests.support.h2_peer import fields

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

RESULT = b"x-devroute-result: laptop\r\nx-devroute-reason: foo answered by alice\r\n"
TIMEOUTS = Timeouts(head=10, body=10, first_byte=10, idle=10, keep_alive=100, total=1000)


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


class Bench:
    """A data port in front of an app that `handler` plays, one call for each connection."""

    def __init__(self) -> None:
        self.handler: Handler | None = None
        self.connections = 0
        self.exchanges: list[CompletedExchange] = []
        self.refuse: DevrouteError | None = None

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.app = await asyncio.start_server(self._app, "127.0.0.1", 0)
        self.app_port = self.app.sockets[0].getsockname()[1]
        self.upstream = Http1Pool(Dialer("127.0.0.1", self.app_port))
        self.server = Listener(self._route, TIMEOUTS, self.exchanges.append, loop.time())
        self.listener = await loop.create_server(self.server.accept, "127.0.0.1", 0)
        self.port = self.listener.sockets[0].getsockname()[1]
        self.writers: list[asyncio.StreamWriter] = []

    def _route(self, request: InboundRequest) -> Route:
        if self.refuse is not None:
            raise self.refuse
        return Route(self.upstream, "foo", "alice", "laptop", "foo answered by alice")

    async def _app(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.append(writer)
        assert self.handler is not None
        try:
            await self.handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.writers.append(writer)
        return reader, writer

    async def send(self, data: bytes) -> bytes:
        """Everything that comes back until the connection closes."""
        reader, writer = await self.dial()
        writer.write(data)
        return await asyncio.wait_for(reader.read(), 20)

    async def close(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        self.listener.close()
        self.app.close()
        await self.upstream.close()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    await bench.start()
    yield bench
    await bench.close()


def answers(*responses: bytes) -> Handler:
    """One response for each request without a body, in order, on any number of connections."""
    left = list(responses)

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while left:
            await read_head(reader)
            writer.write(left.pop(0))
        await reader.read()

    return handler


def request(
    method: bytes = b"GET", target: bytes = b"/", fields: bytes = b"", body: bytes = b"", close: bool = True
) -> bytes:
    closing = b"connection: close\r\n" if close else b""
    return b"%b %b HTTP/1.1\r\nhost: foo\r\n%b%b\r\n%b" % (method, target, fields, closing, body)


async def test_a_request_reaches_the_app_without_its_hop_by_hop_fields(bench: Bench) -> None:
    seen: list[bytes] = []

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_head(reader))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nkeep-alive: 5\r\nX-App: 1\r\n\r\nhi")

    bench.handler = app
    fields = (
        b"Connection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 3\r\n"
        b"X-Devroute: {}\r\nX-Devroute-Matched: b\r\n"
    )
    answer = await bench.send(request(fields=fields, close=False))
    assert seen == [b"GET / HTTP/1.1\r\nhost: foo\r\nX-Devroute: {}\r\nvia: 1.1 devroute\r\n\r\n"]
    assert answer == (
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nX-App: 1\r\n%bconnection: close\r\n\r\nhi" % RESULT
    )


async def test_connections_to_the_app_are_kept_and_used_again(bench: Bench) -> None:
    bench.handler = answers(*[b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % i for i in range(5)])
    for i in range(5):
        assert (await bench.send(request())).endswith(b"\r\n\r\n%d" % i)
    assert bench.connections == 1


async def test_pipelined_requests_are_answered_in_order(bench: Bench) -> None:
    bench.handler = answers(*[b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n%d" % i for i in range(4)])
    data = request(close=False) * 3 + request()
    answer = await bench.send(data)
    assert [part[:1] for part in answer.split(b"\r\n\r\n")[1:]] == [b"0", b"1", b"2", b"3"]


async def test_thousands_of_pipelined_refusals_do_not_recurse(bench: Bench) -> None:
    bench.refuse = LaptopOffline("alice is offline")
    answer = await bench.send(request(close=False) * 3000 + request())
    assert answer.count(b"HTTP/1.1 503 ") == 3001


@pytest.mark.parametrize(
    ("head", "connections"),
    [
        (b"HTTP/1.1 204 No Content\r\n", 1),
        (b"HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n", 2),  # the 3 bytes might still come
        (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 3\r\n", 1),
    ],
)
async def test_responses_without_a_body_end_at_their_head(
    bench: Bench, head: bytes, connections: int
) -> None:
    bench.handler = answers(head + b"\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx")
    answer = await bench.send(request(close=False) + request())
    first, second = answer.split(b"HTTP/1.1 200")
    assert first.endswith(b"\r\n\r\n")
    assert second.endswith(b"\r\n\r\nx")
    assert bench.connections == connections


async def test_a_response_to_head_keeps_its_length_and_has_no_body(bench: Bench) -> None:
    bench.handler = answers(
        b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx"
    )
    answer = await bench.send(request(b"HEAD", close=False) + request())
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n%b\r\n" % RESULT
    assert answer.startswith(head + b"HTTP/1.1 200")


async def test_chunked_bodies_and_trailers_pass_both_ways(bench: Bench) -> None:
    seen: list[bytes] = []

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3;ext=1\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n"
        )
        await reader.read()

    bench.handler = app
    body = b"5\r\nhello\r\n0\r\nx-check: 1\r\n\r\n"
    answer = await bench.send(request(b"POST", fields=b"transfer-encoding: chunked\r\n", body=body))
    assert seen == [b"5\r\nhello\r\n0\r\nx-check: 1\r\n\r\n"]
    assert answer.endswith(b"\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n")


async def test_a_body_up_to_the_close_becomes_chunked(bench: Bench) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")

    bench.handler = app
    answer = await bench.send(request())
    assert answer.endswith(b"9\r\nall of it\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "partial",
    [
        b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
async def test_a_response_that_is_cut_off_never_looks_complete(bench: Bench, partial: bytes) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(partial)
        await writer.drain()

    bench.handler = app
    reader, writer = await bench.dial()
    writer.write(request())
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 20)
    assert bench.exchanges[-1].error is not None
    assert bench.exchanges[-1].error.code == "upstream-reset"


async def test_interim_responses_pass_and_the_body_waits_for_100(bench: Bench) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert b"expect: 100-continue" in await read_head(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")
        body = await reader.readexactly(3)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n" + body)

    bench.handler = app
    reader, writer = await bench.dial()
    writer.write(request(b"PUT", fields=b"expect: 100-continue\r\ncontent-length: 3\r\n"))
    assert (await read_head(reader)).startswith(b"HTTP/1.1 103 ")
    assert (await read_head(reader)).startswith(b"HTTP/1.1 100 ")
    writer.write(b"abc")
    assert (await reader.read()).endswith(b"\r\n\r\nabc")


async def test_a_final_response_instead_of_100_closes_the_connection(bench: Bench) -> None:
    bench.handler = answers(b"HTTP/1.1 417 No\r\ncontent-length: 0\r\n\r\n")
    data = request(b"PUT", fields=b"expect: 100-continue\r\ncontent-length: 3\r\n", close=False)
    answer = await bench.send(data)
    assert answer.startswith(b"HTTP/1.1 417 ")
    assert b"connection: close" in answer


async def test_an_early_response_passes_and_the_rest_of_the_request_is_dropped(bench: Bench) -> None:
    bench.handler = answers(
        b"HTTP/1.1 401 No\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
    )
    reader, writer = await bench.dial()
    writer.write(request(b"POST", fields=b"content-length: 6\r\n", close=False))
    assert (await read_head(reader)).startswith(b"HTTP/1.1 401 ")
    writer.write(b"GET / " + request())
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")


async def test_an_error_is_json_with_a_code_and_the_connection_goes_on(bench: Bench) -> None:
    bench.refuse = LaptopOffline("alice is offline", hint="devroute up", service="foo", target="alice")
    reader, writer = await bench.dial()
    fields = b"content-length: 3\r\nx-request-id: r1\r\n"
    for _ in range(2):
        writer.write(request(b"POST", fields=fields, body=b"abc", close=False))
        head = await read_head(reader)
        assert b"503 Service Unavailable" in head
        assert b"x-devroute-result: error\r\nx-devroute-reason: alice is offline\r\n" in head
        assert json.loads(await reader.readline()) == {
            "code": "laptop-offline",
            "message": "alice is offline",
            "hint": "devroute up",
            "service": "foo",
            "target": "alice",
            "request_id": "r1",
        }


async def test_a_target_that_refuses_is_a_502(bench: Bench) -> None:
    bench.app.close()
    await bench.app.wait_closed()
    answer = await bench.send(request())
    assert b"502 Bad Gateway" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["code"] == "target-unreachable"


async def test_a_target_that_fails_repeatedly_opens_the_circuit_breaker(bench: Bench) -> None:
    loop = asyncio.get_running_loop()
    bench.handler = answers(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
    with socket.socket() as closed:  # bound and not listening: refuses, and no other process gets the port
        closed.bind(("127.0.0.1", 0))

        async def codes(count: int) -> list[str]:
            answers = [await bench.send(request()) for _ in range(count)]
            return [json.loads(answer.partition(b"\r\n\r\n")[2])["code"] for answer in answers]

        for _ in range(20):  # until two requests come while it is open, also on a busy machine
            dialer = Dialer("127.0.0.1", closed.getsockname()[1], permit=lambda ip, port: None)
            bench.upstream = Http1Pool(dialer)
            assert await codes(4) == ["target-unreachable"] * 4
            began = loop.time()
            assert await codes(1) == ["target-unreachable"]
            later = await codes(2)
            if loop.time() - began < OPEN_SECONDS:
                break
    assert later == ["circuit-open"] * 2


async def test_a_stale_kept_connection_is_replaced_for_requests_that_can_be_repeated(bench: Bench) -> None:
    served: list[bytes] = []

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        if bench.connections == 1:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            await read_head(reader)  # and dies without a response
            return
        served.append(b"again")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    bench.handler = app
    assert b" 200 OK" in await bench.send(request())
    assert b" 200 OK" in await bench.send(request())
    assert served == [b"again"]


async def test_a_post_on_a_stale_connection_is_not_repeated(bench: Bench) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        if bench.connections == 1:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            await read_head(reader)

    bench.handler = app
    assert b" 200 OK" in await bench.send(request())
    assert b"upstream-reset" in await bench.send(request(b"POST"))
    assert bench.connections == 1


async def test_a_client_that_goes_away_cancels_the_request_at_the_app(bench: Bench) -> None:
    gone = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        started.set()
        try:
            await reader.read()
        finally:
            gone.set()

    started = asyncio.Event()
    bench.handler = app
    _, writer = await bench.dial()
    writer.write(request(close=False))
    await asyncio.wait_for(started.wait(), 20)
    writer.close()
    await asyncio.wait_for(gone.wait(), 20)
    assert bench.upstream.in_flight == 0


async def test_upgrades_become_two_pipes_with_half_close(bench: Bench) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await read_head(reader)
        assert b"connection: upgrade\r\nupgrade: echo\r\n" in head
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello")
        data = await reader.read()
        writer.write(data[::-1])

    bench.handler = app
    reader, writer = await bench.dial()
    writer.write(request(fields=b"Connection: Upgrade\r\nUpgrade: echo\r\n", close=False) + b"abc")
    head = await read_head(reader)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"Upgrade: echo\r\n" in head
    assert await reader.readexactly(5) == b"hello"
    writer.write(b"def")
    writer.write_eof()
    assert await reader.read() == b"fedcba"
    assert bench.upstream.in_flight == 0


async def test_a_slow_client_leaves_its_connection_fit_for_the_next_request(bench: Bench) -> None:
    """The bug that PERF.md warns of: a paused upstream in the pool would hang the next request."""
    big = 8 * 1024 * 1024

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await read_head(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % big)
            for _ in range(big // 65536):
                writer.write(b"x" * 65536)
                await writer.drain()

    bench.handler = app
    reader, writer = await bench.dial()
    for _ in range(3):
        writer.write(request(close=False))
        await read_head(reader)
        got = 0
        while got < big:
            got += len(await asyncio.wait_for(reader.read(65536), 20))
    assert bench.connections == 1


async def test_memory_of_a_stalled_response_is_bounded(bench: Bench) -> None:
    sent = 0

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    bench.handler = app
    _, writer = await bench.dial()
    writer.transport.pause_reading()
    writer.write(request())
    await eventually(lambda: sent)
    await quiet(lambda: sent)
    (connection,) = bench.server.connections
    assert sent < 64 * 1024 * 1024
    assert connection.transport.get_write_buffer_size() < 1024 * 1024


async def test_responses_to_pipelined_requests_wait_for_a_client_that_does_not_read(bench: Bench) -> None:
    half = 512 * 1024  # more than a transport takes before it says that it is full
    served = 0

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal served
        while True:
            await read_head(reader)
            served += 1
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % half + b"x" * half)

    bench.handler = app
    reader, writer = await bench.dial()
    writer.transport.pause_reading()
    writer.write(request(close=False) * 100)
    await eventually(lambda: served)
    await quiet(lambda: served)
    (connection,) = bench.server.connections
    assert connection.transport.get_write_buffer_size() < 4 * half
    assert served < 100
    writer.transport.resume_reading()
    async with asyncio.timeout(20):
        for _ in range(100):
            await read_head(reader)
            await reader.readexactly(half)
    assert served == 100


async def unread_responses(
    bench: Bench,
) -> tuple[Http1ServerConnection, asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection that waits for its client to read, with requests behind: 200 in all, each response with
    60,000 bytes."""
    response = b"HTTP/1.1 200 OK\r\ncontent-length: 60000\r\n\r\n" + bytes(60_000)
    bench.handler = answers(*[response] * 200)
    reader, writer = await bench.dial()
    writer.transport.pause_reading()
    writer.write(request(close=False) * 200)
    await eventually(lambda: bench.exchanges)
    (connection,) = bench.server.connections
    assert isinstance(connection, Http1ServerConnection)
    await eventually(lambda: connection.exchange is None and connection.write_paused)
    await quiet(lambda: len(bench.exchanges))
    assert connection.buffered
    return connection, reader, writer


async def test_requests_behind_responses_that_are_read_slowly_are_not_late(bench: Bench) -> None:
    """They are complete: the connection waits for the client to read, not for the rest of a head."""
    _, reader, writer = await unread_responses(bench)
    bench.server.tick(asyncio.get_running_loop().time() + TIMEOUTS.head + 1)
    writer.transport.resume_reading()
    async with asyncio.timeout(PATIENCE_S):
        for _ in range(200):
            assert (await read_head(reader)).startswith(b"HTTP/1.1 200 ")
            await reader.readexactly(60_000)


async def test_pipelined_requests_are_buffered_up_to_their_limit(bench: Bench) -> None:
    bench.handler = answers(*[b"HTTP/1.1 204 No Content\r\n\r\n"] * 1000)
    wire = request(close=False, fields=b"x-padding: " + b"x" * 50 + b"\r\n")
    _, writer = await bench.dial()
    writer.write(wire * 10_000)
    await eventually(lambda: bench.server.connections)
    (connection,) = bench.server.connections
    assert isinstance(connection, Http1ServerConnection)
    most = 0
    while len(bench.exchanges) < 500:
        await asyncio.sleep(0)
        most = max(most, connection.buffered)
    connection.abort()
    await eventually(lambda: not bench.server.connections)
    assert MAX_PIPELINED_BYTES < most <= MAX_PIPELINED_BYTES + RECEIVE_BYTES


async def read_paused(bench: Bench) -> Http1ServerConnection:
    """The one connection, when more requests are buffered than may be."""
    await eventually(lambda: bench.server.connections)
    (connection,) = bench.server.connections
    assert isinstance(connection, Http1ServerConnection)
    await eventually(lambda: connection.reads_paused)
    return connection


@pytest.mark.parametrize("again", [False, True], ids=["new app connection", "the same one"])
async def test_a_body_that_was_pipelined_is_read_whole(bench: Bench, again: bool) -> None:
    body = bytes(MAX_PIPELINED_BYTES + 1_000_000)
    go = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"POST" not in await read_head(reader):
            await go.wait()
            writer.write(b"HTTP/1.1 204 No Content\r\n%b\r\n" % (b"" if again else b"connection: close\r\n"))
            if not again:
                return
        assert await reader.readexactly(len(body)) == body
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    bench.handler = app
    reader, writer = await bench.dial()
    writer.write(request(close=False))
    writer.write(request(b"POST", fields=b"content-length: %d\r\n" % len(body), body=body))
    await read_paused(bench)
    go.set()
    async with asyncio.timeout(PATIENCE_S):
        assert b" 204 " in await read_head(reader)
        assert b" 200 " in await read_head(reader)


async def test_what_follows_the_last_request_of_a_connection_is_read_and_discarded(bench: Bench) -> None:
    """Closed with bytes that are not read, the connection would be reset, and the response be lost."""
    go = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        await go.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")

    bench.handler = app
    reader, writer = await bench.dial()
    writer.write(request() + bytes(8 * 1024 * 1024))
    await read_paused(bench)
    go.set()
    async with asyncio.timeout(PATIENCE_S):
        assert (await reader.read()).endswith(b"\r\n\r\nhi")
        await eventually(lambda: not writer.transport.get_write_buffer_size())


async def test_a_connection_that_closes_serves_no_request_that_waited(bench: Bench) -> None:
    connection, reader, writer = await unread_responses(bench)
    served = len(bench.exchanges)
    bench.server.tick(asyncio.get_running_loop().time() + TIMEOUTS.keep_alive + 1)
    assert connection.closed
    writer.transport.resume_reading()
    async with asyncio.timeout(PATIENCE_S):
        assert len(await reader.read()) > served * 60_000
    await eventually(lambda: not bench.server.connections)
    assert len(bench.exchanges) == served


async def test_an_upgraded_connection_is_read_on_after_much_early_data(bench: Bench) -> None:
    early = bytes(MAX_PIPELINED_BYTES + 100_000)
    switch = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        await switch.wait()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n")
        await reader.readexactly(len(early))
        writer.write(await reader.readexactly(5))

    bench.handler = app
    reader, writer = await bench.dial()
    writer.write(request(fields=b"connection: upgrade\r\nupgrade: x\r\n", close=False) + early)
    await eventually(lambda: bench.server.connections)
    (connection,) = bench.server.connections
    await eventually(lambda: connection.reads_paused)
    switch.set()
    async with asyncio.timeout(PATIENCE_S):
        assert b" 101 " in await read_head(reader)
        writer.write(b"later")
        assert await reader.readexactly(5) == b"later"


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/2"])
async def test_a_client_that_never_reads_the_end_of_its_response_is_closed(
    bench: Bench, version: str
) -> None:
    """All of it is written, and the kernel cannot send it: a close alone would wait for that without end."""
    size = 200 * 1024  # fewer bytes than pause the app
    bench.handler = answers(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size + bytes(size))
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", bench.port))
    await eventually(lambda: bench.server.connections)
    (connection,) = bench.server.connections
    connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    if version == "HTTP/2":
        wire = h2.connection.H2Connection()
        wire.initiate_connection()
        wire.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 2 * size})
        wire.increment_flow_control_window(2 * size)
        wire.send_headers(1, fields(grpc=False, method=b"GET"), end_stream=True)
        await loop.sock_sendall(sock, wire.data_to_send())
    else:
        await loop.sock_sendall(sock, request(close=False))
    await eventually(lambda: bench.exchanges)
    (connection,) = bench.server.connections
    assert connection.transport.get_write_buffer_size()
    now = loop.time()
    for wait in (TIMEOUTS.keep_alive + 1, TIMEOUTS.idle - 1):  # closed; not stuck for long enough
        now += wait
        bench.server.tick(now)
        await quiet(lambda: len(bench.server.connections))
        assert bench.server.connections
    assert connection.closed
    bench.server.tick(now + TIMEOUTS.idle + 1)
    await eventually(lambda: not bench.server.connections)
    sock.close()


async def test_a_slow_head_is_answered_with_408(bench: Bench) -> None:
    reader, writer = await bench.dial()
    writer.write(b"GET / HTTP/1.1\r\nhost:")
    await eventually(lambda: bench.server.connections)
    await quiet(lambda: None)
    bench.server.tick(asyncio.get_running_loop().time() + 11)
    assert (await asyncio.wait_for(reader.read(), 20)).startswith(b"HTTP/1.1 408 ")


async def test_an_app_that_does_not_answer_is_a_504(bench: Bench) -> None:
    started = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        started.set()
        await reader.read()

    bench.handler = app
    reader, writer = await bench.dial()
    writer.write(request())
    await started.wait()
    bench.server.tick(asyncio.get_running_loop().time() + 11)
    answer = await asyncio.wait_for(reader.read(), 20)
    assert answer.startswith(b"HTTP/1.1 504 ")
    assert b"upstream-timeout" in answer


async def test_the_wait_for_the_response_starts_at_the_end_of_the_request(bench: Bench) -> None:
    steps: asyncio.Queue[bytes] = asyncio.Queue()
    respond = asyncio.Event()

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        steps.put_nowait(await reader.readexactly(len(b"1\r\nx\r\n")))
        steps.put_nowait(await reader.readexactly(len(b"0\r\n\r\n")))
        await respond.wait()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")

    bench.handler = app
    reader, writer = await bench.dial()
    now = bench.server.now
    writer.write(request(b"POST", fields=b"transfer-encoding: chunked\r\n", body=b"1\r\nx\r\n"))
    await asyncio.wait_for(steps.get(), 20)
    bench.server.tick(now + TIMEOUTS.first_byte - 1)
    writer.write(b"0\r\n\r\n")
    await asyncio.wait_for(steps.get(), 20)
    bench.server.tick(now + TIMEOUTS.first_byte + 1)
    respond.set()
    assert (await asyncio.wait_for(reader.read(), 20)).endswith(b"\r\n\r\nhi")
