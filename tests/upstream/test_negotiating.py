"""RPCs of all kinds, over both HTTP versions, to apps that speak one of them: the app gets what the client
speaks, if it understands that."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import h2.events
import pytest

from devroute.downstream.listener import Listener
from devroute.http.message import VIA_HTTP2, Framing, RequestHead
from devroute.upstream import negotiating
from devroute.upstream.dialer import Dialer
from devroute.upstream.negotiating import NegotiatingUpstream
from tests.support import h2_peer
from tests.support.data_port import always, app_behind, data_port
from tests.support.eventually import eventually
from tests.support.loopback import Client, get
from tests.support.ports import free_port

MESSAGES = [b"first", b"second"]


# --- apps that echo each message as it comes ----------------------------------------------------------------


async def play_http2(peer: h2_peer.Peer) -> None:
    while not peer.ended:
        events, peer.events = peer.events, []
        for event in events:
            if isinstance(event, h2.events.RequestReceived):
                peer.answer(event.stream_id, (b"x-app", b"h2"))
            elif isinstance(event, h2.events.DataReceived) and event.data:
                peer.send(event.stream_id, event.data)
            elif isinstance(event, h2.events.StreamEnded):
                peer.trailers(event.stream_id, (b"grpc-status", b"0"))
        await peer.turn()


async def serve_http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while (head := await reader.readuntil(b"\r\n\r\n")).startswith(b"POST "):
            assert b"transfer-encoding: chunked" in head
            writer.write(b"HTTP/1.1 200 OK\r\nx-app: h1\r\ntransfer-encoding: chunked\r\n\r\n")
            size = 1
            while size:
                size = int(line := await reader.readuntil(b"\r\n"), 16)
                writer.write(line + await reader.readexactly(size + 2))
        writer.write(b"HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-length: 0\r\n\r\n")
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


@asynccontextmanager
async def running_app(kind: str) -> AsyncIterator[int]:
    if kind == "h2":
        async with h2_peer.serving(play_http2) as port:
            yield port
    else:
        server = await asyncio.start_server(serve_http1, "127.0.0.1", free_port())  # may be used again
        yield server.sockets[0].getsockname()[1]
        server.close()


@asynccontextmanager
async def reaching(app: str, way: str) -> AsyncIterator[tuple[int, Listener]]:
    async with (
        running_app(app) as port,
        app_behind(port, way) as (upstream, _),
        data_port(always(upstream)) as found,
    ):
        yield found


# --- clients that send a message, wait for its echo, and send the next --------------------------------------


async def call_http2(port: int, kind: bytes, server: Listener, wait: float) -> bytes | int:
    """The version that the app was spoken to in; or the status of an error."""
    peer = await h2_peer.dial(port)
    number = peer.request((b"content-type", kind), end=False, grpc=False)
    try:
        for message in MESSAGES:
            peer.send(number, message)
            server.tick(server.now + wait)
            if message is MESSAGES[0]:
                head = await peer.until(h2.events.ResponseReceived, number=number)
                fields = dict(head.headers)  # type: ignore[attr-defined]
                if (status := int(fields[b":status"])) != 200:
                    return status
                if b"x-app" not in fields:
                    return 502  # an error of gRPC's
            data = await peer.until(h2.events.DataReceived, number=number)
            assert data.data == message  # type: ignore[attr-defined]
        peer.send(number, b"", end=True)
        await peer.until(h2.events.StreamEnded, number=number)
        return fields[b"x-app"]
    finally:
        peer.close()


async def call_http1(port: int, kind: bytes, server: Listener, wait: float) -> bytes | int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        head = b"POST / HTTP/1.1\r\nhost: foo\r\ntransfer-encoding: chunked\r\ncontent-type: %b\r\n\r\n"
        writer.write(head % kind)
        for message in MESSAGES:
            chunk = b"%x\r\n%b\r\n" % (len(message), message)
            writer.write(chunk)
            server.tick(server.now + wait)
            if message is MESSAGES[0]:
                head = await reader.readuntil(b"\r\n\r\n")
                if not head.startswith(b"HTTP/1.1 200 "):
                    return int(head.split()[1])
            assert await reader.readexactly(len(chunk)) == chunk
        writer.write(b"0\r\n\r\n")
        assert (await reader.readuntil(b"\r\n\r\n") or b"").startswith(b"0\r\n")
        return head.partition(b"x-app: ")[2][:2]
    finally:
        writer.transport.abort()


CALLS = {"h1": call_http1, "h2": call_http2}
#: By the versions of client and app, what the app was spoken to in; gRPC is always HTTP/2.
EXPECTED = {("h1", "h1"): b"h1", ("h1", "h2"): 502, ("h2", "h1"): b"h1", ("h2", "h2"): b"h2"}
EXPECTED_GRPC = {("h1", "h1"): 502, ("h1", "h2"): b"h2", ("h2", "h1"): 502, ("h2", "h2"): b"h2"}
KINDS = [
    b"application/proto",
    b"application/connect+proto",
    b"application/grpc-web+proto",
    b"application/grpc",
]


@pytest.mark.parametrize("way", ["direct", "tunnel"])
@pytest.mark.parametrize(("client", "app"), EXPECTED)
async def test_each_call_reaches_the_app_in_a_version_that_it_understands(
    client: str, app: str, way: str
) -> None:
    async with reaching(app, way) as (port, server), asyncio.timeout(20):
        for kind in [*KINDS, *KINDS]:
            expected = (EXPECTED_GRPC if kind == KINDS[-1] else EXPECTED)[client, app]
            assert await CALLS[client](port, kind, server, 0) == expected, kind


@pytest.mark.parametrize(("client", "app"), [("h1", "h1"), ("h2", "h1"), ("h2", "h2")])
async def test_a_stream_of_connect_may_be_idle_for_longer_than_a_body(client: str, app: str) -> None:
    async with reaching(app, "direct") as (port, server), asyncio.timeout(20):
        assert await CALLS[client](port, b"application/connect+json", server, 30) == app.encode()


async def test_an_app_that_restarts_with_another_version_is_asked_again() -> None:
    async with AsyncExitStack() as stack:
        async with running_app("h1") as port:
            pool = NegotiatingUpstream(Dialer("127.0.0.1", port))
            number, server = await stack.enter_async_context(data_port(always(pool)))
            assert await call_http2(number, KINDS[0], server, 0) == b"h1"
        pool.close_idle()
        assert await call_http2(number, KINDS[0], server, 0) == 502

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await play_http2(h2_peer.Peer(reader, writer, client=False))

        again = await asyncio.start_server(connected, "127.0.0.1", port)
        assert await call_http2(number, KINDS[0], server, 0) == b"h2"
        await eventually(lambda: pool.in_flight == 0)
        again.close()
        await pool.close()


# --- in a process that has not loaded HTTP/2 ----------------------------------------------------------------

GRPC = b"POST / HTTP/1.1\r\nhost: foo\r\ncontent-type: application/grpc\r\ntransfer-encoding: chunked\r\n\r\n"
NEED_HTTP2 = {
    "grpc": RequestHead(b"POST", b"/", Framing.CHUNKED, 0, GRPC),
    "http2": RequestHead(b"GET", b"/", Framing.NONE, 0, b"GET / HTTP/1.1\r\nhost: foo\r\n" + VIA_HTTP2),
}


async def test_requests_that_wait_until_http2_is_loaded_are_all_answered_with_their_bodies() -> None:
    async with running_app("h2") as port:
        pool = NegotiatingUpstream(Dialer("127.0.0.1", port))
        clients = [Client() for _ in range(20)]
        for client in clients:
            stream = pool.open(NEED_HTTP2["grpc"], client)
            for message in MESSAGES:
                stream.send_data(message)
            stream.send_end([])
        also = Client()
        pool.open(NEED_HTTP2["http2"], also)
        assert (pool.busy, pool.in_flight) == (True, 21)
        async with asyncio.timeout(20):
            for client in (*clients, also):
                await client.done.wait()
        assert [client.body for client in clients] == [b"".join(MESSAGES)] * 20
        assert (also.error, also.heads[0].status) == (None, 200)
        assert pool.in_flight == 0
        await pool.close()


@pytest.mark.parametrize("kind", NEED_HTTP2)
async def test_a_request_that_is_cancelled_before_http2_is_loaded_reaches_no_app(kind: str) -> None:
    async with running_app("h2") as port:
        pool = NegotiatingUpstream(Dialer("127.0.0.1", port))
        client = Client()
        pool.open(NEED_HTTP2[kind], client).cancel()
        await eventually(lambda: pool.in_flight == 0)
        assert not pool.busy
        assert (client.heads, client.error) == ([], None)
        await pool.close()


@pytest.mark.parametrize("kind", NEED_HTTP2)
async def test_http2_that_cannot_be_loaded_fails_what_needs_it_and_is_tried_again(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_app("h2") as port, running_app("h1") as older, asyncio.timeout(20):
        pool, plain = (NegotiatingUpstream(Dialer("127.0.0.1", each)) for each in (port, older))
        with monkeypatch.context() as broken:
            broken.setitem(sys.modules, "devroute.upstream.http2_pool", None)
            client = await answered(pool, NEED_HTTP2[kind])
            assert client.error is not None
            assert client.error.message.startswith("HTTP/2 cannot be loaded: ")
            assert (await answered(plain, get())).heads[0].status == 505  # by an app that has no GET
        assert pool.in_flight == 0
        assert (await answered(pool, NEED_HTTP2[kind])).error is None
        for each in (pool, plain):
            await each.close()


async def test_without_a_thread_to_load_http2_in_requests_fail_until_there_is_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def load() -> None:
        raise RuntimeError("can't start new thread")

    async with running_app("h2") as port, asyncio.timeout(20):
        pool = NegotiatingUpstream(Dialer("127.0.0.1", port))
        with monkeypatch.context() as broken:
            broken.setattr(negotiating, "load_http2", load)
            client = await answered(pool, NEED_HTTP2["grpc"])
            assert client.error is not None
            assert client.error.message == "HTTP/2 cannot be loaded: can't start new thread"
        assert (await answered(pool, NEED_HTTP2["grpc"])).error is None
        await pool.close()


async def answered(pool: NegotiatingUpstream, head: RequestHead) -> Client:
    client = Client()
    stream = pool.open(head, client)
    if head.framing is not Framing.NONE:
        stream.send_end([])
    await client.done.wait()
    return client
