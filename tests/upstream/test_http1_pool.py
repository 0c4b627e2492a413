"""Pooled connections to real apps on loopback: how long they are used, and which apps they would block."""

import asyncio
import http.server
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial

import pytest

from devroute.errors import AppUnreachable, TargetUnreachable
from devroute.http.message import Framing, RequestHead
from devroute.upstream import http1_pool
from devroute.upstream.deferred import DeferredStream
from devroute.upstream.dialer import Dialer
from devroute.upstream.http1_pool import BLOCKED_SECONDS, Http1Pool
from devroute.upstream.http2_pool import Http2Pool
from devroute.upstream.negotiating import NegotiatingUpstream
from tests.support import h2_peer
from tests.support.eventually import PATIENCE_S, eventually, quiet
from tests.support.loopback import Client, get, post, response_to
from tests.support.ports import free_port
from tests.upstream.fakes import RecordingSink


async def fetch(pool: Http1Pool | NegotiatingUpstream | Http2Pool, head: RequestHead) -> Client:
    return await response_to(pool, head, bytes(head.length))


async def test_after_a_bug_while_it_connects_no_request_waits() -> None:
    def permit(ip: str, port: int) -> None:
        raise ZeroDivisionError

    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, report: reported.append(report["exception"])
    )
    dialer = Dialer("127.0.0.1", 1, permit=permit)
    for pool in (Http1Pool(dialer), Http2Pool(dialer), NegotiatingUpstream(dialer)):
        client = await fetch(pool, get())
        assert isinstance(client.error, TargetUnreachable)
        assert client.error.message == "127.0.0.1:1 failed: ZeroDivisionError"
        await pool.close()
    assert [type(each) for each in reported] == [ZeroDivisionError] * 3


@pytest.mark.parametrize("whole", [True, False])
async def test_a_head_that_an_app_repeats_is_not_taken_for_one_that_begins_alike(whole: bool) -> None:
    start = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n"
    repeated, longer = start + b"\r\n", start + b"x: 1\r\n\r\n"
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    script = [
        (b"GET", repeated, b"abc", b"abc"),
        (b"GET", repeated, b"abc", b"abc"),
        (b"GET", repeated, repeated[:3], repeated[:3]),
        (b"HEAD", repeated, b"", b""),
        (b"GET", longer, b"abc", b"abc"),
        (b"GET", repeated, b"\r\n\r", b"\r\n\r"),
        (b"GET", chunked, b"2\r\nhi\r\n0\r\n\r\n", b"hi"),
        (b"GET", repeated, b"abc", b"abc"),
    ]
    connections = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        for _, head, body, _ in script:
            await reader.readuntil(b"\r\n\r\n")
            for piece in [head + body] if whole else [head[:-1], head[-1:], body]:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)  # the client reads each by itself
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        pool = Http1Pool(Dialer("127.0.0.1", port))
        for method, head, _, body in script:
            wire = method + b" / HTTP/1.1\r\nhost: foo\r\n\r\n"
            client = await fetch(pool, RequestHead(method, b"/", Framing.NONE, 0, wire))
            assert client.error is None
            assert (client.heads[0].raw, client.body) == (head, body)
        await pool.close()
    assert len(connections) == 1


# --- apps that close idle connections -----------------------------------------------------------------------


@dataclass
class Limit:
    """`says`: the app's Keep-Alive header, if any. Seconds."""

    seconds: float
    says: bytes = b""
    connections: int = field(default=0, compare=False)


@dataclass(eq=False)
class ImpatientApp(asyncio.Protocol):
    """Responds to requests whose body is one byte, and closes connections that are idle for its limit."""

    limit: Limit
    buffer: bytes = b""
    timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.limit.connections += 1

    def data_received(self, data: bytes) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.buffer += data
        head, end, body = self.buffer.partition(b"\r\n\r\n")
        if end and len(body) == (b"content-length" in head):
            self.buffer = b""
            self.transport.write(b"HTTP/1.1 200 OK\r\n%bcontent-length: 2\r\n\r\nok" % self.limit.says)
            loop = asyncio.get_running_loop()
            self.timer = loop.call_later(self.limit.seconds, self.transport.close)


@asynccontextmanager
async def impatient(limit: Limit) -> AsyncIterator[int]:
    server = await asyncio.get_running_loop().create_server(
        lambda: ImpatientApp(limit), "127.0.0.1", 0, backlog=CLIENTS
    )
    yield server.sockets[0].getsockname()[1]
    server.close()


#: Requests that follow the first, by the app's limit: gunicorn's, and shorter ones so that the test is short.
LIMITS = [(Limit(2.0), 2), (Limit(1.3), 3), (Limit(1.0, b"Keep-Alive: timeout=1, max=100\r\n"), 4)]
CLIENTS = 250


async def spaced(port: int, limit: Limit, rounds: int) -> list[str]:
    """The errors of one client, which sends a request whenever the app is about to close its connection."""
    pool = Http1Pool(Dialer("127.0.0.1", port, connect_timeout=30))  # all clients start at once
    errors = []
    for _ in range(rounds + 1):
        client = await fetch(pool, post(1))
        if client.error is not None:
            errors.append(f"limit {limit.seconds}: {client.error.message}")
        await asyncio.sleep(limit.seconds + random.uniform(-0.02, 0.02))
    await pool.close()
    return errors


async def test_none_of_2000_posts_is_lost_to_an_app_that_closes_its_idle_connections() -> None:
    async with impatient(LIMITS[0][0]) as a, impatient(LIMITS[1][0]) as b, impatient(LIMITS[2][0]) as c:
        clients = [
            spaced(port, limit, rounds)
            for port, (limit, rounds) in zip((a, b, c), LIMITS, strict=True)
            for _ in range(CLIENTS)
        ]
        assert sum(CLIENTS * rounds for _, rounds in LIMITS) > 2000
        assert [error for errors in await asyncio.gather(*clients) for error in errors] == []


@pytest.mark.parametrize(
    ("head", "says", "seconds", "connections"),
    [
        (get(), b"", 3.9, 1),
        (get(), b"", 5.5, 2),
        (get(method=b"DELETE"), b"", 3.9, 1),
        (post(1), b"", 0.9, 1),
        (post(1), b"", 1.1, 2),
        (get(method=b"PATCH"), b"", 1.1, 2),
        (get(), b"keep-alive: timeout=3\r\n", 1.4, 1),
        (get(), b"keep-alive: timeout=3\r\n", 1.6, 2),
        (post(1), b"keep-alive: timeout=1\r\n", 0.4, 1),
        (post(1), b"keep-alive: timeout=1\r\n", 0.6, 2),
        (get(), b"keep-alive: max=100, timeout=0\r\n", 0.0, 2),
        (get(), b"keep-alive: timeout=600\r\n", 5.5, 2),
        (get(), b"keep-alive: xtimeout=0\r\n", 0.1, 1),
    ],
)
async def test_an_idle_connection_is_used_for_as_long_as_that_is_safe(
    head: RequestHead, says: bytes, seconds: float, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = Limit(60, says)
    loop = asyncio.get_running_loop()
    async with impatient(limit) as port:
        pool = Http1Pool(Dialer("127.0.0.1", port))
        now = loop.time()
        monkeypatch.setattr(loop, "time", lambda: now)
        await fetch(pool, head)
        monkeypatch.setattr(loop, "time", lambda: now + seconds)
        client = Client()
        stream = pool.open(head, client)  # before any timer fires
        monkeypatch.undo()
        if head.framing is not Framing.NONE:
            stream.send_data(b"x")
            stream.send_end([])
        await asyncio.wait_for(client.done.wait(), PATIENCE_S)
        assert client.error is None
        assert limit.connections == connections
        await pool.close()


# --- an app that serves one connection at a time ------------------------------------------------------------


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET

    def log_message(self, format: str, *args: object) -> None: ...


@asynccontextmanager
async def single_threaded_app() -> AsyncIterator[int]:
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        try:
            yield server.server_port
        finally:
            await asyncio.to_thread(server.shutdown)  # it waits until the last connection is closed
            thread.join()


async def test_an_app_that_serves_one_connection_at_a_time_is_not_blocked_by_an_idle_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http1_pool, "IDLE_SECONDS", 3600.0)  # for which one idle connection would block it
    async with single_threaded_app() as port:
        pool = Http1Pool(Dialer("127.0.0.1", port))
        try:
            for heads in ([get(), get()], [post(1), post(1)], [get(), post(1)] * 3):
                for client in await asyncio.gather(*(fetch(pool, head) for head in heads)):
                    assert client.error is None
        finally:
            await pool.close()


async def test_a_request_that_waits_long_closes_no_connection_that_others_use() -> None:
    limit = Limit(60)
    async with impatient(limit) as port:
        pool = Http1Pool(Dialer("127.0.0.1", port))
        slow = pool.open(post(1), Client())  # its body never comes
        loop = asyncio.get_running_loop()
        end, long_gaps = loop.time() + 5 * BLOCKED_SECONDS, 0
        while (now := loop.time()) < end:
            assert (await fetch(pool, post(1))).error is None
            await asyncio.sleep(BLOCKED_SECONDS / 10)
            long_gaps += loop.time() - now >= BLOCKED_SECONDS  # on a busy machine
        slow.cancel()
        await pool.close()
    assert limit.connections <= 2 + long_gaps


# --- an app that is about to start --------------------------------------------------------------------------


@pytest.mark.parametrize("head", [get(), post(1)], ids=["GET", "POST"])
async def test_a_request_waits_for_an_app_that_restarts(head: RequestHead) -> None:
    port = free_port()
    pool = NegotiatingUpstream(
        Dialer("127.0.0.1", port, unreachable=AppUnreachable, retry_refused=PATIENCE_S)
    )
    early = asyncio.ensure_future(fetch(pool, head))
    with pytest.raises(AppUnreachable, match="refused"):
        await pool.probe()  # which does not wait
    app = await asyncio.get_running_loop().create_server(lambda: ImpatientApp(Limit(60)), "127.0.0.1", port)
    assert (await early).heads[0].status == 200
    app.close()
    await pool.close()


@pytest.mark.parametrize("pool", [Http1Pool, Http2Pool])
async def test_an_app_that_does_not_come_back_is_an_error_after_the_time_for_it(
    pool: type[Http1Pool | Http2Pool],
) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    upstream = pool(Dialer("127.0.0.1", free_port(), unreachable=AppUnreachable, retry_refused=0.2))
    client = await fetch(upstream, get())
    assert isinstance(client.error, AppUnreachable)
    assert "refused the connection" in client.error.message
    assert 0.1 <= loop.time() - start < 10
    await upstream.close()


@asynccontextmanager
async def closing_port() -> AsyncIterator[int]:
    """As the port of a container whose app does not listen yet."""

    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(close, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


async def test_a_port_that_closes_each_connection_is_not_an_app_that_serves() -> None:
    async with closing_port() as port:
        pool = NegotiatingUpstream(Dialer("127.0.0.1", port))
        with pytest.raises(TargetUnreachable, match="accepts connections and closes them at once") as caught:
            await pool.probe()
        assert "still starting" in caught.value.hint
        client = await fetch(pool, get())
        assert client.error is not None
        assert "accepted the connection, and closed it before it responded" in client.error.message
        assert "still starting" in client.error.hint
        await pool.close()


async def test_an_app_that_speaks_first_as_http2_does_is_one_that_serves() -> None:
    async with h2_peer.serving(lambda peer: peer.turn()) as port:
        pool = NegotiatingUpstream(Dialer("127.0.0.1", port))
        await pool.probe()
        await pool.close()


async def test_a_probed_connection_carries_the_next_request() -> None:
    limit = Limit(60)
    async with impatient(limit) as port:
        pool = NegotiatingUpstream(Dialer("127.0.0.1", port))
        await pool.probe()
        await eventually(lambda: limit.connections == 1)
        assert (await fetch(pool, post(1))).error is None
        assert limit.connections == 1
        await pool.close()


async def test_an_upload_that_was_deferred_holds_its_source_until_the_app_reads() -> None:
    size, paused = 64 * 1024 * 1024, []

    async def read_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        paused.append(sink.events[-1] == "pause")
        await reader.readexactly(size)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    app = await asyncio.start_server(read_late, "127.0.0.1", 0, limit=1024)
    pool = Http1Pool(Dialer("127.0.0.1", app.sockets[0].getsockname()[1]))
    sink = RecordingSink()
    stream = DeferredStream(post(size), sink)
    async with app:
        stream.send_data(bytes(size))
        stream.begin(pool)
        stream.send_end([])
        await sink.until(lambda events: events[-1] == "end")
    assert (paused, sink.events[-3:]) == ([True], ["resume", 200, "end"])
    await pool.close()


def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let localhost be ::1 and 127.0.0.1, as on most laptops."""
    loop = asyncio.get_running_loop()
    look_up = loop.getaddrinfo

    async def both(host: str, port: int, **more: int) -> list[object]:
        return [*await look_up("::1", port, **more), *await look_up("127.0.0.1", port, **more)]

    monkeypatch.setattr(loop, "getaddrinfo", both)


async def test_of_two_apps_on_localhost_the_one_that_answered_is_the_one_that_is_meant(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also while it restarts, and until it stays away."""
    two_addresses(monkeypatch)
    loop = asyncio.get_running_loop()
    here, there = Limit(60), Limit(60)
    port = free_port()
    first = await loop.create_server(lambda: ImpatientApp(here), "::1", port)
    pool = Http1Pool(Dialer("localhost", port, connect_timeout=PATIENCE_S, retry_refused=PATIENCE_S))
    assert (await fetch(pool, get())).error is None
    other = await loop.create_server(lambda: ImpatientApp(there), "127.0.0.1", port)
    first.close()
    pool.close_idle()
    restarting = asyncio.ensure_future(fetch(pool, get()))
    await quiet(lambda: pool.in_flight)  # it has been refused once
    first = await loop.create_server(lambda: ImpatientApp(here), "::1", port)
    assert (await restarting).error is None
    assert (here.connections, there.connections) == (2, 0)
    first.close()
    pool.close_idle()
    client = Client()
    pool.open(get(), client)
    await quiet(lambda: pool.in_flight)
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + PATIENCE_S)  # for which it has stayed away
    await asyncio.wait_for(client.done.wait(), PATIENCE_S)
    assert client.error is None
    assert (here.connections, there.connections) == (2, 1)
    other.close()
    await pool.close()
