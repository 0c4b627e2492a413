"""HTTP/2 on real sockets, without Envoy: grpcio and hand-made frames at the data port, apps of both kinds
behind it, directly and through a tunnel."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import grpc
import h2.errors
import h2.events
import h2.settings
import pytest
from grpc import aio
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from devroute.downstream.context import CompletedExchange, Timeouts
from devroute.downstream.listener import Listener
from devroute.errors import AppUnreachable, DevrouteError, LaptopOffline, TargetDenied
from devroute.http.http2 import flood_guard, protocol
from devroute.http.message import InboundRequest
from devroute.routing.route import Route
from devroute.upstream.dialer import Dialer
from devroute.upstream.http1_pool import Http1Pool
from devroute.upstream.http2_pool import Http2Pool
from devroute.upstream.interface import Upstream
from devroute.upstream.negotiating import NegotiatingUpstream
from tests.support import grpc_app
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.h2_peer import MESH, Fields, Peer, dial, serving
from tests.support.loopback import App, AppStream, BulkApp, Client, answer, get, head, tunnel
from tests.support.ports import free_port

MIB = 1024 * 1024
RESULT = b"x-devroute-result: laptop\r\nx-devroute-reason: foo answered by alice\r\n"
ENDS = (h2.events.DataReceived, h2.events.TrailersReceived, h2.events.StreamEnded)
ENHANCE_YOUR_CALM = h2.errors.ErrorCodes.ENHANCE_YOUR_CALM


class Port:
    """A data port in front of one upstream."""

    def __init__(self, upstream: Upstream) -> None:
        loop = asyncio.get_running_loop()
        self.route = Route(upstream, "foo", "alice", "laptop", "foo answered by alice")
        self.refuse: DevrouteError | None = None
        self.exchanges: list[CompletedExchange] = []
        timeouts = Timeouts(head=60, body=60, first_byte=60, idle=60, keep_alive=60, total=1000)
        self.server = Listener(self.router, timeouts, self.exchanges.append, loop.time())

    def router(self, request: InboundRequest) -> Route:
        if self.refuse is not None:
            raise self.refuse
        return self.route

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        self.listener = await loop.create_server(self.server.accept, "127.0.0.1", 0)
        self.number: int = self.listener.sockets[0].getsockname()[1]

    async def settled(self, count: int) -> None:
        await eventually(lambda: len(self.exchanges) >= count)


@asynccontextmanager
async def data_port(upstream: Upstream) -> AsyncIterator[Port]:
    port = Port(upstream)
    await port.start()
    try:
        yield port
    finally:
        port.listener.close()
        for connection in list(port.server.connections):
            connection.abort()


@asynccontextmanager
async def peer(port: int, **options: Any) -> AsyncIterator[Peer]:
    made = await dial(port, **options)
    try:
        yield made
    finally:
        made.close()


@asynccontextmanager
async def client_of(app: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[Peer]:
    """A client, the data port, Http2Pool, and an app that plays its part on each connection."""
    async with AsyncExitStack() as stack:
        number = await stack.enter_async_context(serving(app))
        port = await stack.enter_async_context(data_port(Http2Pool(Dialer("127.0.0.1", number))))
        yield await stack.enter_async_context(peer(port.number))


# --- gRPC, as grpcio speaks it -----------------------------------------------------------------------------


@pytest.fixture(params=["direct", "tunnel"])
async def channel(request: pytest.FixtureRequest) -> AsyncIterator[aio.Channel]:
    """grpcio's client, the data port, Http2Pool (behind a tunnel, or not), grpcio's server."""
    async with AsyncExitStack() as stack:
        server, number = await grpc_app.start()
        stack.push_async_callback(server.stop, None)
        app: Upstream
        if request.param == "direct":
            app = Http2Pool(Dialer("127.0.0.1", number))
            stack.push_async_callback(app.close)
        else:
            # Of a service without a scheme each request says what it needs.
            laptop = NegotiatingUpstream(Dialer("127.0.0.1", number, unreachable=AppUnreachable))
            stack.push_async_callback(laptop.close)
            site, _ = await stack.enter_async_context(tunnel(laptop))
            app = site.upstream()
        port = await stack.enter_async_context(data_port(app))
        yield await stack.enter_async_context(aio.insecure_channel(f"127.0.0.1:{port.number}"))


async def test_unary_calls_with_repeated_and_binary_metadata_in_all_three_places(
    channel: aio.Channel,
) -> None:
    sent = (("x-echo", "1"), ("x-echo", "2"), ("x-echo-bin", b"\0\xff\n"), ("x-echo-bin", b""))
    call = channel.unary_unary("/t/Unary")(b"\0\1\2", metadata=sent)
    assert await call == b"\0\1\2"
    for metadata in (await call.initial_metadata(), await call.trailing_metadata()):
        assert [(k, v) for k, v in metadata if k.startswith("x-echo")] == list(sent)
    assert dict(await call.initial_metadata())["x-devroute-result"] == "laptop"


async def test_streams_of_all_kinds(channel: aio.Channel) -> None:
    assert await channel.stream_unary("/t/Sum")(iter([b"x" * 1000] * 50)) == b"50000"
    sizes = [len(each) async for each in channel.unary_stream("/t/Count")(b"40 50000")]
    assert sizes == [50000] * 40
    echo = channel.stream_stream("/t/Echo")()
    for each in (b"a", b"", b"c" * 200_000):  # full duplex: each response before the next request
        await echo.write(each)
        assert await echo.read() == each
    await echo.done_writing()
    assert await echo.read() is aio.EOF
    assert await echo.code() is grpc.StatusCode.OK


async def test_the_apps_errors_arrive_with_their_words_and_metadata(channel: aio.Channel) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await channel.unary_unary("/t/Abort")("naïve 100 %".encode())
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "naïve 100 %"
    assert dict(caught.value.trailing_metadata())["x-why-bin"] == b"\0\xff"
    with pytest.raises(aio.AioRpcError) as caught:
        await channel.unary_unary("/t/Abort")(b"no user: ")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "no user:"
    late = channel.unary_stream("/t/Late")(b"one")
    assert await late.read() == b"one"
    with pytest.raises(aio.AioRpcError) as caught:
        await late.read()
    assert caught.value.code() is grpc.StatusCode.DATA_LOSS
    with pytest.raises(aio.AioRpcError) as caught:
        await channel.unary_unary("/t/Nothing")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_cancelled_call_ends_in_the_app_too(channel: aio.Channel) -> None:
    call = channel.unary_stream("/t/Hang")(b"")
    assert await call.read() == b"started"
    call.cancel()
    await asyncio.wait_for(channel.unary_unary("/t/Cancelled")(b""), PATIENCE_S)


async def test_a_deadline_ends_the_call_on_both_sides(channel: aio.Channel) -> None:
    await channel.unary_unary("/t/Unary")(b"")  # so that nothing has to connect or load any more
    call = channel.unary_stream("/t/Hang")(b"", timeout=8.0)
    assert await call.read() == b"started"
    assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(channel.unary_unary("/t/Cancelled")(b""), PATIENCE_S)


async def test_many_calls_at_once_each_get_their_own_response(channel: aio.Channel) -> None:
    unary = channel.unary_unary("/t/Unary")
    answers = await asyncio.gather(*(unary(b"%d" % number) for number in range(100)))
    assert answers == [b"%d" % number for number in range(100)]


# --- what stands on the wire -------------------------------------------------------------------------------


async def test_a_response_of_trailers_only_stays_one() -> None:
    async def app(peer: Peer) -> None:
        request = await peer.until(h2.events.RequestReceived)
        peer.answer(
            request.stream_id, (b"content-type", b"application/grpc"), (b"grpc-status", b"5"), end=True
        )
        await peer.until(h2.events.ConnectionTerminated)

    async with serving(app) as number, tunnel(Http2Pool(Dialer("127.0.0.1", number))) as (site, _):
        for upstream in (Http2Pool(Dialer("127.0.0.1", number)), site.upstream()):
            async with data_port(upstream) as port, peer(port.number) as client:
                fields, body, trailers, whole = await client.whole(client.request())
                assert (fields[b"grpc-status"], body, trailers, whole) == (b"5", b"", {}, True)
                assert b"content-length" not in fields
                assert fields[b"x-devroute-result"] == b"laptop"


async def test_a_request_reaches_the_app_as_it_was_sent() -> None:
    seen: list[Fields] = []

    async def app(peer: Peer) -> None:
        request = await peer.until(h2.events.RequestReceived)
        seen.append(request.headers)
        body = b""
        while not isinstance(
            event := await peer.until(h2.events.DataReceived, h2.events.TrailersReceived),
            h2.events.TrailersReceived,
        ):
            body += event.data
        seen.append([(b"body", body), *event.headers])
        peer.answer(request.stream_id)
        peer.trailers(request.stream_id, (b"grpc-status", b"0"), (b"x-t", b"1"), (b"x-t", b"2"))
        await peer.until(h2.events.ConnectionTerminated)

    async with client_of(app) as client:
        more = ((b"grpc-timeout", b"9S"), (b"cookie", b"a=1"), (b"cookie", b"b=2"), (b"x-obs", b"\xe4"))
        stream = client.request(*more, end=False)
        client.send(stream, b"abc")
        client.trailers(stream, (b"x-sum", b"1"))
        _, _, trailers, _ = await client.whole(stream)
        assert trailers == {b"grpc-status": b"0", b"x-t": b"2"}
    assert seen[0] == [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/t/Unary"),
        (b":authority", b"foo"),
        (b"content-type", b"application/grpc"),
        (b"x-devroute", MESH[0][1]),
        (b"grpc-timeout", b"9S"),
        (b"x-obs", b"\xe4"),
        (b"te", b"trailers"),
        (b"via", b"2.0 devroute"),
        (b"cookie", b"a=1; b=2"),
    ]
    assert seen[1] == [(b"body", b"abc"), (b"x-sum", b"1")]


async def test_http2_and_http11_clients_share_a_port_and_an_app() -> None:
    app = App(answer(b"hello"))
    async with data_port(app) as port:
        async with peer(port.number) as client:
            fields, body, _, _ = await client.whole(client.request(method=b"GET", path=b"/a?b", grpc=False))
        assert (fields[b":status"], fields[b"content-length"], body) == (b"200", b"5", b"hello")
        reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
        writer.write(b"GET /a?b HTTP/1.1\r\nhost: foo\r\nconnection: close\r\n\r\n")
        assert (await asyncio.wait_for(reader.read(), PATIENCE_S)).endswith(b"\r\n\r\nhello")
        writer.close()
    first, second = app.streams
    assert first.head.wire.startswith(b"GET /a?b HTTP/1.1\r\nhost: foo\r\nx-devroute: ")
    assert (first.head.framing, first.head.target) == (second.head.framing, second.head.target)
    assert [(each.status, each.bytes_out) for each in port.exchanges] == [(200, 5), (200, 5)]


async def test_an_http11_client_reaches_an_app_that_speaks_http2_only() -> None:
    seen: list[Fields] = []

    async def app(peer: Peer) -> None:
        while True:
            request = await peer.until(h2.events.RequestReceived)
            seen.append(request.headers)
            body = b""
            while not isinstance(event := await peer.until(*ENDS), h2.events.StreamEnded):
                body += event.data if isinstance(event, h2.events.DataReceived) else b""
            peer.wire.send_headers(request.stream_id, [(b":status", b"103"), (b"link", b"</a>")])
            peer.answer(request.stream_id, (b"x-method", dict(request.headers)[b":method"]))
            if body:
                peer.send(request.stream_id, body)
            peer.trailers(request.stream_id, (b"x-sum", b"1"))

    async with serving(app) as number, data_port(Http2Pool(Dialer("127.0.0.1", number))) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
        writer.write(
            b"POST /a HTTP/1.1\r\nHost: foo\r\nTE: trailers\r\nConnection: te, upgrade\r\nUpgrade: x\r\n"
            b"Transfer-Encoding: chunked\r\nX-Case: Kept\r\n\r\n3\r\nabc\r\n0\r\nx-more: 1\r\n\r\n"
            b"HEAD /b HTTP/1.1\r\nhost: foo\r\nconnection: close\r\n\r\n"
        )
        both = await asyncio.wait_for(reader.read(), PATIENCE_S)
        writer.close()
    assert both.split(RESULT) == [
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nx-method: POST\r\n",
        b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n"
        b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nx-method: HEAD\r\n",
        b"connection: close\r\n\r\n",
    ]
    assert (b"te", b"trailers") in seen[0]
    assert (b"x-case", b"Kept") in seen[0]
    assert not {b"connection", b"upgrade", b"transfer-encoding", b"host"} & {name for name, _ in seen[0]}


async def test_the_preface_may_come_in_pieces_but_only_first() -> None:
    async with data_port(App(answer(b"hello"))) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
        for place in range(len(protocol.PREFACE)):
            writer.write(protocol.PREFACE[place : place + 1])
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(SettingsFrame(0).serialize())
        assert (await asyncio.wait_for(reader.readexactly(9), PATIENCE_S))[3] == 4
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
        writer.write(b"GET / HTTP/1.1\r\nhost: foo\r\n\r\n" + protocol.PREFACE)
        both = await asyncio.wait_for(reader.read(), PATIENCE_S)
        assert both.count(b"HTTP/1.1 ") == 2
        assert b"HTTP/1.1 400 " in both
        writer.close()


# --- errors ------------------------------------------------------------------------------------------------


async def test_errors_are_grpc_for_grpc_and_json_for_all_other_requests() -> None:
    async with data_port(App()) as port, peer(port.number) as client:
        port.refuse = LaptopOffline("laptop 'zoë' is offline", hint="ask her")
        fields, body, _, whole = await client.whole(client.request())
        assert whole
        assert (fields[b":status"], fields[b"content-type"]) == (b"200", b"application/grpc")
        assert fields[b"grpc-status"] == b"14"
        assert fields[b"grpc-message"] == b"laptop 'zo%C3%AB' is offline (ask her)"
        assert (fields[b"x-devroute-result"], fields[b"x-devroute-reason"]) == (
            b"error",
            b"laptop 'zo?' is offline",
        )
        fields, body, _, _ = await client.whole(client.request((b"x-request-id", b"7"), grpc=False))
        assert (fields[b":status"], fields[b"x-devroute-result"]) == (b"503", b"error")
        assert (json.loads(body)["code"], json.loads(body)["request_id"]) == ("laptop-offline", "7")
        fields, body, _, _ = await client.whole(client.request(method=b"HEAD", grpc=False))
        assert (fields[b":status"], body) == (b"503", b"")
    assert [each.status for each in port.exchanges] == [503] * 3


async def test_a_request_answered_early_is_not_read_to_its_end() -> None:
    async with data_port(App()) as port, peer(port.number) as client:
        port.refuse = LaptopOffline("nobody here")
        stream = client.request(end=False, grpc=False)
        client.send(stream, bytes(1000))
        fields, _, _, _ = await client.whole(stream)
        assert fields[b":status"] == b"503"
        reset = await client.until(h2.events.StreamReset)
        assert reset.error_code is h2.errors.ErrorCodes.NO_ERROR


async def test_a_response_that_is_cut_off_never_looks_complete() -> None:
    def serve(stream: AppStream) -> None:
        stream.sink.on_head(head(200))
        stream.sink.on_data(b"half")
        stream.sink.on_error(LaptopOffline("gone"))

    async with data_port(App(serve)) as port, peer(port.number) as client:
        stream = client.request()
        reset = await client.until(h2.events.StreamReset, h2.events.StreamEnded, number=stream)
        assert isinstance(reset, h2.events.StreamReset)
        assert reset.error_code is h2.errors.ErrorCodes.INTERNAL_ERROR


async def test_an_app_that_opens_a_stream_of_its_own_is_cut_off() -> None:
    async def app(peer: Peer) -> None:
        await peer.until(h2.events.RequestReceived)
        peer.raw(HeadersFrame(58, data=b"\x88", flags=["END_HEADERS"]))
        await peer.goodbye()

    async with client_of(app) as client:
        heads, *_ = await client.whole(client.request(grpc=False))
    assert heads[b":status"] == b"502"


async def test_an_app_that_resets_a_request_ends_it() -> None:
    async def app(peer: Peer) -> None:
        while True:
            request = await peer.until(h2.events.RequestReceived)
            if (b":path", b"/late") in request.headers:
                peer.answer(request.stream_id)
                peer.send(request.stream_id, b"half")
            peer.wire.reset_stream(request.stream_id, 8)
            peer.flush()

    async with client_of(app) as client:
        fields, _, _, _ = await client.whole(client.request())
        assert fields[b"grpc-status"] == b"14"
        assert b"reset the request (CANCEL)" in fields[b"grpc-message"]
        late = client.request(path=b"/late")
        over = await client.until(h2.events.StreamReset, h2.events.StreamEnded, number=late)
        assert isinstance(over, h2.events.StreamReset)


async def test_the_callers_deadline_is_kept_where_the_app_does_not() -> None:
    def starts(stream: AppStream) -> None:
        if stream.head.target == b"/late":
            stream.sink.on_head(head(200))
            stream.sink.on_data(b"some")

    app = App(starts)
    async with data_port(app) as port, peer(port.number) as client:
        fields, _, _, whole = await client.whole(client.request((b"grpc-timeout", b"50m")))
        assert (whole, fields[b"grpc-status"], fields[b"x-devroute-result"]) == (True, b"4", b"error")
        late = client.request((b"grpc-timeout", b"50000u"), path=b"/late")
        _, body, trailers, _ = await client.whole(late)
        assert (body, trailers[b"grpc-status"]) == (b"some", b"4")
        for stream in app.streams:
            await asyncio.wait_for(stream.cancelled.wait(), PATIENCE_S)
    assert [each.error.code for each in port.exchanges if each.error] == ["upstream-timeout"] * 2


@pytest.mark.parametrize("leave", ["reset", "close"])
async def test_a_client_that_leaves_cancels_its_requests(leave: str) -> None:
    app = App()
    async with data_port(app) as port, peer(port.number) as client:
        streams = [client.request(end=False) for _ in range(3)]
        await eventually(lambda: len(app.streams) == 3)
        if leave == "close":
            client.close()
        else:
            for stream in streams:
                client.wire.reset_stream(stream, 8)
            client.flush()
        for each in app.streams:
            await asyncio.wait_for(each.cancelled.wait(), PATIENCE_S)
        await port.settled(3)
    assert {each.error.code for each in port.exchanges if each.error} == {"client-closed"}


async def test_an_app_that_is_absent_or_speaks_another_protocol() -> None:
    async def says(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    listening = await asyncio.start_server(says, "127.0.0.1", 0)
    closing = await asyncio.start_server(closes, "127.0.0.1", 0)
    numbers = [server.sockets[0].getsockname()[1] for server in (listening, closing)]
    wanted = [
        (b"does not speak HTTP/2 but HTTP/1.1", "upstream-invalid"),
        (b"instead of speaking HTTP/2", "upstream-invalid"),
        (b"refused the connection", "app-unreachable"),
    ]
    for number, (words, code) in zip((*numbers, free_port()), wanted, strict=True):
        upstream = Http2Pool(Dialer("127.0.0.1", number, unreachable=AppUnreachable))
        async with data_port(upstream) as port, peer(port.number) as client:
            fields, _, _, _ = await client.whole(client.request())
            assert fields[b"grpc-status"] == b"14"
            assert words in fields[b"grpc-message"]
            assert port.exchanges[0].error is not None
            assert port.exchanges[0].error.code == code
        assert not upstream.busy
        with pytest.raises(DevrouteError, match=words.decode()):
            await upstream.probe()
    listening.close()
    closing.close()


MALFORMED: list[tuple[str, Fields]] = [
    ("upper case in a name", [(b"X-Upper", b"1")]),
    ("a name that holds a colon", [(b"x:y", b"1")]),
    ("a name that ends a name", [(b"x: y", b"1")]),
    ("an empty name", [(b"", b"1")]),
    ("a line break in a value", [(b"x", b"1\r\nx-devroute-matched: bar")]),
    ("a bare LF in a value", [(b"x", b"1\ny: 2")]),
    ("a line break in a name", [(b"x: 1\r\ny", b"1")]),
    ("NUL in a value", [(b"x", b"\0")]),
    ("a line break at the end of a value", [(b"x", b"1\r\n")]),
    ("connection", [(b"connection", b"x")]),
    ("transfer-encoding", [(b"transfer-encoding", b"chunked")]),
    ("upgrade", [(b"upgrade", b"websocket")]),
    ("te other than trailers", [(b"te", b"gzip")]),
    ("a pseudo-header field after others", [(b":path", b"/late")]),
    ("an unknown pseudo-header field", [(b":who", b"me")]),
    ("another host", [(b"host", b"bar")]),
    ("content-length of a body that does not come", [(b"content-length", b"5")]),
]

START: Fields = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"foo")]


def with_start(name: bytes, value: bytes | None) -> Fields:
    kept = [(key, old) for key, old in START if key != name]
    return kept if value is None else [*kept, (name, value)]


MALFORMED_STARTS: list[tuple[str, Fields]] = [
    ("no method", with_start(b":method", None)),
    ("no path", with_start(b":path", None)),
    ("no scheme", with_start(b":scheme", None)),
    ("no host", with_start(b":authority", None)),
    ("an empty path", with_start(b":path", b"")),
    ("a path that is none", with_start(b":path", b"a")),
    ("a line break in the path", with_start(b":path", b"/ HTTP/1.1\r\nx: 1\r\ny:")),
    ("a space in the path", with_start(b":path", b"/ a")),
    ("a line break in the method", with_start(b":method", b"GET / HTTP/1.1\r\nx: ")),
    ("a line break in the host", with_start(b":authority", b"foo\r\nx: 1")),
    ("two paths", [*START, (b":path", b"/")]),
    ("a status", [*START, (b":status", b"200")]),
    ("extended CONNECT", [*with_start(b":method", b"GET"), (b":protocol", b"websocket")]),
]


@pytest.mark.parametrize(
    "fields",
    [*([*START, *MESH, *more] for _, more in MALFORMED), *([*start, *MESH] for _, start in MALFORMED_STARTS)],
    ids=[name for name, _ in [*MALFORMED, *MALFORMED_STARTS]],
)
async def test_a_malformed_request_gets_its_400_and_no_other_request_suffers(fields: Fields) -> None:
    app = App(answer(b"hello"))
    async with data_port(app) as port, peer(port.number) as client:
        open_before = client.request(end=False, grpc=False)
        stream = client.wire.get_next_available_stream_id()
        client.wire.send_headers(stream, fields, end_stream=True)
        client.flush()
        found, body, _, _ = await client.whole(stream)
        assert found[b":status"] == b"400"
        assert json.loads(body)["code"] == "request-malformed"
        client.send(open_before, b"", end=True)
        assert (await client.whole(open_before))[1] == b"hello"
    assert len(app.streams) == 1


# --- bodies of another length than their head announces (RFC 9113 §8.1.1)


@pytest.mark.parametrize(
    ("pieces", "trailers", "what"),
    [
        ([b"12345"], False, "shorter"),
        ([b"12345"], True, "shorter"),
        ([b""], True, "shorter"),
        ([b"123456789012345"], False, "longer"),
        ([b"123456789", b"012345"], True, "longer"),
    ],
)
async def test_a_request_of_another_length_gets_its_400_and_the_app_never_its_end(
    pieces: list[bytes], trailers: bool, what: str
) -> None:
    """Over HTTP/1.1 the app would take the next request on its connection for the rest of the body."""
    app = App()
    async with data_port(app) as port, peer(port.number) as client:
        other = client.request(end=False, grpc=False)
        stream = client.request((b"content-length", b"10"), end=False, grpc=False)
        for piece in pieces[:-1]:
            client.send(stream, piece)
        client.send(stream, pieces[-1], end=not trailers)
        if trailers:
            client.trailers(stream, (b"x-sum", b"1"))
        fields, body, _, _ = await client.whole(stream)
        assert fields[b":status"] == b"400"
        assert f"is {what} than its content-length, 10 bytes" in json.loads(body)["message"]
        await asyncio.wait_for(app.streams[1].cancelled.wait(), PATIENCE_S)
        assert not app.streams[1].ended
        assert len(app.streams[1].body) <= 10
        # Another request of the same connection suffers nothing.
        client.send(other, b"", end=True)
        await asyncio.wait_for(app.streams[0].complete.wait(), PATIENCE_S)
        answer(b"hello")(app.streams[0])
        assert (await client.whole(other))[1] == b"hello"


@pytest.mark.parametrize("end", [True, False], ids=["ended", "open"])
@pytest.mark.parametrize("length", [0, 10])
async def test_no_byte_after_a_requests_length_reaches_an_app_that_speaks_http_1_1(
    length: int, end: bool
) -> None:
    """It would be another request there, which has passed no policy."""
    received: list[bytearray] = []  # by connection
    ended = 0

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal ended
        received.append(bytearray())
        own = received[-1]
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                own.extend(data)
        writer.close()
        ended += 1

    smuggled = b"GET /smuggled HTTP/1.1\r\nhost: foo\r\n\r\n"
    server = await asyncio.start_server(app, "127.0.0.1", 0)
    dialer = Dialer("127.0.0.1", server.sockets[0].getsockname()[1])
    async with server, data_port(Http1Pool(dialer)) as port, peer(port.number) as client:
        stream = client.request((b"content-length", b"%d" % length), end=False, grpc=False)
        await eventually(lambda: received and received[0])
        client.send(stream, bytes(length) + smuggled, end=end)
        fields, body, _, _ = await client.whole(stream)
        assert fields[b":status"] == b"400"
        assert f"longer than its content-length, {length} bytes" in json.loads(body)["message"]
        # While the app's connection is being made, too: the one before is closed.
        early = client.request((b"content-length", b"%d" % length), end=False, grpc=False)
        client.send(early, bytes(length) + smuggled, end=end)
        assert (await client.whole(early))[0][b":status"] == b"400"
        await port.settled(2)
        await eventually(lambda: ended == len(received))  # nothing more can come
    assert not any(b"/smuggled" in each for each in received)


@pytest.mark.parametrize(
    ("length", "pieces", "trailers"),
    [
        (b"5", [b"1234567"], False),
        (b"5", [b"123", b"4567"], True),
        (b"5", [b"123"], False),
        (b"5", [b"123"], True),
        (b"x", [b"123"], False),
    ],
)
@pytest.mark.parametrize("version", ["HTTP/2", "HTTP/1.1"])
async def test_a_response_of_another_length_never_looks_complete_and_no_other_one_suffers(
    length: bytes, pieces: list[bytes], trailers: bool, version: str
) -> None:
    async def app(peer: Peer) -> None:
        other = (await peer.until(h2.events.RequestReceived)).stream_id
        bad = (await peer.until(h2.events.RequestReceived)).stream_id
        peer.answer(other)
        peer.answer(bad, (b"content-length", length))
        for piece in pieces[:-1]:
            peer.send(bad, piece)
        peer.send(bad, pieces[-1], end=not trailers)
        if trailers:
            peer.trailers(bad, (b"x-sum", b"1"))
        peer.send(other, b"hello", end=True)
        while not peer.ended:
            await peer.turn()

    async with AsyncExitStack() as stack:
        number = await stack.enter_async_context(serving(app))
        port = await stack.enter_async_context(data_port(Http2Pool(Dialer("127.0.0.1", number))))
        client = await stack.enter_async_context(peer(port.number))
        other = client.request(grpc=False)
        await client.until(h2.events.RemoteSettingsChanged)
        await eventually(lambda: any(each.in_flight for each in port.server.connections))
        if version == "HTTP/2":
            stream = client.request(grpc=False)
            event = await client.until(h2.events.StreamReset, h2.events.StreamEnded, number=stream)
            if length == b"5":
                assert isinstance(event, h2.events.StreamReset)
            else:
                head = await client.until(h2.events.ResponseReceived, number=stream)
                assert dict(head.headers)[b":status"] == b"502"  # type: ignore[attr-defined]
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", port.number)
            writer.write(b"GET / HTTP/1.1\r\nhost: foo\r\nx-devroute: {}\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                if length == b"5":
                    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):  # noqa: PT012  # either
                        await reader.readuntil(b"\r\n\r\n")
                        await reader.readexactly(5)
                else:
                    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 502 ")
            writer.close()
        assert (await client.whole(other))[1] == b"hello"


async def test_a_response_without_a_body_may_have_any_length() -> None:
    """As a 304 has that of the response to GET (RFC 9110 §8.6)."""

    async def app(peer: Peer) -> None:
        for status in (b"200", b"304"):
            stream = (await peer.until(h2.events.RequestReceived)).stream_id
            peer.wire.send_headers(stream, [(b":status", status), (b"content-length", b"5")])
            peer.send(stream, b"", end=True)

    async with client_of(app) as client:
        for method, status in ((b"HEAD", b"200"), (b"GET", b"304")):
            fields, body, _, _ = await client.whole(client.request(method=method, grpc=False))
            assert (fields[b":status"], fields[b"content-length"], body) == (status, b"5", b"")


async def test_methods_that_are_not_forwarded() -> None:
    async with data_port(App()) as port, peer(port.number) as client:
        stream = client.wire.get_next_available_stream_id()
        client.wire.send_headers(
            stream, [(b":method", b"CONNECT"), (b":authority", b"foo:1")], end_stream=True
        )
        client.flush()
        assert (await client.whole(stream))[0][b":status"] == b"501"


# --- flow control ------------------------------------------------------------------------------------------


async def test_a_client_that_does_not_read_stops_the_app_and_no_other_stream() -> None:
    app = BulkApp()
    async with data_port(app) as port, peer(port.number, window=64 * 1024) as client:
        client.wire.increment_flow_control_window(16 * MIB)
        client.acknowledges = False
        slow = client.request(method=b"GET", path=b"/%d" % (8 * MIB), grpc=False)
        await client.until(h2.events.ResponseReceived, number=slow)
        await eventually(lambda: app.streams[0].paused)
        quick = client.request(method=b"GET", path=b"/1000", grpc=False)
        assert len((await client.whole(quick))[1]) == 1000
        assert app.streams[0].paused
        assert app.streams[0].left >= 7 * MIB
        # It reads again: all of it comes.
        got = sum(len(each.data) for each in client.events if isinstance(each, h2.events.DataReceived))
        assert got == 64 * 1024
        client.wire.acknowledge_received_data(got, slow)
        client.flush()
        client.acknowledges = True
        await client.until(h2.events.StreamEnded, number=slow)
        got = sum(len(each.data) for each in client.events if isinstance(each, h2.events.DataReceived))
        assert got == 8 * MIB


async def test_an_app_that_does_not_read_stops_the_client() -> None:
    """The window that the client has is what the app has not consumed: one stream's, and no more."""
    app = App()
    async with data_port(app) as port, peer(port.number) as client:
        stream = client.request(end=False, grpc=False)
        await client.until(h2.events.RemoteSettingsChanged)
        await client.until(h2.events.WindowUpdated)
        await eventually(lambda: bool(app.streams))
        app.streams[0].sink.pause_request()
        sent = 0
        while room := min(client.wire.local_flow_control_window(stream), 16384):
            client.send(stream, bytes(room))
            sent += room
        assert sent == protocol.STREAM_WINDOW
        other = client.request(end=False, grpc=False)
        client.send(other, b"x", end=True)
        client.wire.ping(b"12345678")  # what is answered after it has been read after it
        client.flush()
        await client.until(h2.events.PingAckReceived)
        assert (len(app.streams[0].body), bytes(app.streams[1].body)) == (0, b"x")
        assert client.wire.local_flow_control_window(stream) == 0
        app.streams[0].sink.resume_request()
        await client.until(h2.events.WindowUpdated, number=stream)
        assert len(app.streams[0].body) == sent


async def test_a_complete_response_outlives_its_connection() -> None:
    async def app(peer: Peer) -> None:
        request = await peer.until(h2.events.RequestReceived)
        peer.answer(request.stream_id)
        peer.send(request.stream_id, b"hello")
        peer.trailers(request.stream_id, (b"x-sum", b"1"))
        await peer.writer.drain()

    async with serving(app) as number:
        client = Client()
        upstream = Http2Pool(Dialer("127.0.0.1", number))
        stream = upstream.open(get(), client)
        stream.pause_response()
        await eventually(lambda: bool(client.heads) and not upstream.connected)
        assert not client.body
        stream.resume_response()
        await asyncio.wait_for(client.done.wait(), PATIENCE_S)
        assert (bytes(client.body), client.trailers, client.error) == (b"hello", [(b"x-sum", b"1")], None)
        assert not upstream.busy


# --- leaving -----------------------------------------------------------------------------------------------


async def test_a_draining_port_announces_it_finishes_open_streams_and_closes() -> None:
    app = App()
    async with data_port(app) as port, peer(port.number) as client:
        before = client.request(grpc=False)
        await eventually(lambda: bool(app.streams))
        port.server.drain()
        crossing = client.request(grpc=False)  # sent before the GOAWAY arrived
        first = await client.until(h2.events.ConnectionTerminated)
        assert first.error_code is h2.errors.ErrorCodes.NO_ERROR
        await eventually(lambda: len(app.streams) == 2)
        for stream in app.streams:
            answer(b"hello")(stream)
        assert (await client.whole(before))[1] == b"hello"
        assert (await client.whole(crossing))[1] == b"hello"
        while not client.ended:
            await client.turn()
        await asyncio.wait_for(port.server.drained.wait(), PATIENCE_S)


async def test_a_connection_that_is_idle_for_long_is_closed() -> None:
    async with data_port(App()) as port, peer(port.number) as client:
        await client.until(h2.events.RemoteSettingsChanged)
        port.server.tick(port.server.now + 61)
        assert await client.goodbye() is h2.errors.ErrorCodes.NO_ERROR
    assert not port.server.connections


async def test_the_apps_goaway_loses_no_request() -> None:
    """A GOAWAY names the last stream that the app has seen; what came after goes to the next connection."""
    bodies: list[bytes] = []
    connections = 0

    async def app(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            first = await peer.until(h2.events.RequestReceived)
            await peer.until(h2.events.RequestReceived)
            peer.wire.close_connection(last_stream_id=first.stream_id)
            peer.answer(first.stream_id, end=True)
            while not peer.ended:
                await peer.turn()
            return
        request = await peer.until(h2.events.RequestReceived)
        bodies.append((await peer.until(h2.events.DataReceived)).data)
        peer.answer(request.stream_id, end=True)
        while not peer.ended:
            await peer.turn()

    async with client_of(app) as client:
        one, two = client.request(end=False), client.request(end=False)
        client.send(two, b"unary", end=True)
        assert (await client.whole(two))[0][b":status"] == b"200"
        assert (await client.whole(one))[0][b":status"] == b"200"
    assert (connections, bodies) == (2, [b"unary"])


async def test_a_refused_request_is_sent_once_more_and_only_once() -> None:
    requests = 0

    async def app(peer: Peer) -> None:
        nonlocal requests
        while True:
            request = await peer.until(h2.events.RequestReceived)
            requests += 1
            peer.wire.reset_stream(request.stream_id, h2.errors.ErrorCodes.REFUSED_STREAM)
            peer.flush()

    async with client_of(app) as client:
        assert (await client.whole(client.request()))[0][b"grpc-status"] == b"14"
    assert requests == 2


async def test_an_app_that_allows_one_stream_gets_several_connections() -> None:
    connections = 0
    gate = asyncio.Event()

    async def app(peer: Peer) -> None:
        nonlocal connections
        connections += 1
        while True:
            request = await peer.until(h2.events.RequestReceived)
            await gate.wait()
            peer.answer(request.stream_id, end=True)

    async with serving(app, streams=1) as number:
        upstream = Http2Pool(Dialer("127.0.0.1", number))
        async with data_port(upstream) as port, peer(port.number) as client:
            streams = [client.request() for _ in range(4)]
            await eventually(lambda: connections == 4)
            gate.set()
            for stream in streams:
                assert (await client.whole(stream))[0][b":status"] == b"200"


async def test_a_new_policy_takes_effect_on_busy_connections_too() -> None:
    permitted = True

    def permit(host: str, port: int) -> None:
        if not permitted:
            raise TargetDenied("not any more")

    async def app(peer: Peer) -> None:
        while not peer.ended:
            await peer.turn()

    async with serving(app) as number:
        upstream = Http2Pool(Dialer("127.0.0.1", number, permit=permit))
        async with data_port(upstream) as port, peer(port.number) as client:
            client.request(end=False)
            await eventually(lambda: upstream.in_flight == 1 and upstream.connected)
            permitted = False
            upstream.close_idle()
            assert (await client.whole(client.request()))[0][b"grpc-status"] == b"7"


async def test_a_new_policy_takes_effect_on_connections_that_are_being_opened_too() -> None:
    permitted, speak, accepted = True, asyncio.Event(), 0

    def permit(host: str, port: int) -> None:
        if not permitted:
            raise TargetDenied("not any more")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        await speak.wait()
        app = Peer(reader, writer, client=False)
        while not app.ended:
            await app.turn()
            requests.extend(each for each in app.events if isinstance(each, h2.events.RequestReceived))
        writer.close()

    requests: list[h2.events.Event] = []
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    upstream = Http2Pool(Dialer("127.0.0.1", server.sockets[0].getsockname()[1], permit=permit))
    async with server, data_port(upstream) as port, peer(port.number) as client:
        stream = client.request()
        await eventually(lambda: accepted)
        permitted = False
        upstream.close_idle()
        speak.set()
        assert (await client.whole(stream))[0][b"grpc-status"] == b"7"
        assert (requests, upstream.connected) == ([], False)
        await eventually(lambda: not upstream.busy)


# --- attacks -----------------------------------------------------------------------------------------------


async def test_streams_beyond_the_limit_are_refused_one_by_one() -> None:
    async with data_port(App()) as port, peer(port.number) as client:
        client.wire.remote_settings.update({h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS: 1 << 20})
        client.wire.remote_settings.acknowledge()
        streams = [client.request() for _ in range(protocol.MAX_STREAMS + 2)]
        refused = {(await client.until(h2.events.StreamReset)).stream_id for _ in range(2)}
        assert refused == set(streams[-2:])


async def test_rapid_reset_ends_the_connection() -> None:
    app = App()
    async with data_port(app) as port, peer(port.number) as client:
        for _ in range(flood_guard.RESET_BURST + 1500):
            client.wire.reset_stream(client.request(), 8)
        client.flush()
        assert await client.goodbye() is ENHANCE_YOUR_CALM
    assert all(stream.cancelled.is_set() for stream in app.streams)


FLOODS = {
    "ping": PingFrame(0, opaque_data=b"12345678"),
    "settings": SettingsFrame(0),
    "window updates": WindowUpdateFrame(0, window_increment=1),
    "priority": PriorityFrame(1, depends_on=3),
    "empty data": DataFrame(1),
}


@pytest.mark.parametrize("name", list(FLOODS))
async def test_a_flood_of_control_frames_ends_the_connection(name: str) -> None:
    async with data_port(App()) as port, peer(port.number) as client:
        client.request(end=False, grpc=False)
        client.raw(*[FLOODS[name]] * (3 * flood_guard.CONTROL_BURST))
        assert await client.goodbye() is ENHANCE_YOUR_CALM


STRAYS = {
    "empty data": DataFrame(1),
    "data": DataFrame(1, data=b"x"),
    "window updates": WindowUpdateFrame(1, window_increment=1),
    "resets": RstStreamFrame(1),
    "settings acknowledged": SettingsFrame(flags=["ACK"]),
}


@pytest.mark.parametrize("name", list(STRAYS))
async def test_a_flood_of_frames_for_a_stream_that_was_reset_ends_the_connection(name: str) -> None:
    async with data_port(app := App()) as port, peer(port.number) as client:
        client.wire.reset_stream(client.request(end=False, grpc=False))
        client.flush()
        await asyncio.wait_for(app.opened.wait(), PATIENCE_S)
        await asyncio.wait_for(app.streams[0].cancelled.wait(), PATIENCE_S)
        client.raw(*[STRAYS[name]] * (3 * flood_guard.CONTROL_BURST))
        assert await client.goodbye() is ENHANCE_YOUR_CALM


async def test_data_that_is_under_way_when_the_proxy_resets_its_stream_is_ignored() -> None:
    """RFC 9113 §5.1: as much as the window, and the connection carries other calls."""
    async with data_port(app := App()) as port, peer(port.number) as client:
        stream = client.request(end=False, grpc=False)
        await asyncio.wait_for(app.opened.wait(), PATIENCE_S)
        app.streams[0].sink.on_head(head(200))
        app.streams[0].sink.on_error(AppUnreachable("the app is gone"))
        await client.until(h2.events.StreamReset, number=stream)
        client.raw(*[DataFrame(stream, data=b"x")] * (3 * flood_guard.CONTROL_BURST))
        app.serve = answer(b"still here")
        assert (await client.whole(client.request(grpc=False)))[1] == b"still here"
        assert not any(isinstance(event, h2.events.StreamReset) for event in client.events)


async def test_responses_that_cross_the_cancellation_of_their_requests_are_no_flood() -> None:
    """One deadline may end a thousand calls at once, and an app that stood still responds to all of them."""
    count = 900
    received, cancelled, sent = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def app(peer: Peer) -> None:
        calls = [(await peer.until(h2.events.RequestReceived)).stream_id for _ in range(count)]
        kept = (await peer.until(h2.events.RequestReceived)).stream_id
        received.set()
        await cancelled.wait()
        for call in calls:
            peer.answer(call)
            peer.trailers(call, (b"grpc-status", b"0"))
        sent.set()
        await peer.until(h2.events.StreamEnded, number=kept)
        peer.answer(kept)
        peer.send(kept, b"still here", end=True)
        while not peer.ended:
            await peer.turn()

    async with AsyncExitStack() as stack:
        number = await stack.enter_async_context(serving(app, streams=1024))
        port = await stack.enter_async_context(data_port(Http2Pool(Dialer("127.0.0.1", number))))
        client = await stack.enter_async_context(peer(port.number))
        calls = [client.request(end=False) for _ in range(count)]
        kept = client.request(end=False)
        client.flush()
        await asyncio.wait_for(received.wait(), PATIENCE_S)
        for call in calls:
            client.wire.reset_stream(call)
        client.flush()
        await port.settled(count)
        cancelled.set()
        await asyncio.wait_for(sent.wait(), PATIENCE_S)
        client.send(kept, b"", end=True)
        assert (await client.whole(kept))[1] == b"still here"


async def test_a_peer_that_keeps_sending_still_receives_why_its_connection_ended() -> None:
    async with data_port(App()) as port, peer(port.number) as client:
        client.raw(*[FLOODS["ping"]] * (3 * flood_guard.CONTROL_BURST))
        for _ in range(50):
            client.raw(*[FLOODS["ping"]] * 200)
            await asyncio.sleep(0)
        assert await client.goodbye() is ENHANCE_YOUR_CALM


async def _send_without_end(client: Peer) -> None:
    for _ in range(2000):
        client.writer.write(bytes(10_000))
        await asyncio.wait_for(client.writer.drain(), 20)


async def test_a_peer_that_never_stops_sending_is_cut_off() -> None:
    async with data_port(App()) as port, peer(port.number) as client:
        client.raw(*[FLOODS["ping"]] * (3 * flood_guard.CONTROL_BURST))
        assert await client.goodbye() is ENHANCE_YOUR_CALM
        with pytest.raises(ConnectionError):
            await _send_without_end(client)


async def test_heads_without_end_end_the_connection() -> None:
    async with data_port(App()) as port, peer(port.number) as client:
        await client.until(h2.events.RemoteSettingsChanged)
        client.raw(HeadersFrame(1, data=b"\x82"), *[ContinuationFrame(1, data=b"")] * 100)
        assert await client.goodbye() is h2.errors.ErrorCodes.PROTOCOL_ERROR


async def test_a_head_that_is_too_large_is_refused_and_a_bomb_ends_the_connection() -> None:
    async with data_port(App()) as port, peer(port.number) as client:
        large = [(b"x-%d" % number, bytes(b"x" * 4000)) for number in range(20)]
        stream = client.request(*large, grpc=False)
        assert (await client.whole(stream))[0][b":status"] == b"431"
        # 4 KiB once in the table, then one byte each time.
        block = client.wire.encoder.encode([(b"x-bomb", b"x" * 4000), *[(b"x-bomb", b"x" * 4000)] * 4000])
        assert len(block) < 16384
        client.raw(HeadersFrame(stream + 2, data=block, flags=["END_HEADERS", "END_STREAM"]))
        assert await client.goodbye() is ENHANCE_YOUR_CALM


async def test_more_than_the_window_ends_the_connection() -> None:
    app = App()
    async with data_port(app) as port, peer(port.number) as client:
        stream = client.request(end=False, grpc=False)
        await eventually(lambda: bool(app.streams))
        app.streams[0].sink.pause_request()
        pieces = protocol.STREAM_WINDOW // 16384 + 1
        client.raw(*[DataFrame(stream, data=bytes(16384))] * pieces)
        assert await client.goodbye() is h2.errors.ErrorCodes.FLOW_CONTROL_ERROR
        assert not app.streams[0].body


async def test_data_for_a_stream_that_was_reset_is_ignored() -> None:
    app = App(answer(b"hello"))
    async with data_port(app) as port, peer(port.number) as client:
        stream = client.request(end=False, grpc=False)
        await client.until(h2.events.StreamReset)
        client.raw(DataFrame(stream, data=bytes(1000)), RstStreamFrame(stream, error_code=8))
        assert (await client.whole(client.request(grpc=False)))[1] == b"hello"
