"""The two ends of a tunnel over real sockets."""

import asyncio
import gc
import tracemalloc

import pytest

from devroute.errors import (
    AppUnreachable,
    DevrouteError,
    RequestMalformed,
    TargetOverloaded,
    UpstreamInvalid,
    UpstreamReset,
)
from devroute.http.http1.response import ResponseHeadParser
from devroute.http.message import RULE_LINE, Framing, RequestHead
from devroute.tunnel.protocol.frames import OPEN_PREFIX, WINDOW, Flag, FrameType
from devroute.tunnel.protocol.windows import LINK_GROWTH, MAX_WINDOW
from devroute.tunnel.served_stream import Finished, ServedStream
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.loopback import (
    App,
    AppStream,
    BulkApp,
    Client,
    answer,
    connect,
    get,
    head,
    post,
    response_to,
    site,
    tunnel,
)
from tests.support.raw_frames import frame, send
from tests.support.relay import distant

pytestmark = pytest.mark.asyncio


async def test_a_request_reaches_the_app_and_its_response_the_client() -> None:
    observed: list[Finished] = []
    app = App(answer(b"hello"))
    async with tunnel(app, observed=observed) as (where, _):
        client = await response_to(where.upstream(), get(b"/a?b=c"))
    assert client.error is None
    assert client.heads[0].status == 200
    assert client.body == b"hello"
    assert app.streams[0].head.wire == b"GET /a?b=c HTTP/1.1\r\nhost: foo\r\n\r\n"
    assert app.streams[0].head.headers == [(b"host", b"foo")]
    (line,) = observed
    assert (line.service, line.method, line.target, line.status, line.size, line.code) == (
        "foo", "GET", "/a?b=c", 200, 5, "",
    )  # fmt: skip


async def test_a_success_that_was_counted_is_not_observed_but_whatever_else_is() -> None:
    observed: list[Finished] = []

    def serve(stream: AppStream) -> None:
        stream.sink.on_head(head(403 if stream.head.target == b"/refused" else 200, 5))
        stream.sink.on_data(b"hello")
        stream.sink.on_end([])

    async with tunnel(App(serve), observed=observed) as (where, link):
        await response_to(where.upstream(), get(b"/observed"))
        link.counted = lambda: True
        for target in (b"/refused", b"/counted"):
            await response_to(where.upstream(), get(target))
        await eventually(lambda: len(observed) == 2)
    assert [line.target for line in observed] == ["/observed", "/refused"]


async def test_of_heads_that_an_app_repeats_each_is_searched_for_what_it_says() -> None:
    observed: list[Finished] = []
    parser = ResponseHeadParser()
    start = b"HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ncontent-length: 0\r\n"
    rule = start + RULE_LINE[2:] + b"of the app\r\n\r\n"
    status = start + b"grpc-status: 5\r\n\r\n"
    plain = start + b"\r\n"
    raws = [rule, rule, rule, status, status, status, rule, plain, plain, plain, status]

    def serve(stream: AppStream) -> None:
        stream.sink.on_head(parser.parse(raws[int(stream.head.target[1:])], b"GET"))
        stream.sink.on_end([])

    got = []
    async with tunnel(App(serve), observed=observed) as (where, _):
        for number in range(len(raws)):
            client = await response_to(where.upstream(), get(b"/%d" % number))
            got.append(client.heads[0].raw)
        await eventually(lambda: len(observed) == len(raws))
    assert got == [plain if raw == rule else raw for raw in raws]
    assert [line.grpc_status for line in observed] == [5 if raw == status else None for raw in raws]


@pytest.mark.parametrize(
    ("request_head", "framing", "length"),
    [
        (post(5), Framing.LENGTH, 5),
        (RequestHead(b"PUT", b"/", Framing.CHUNKED, 0, b"PUT / HTTP/1.1\r\n\r\n"), Framing.CHUNKED, 0),
    ],
)
async def test_a_body_and_its_trailers_reach_the_app(
    request_head: RequestHead, framing: Framing, length: int
) -> None:
    app = App()
    async with tunnel(app) as (where, _):
        stream = where.upstream().open(request_head, Client())
        stream.send_data(b"he")
        stream.send_data(b"llo")
        stream.send_end([(b"digest", b"x")] if framing is Framing.CHUNKED else [])
        await app.opened.wait()
        await app.streams[0].complete.wait()
        got = app.streams[0]
    assert (got.head.framing, got.head.length, got.body) == (framing, length, b"hello")
    assert got.trailers == ([(b"digest", b"x")] if framing is Framing.CHUNKED else [])


async def test_an_end_on_the_open_of_a_chunked_request_is_the_last_chunk_of_an_empty_body() -> None:
    app = App()
    async with tunnel(app) as (where, _):
        (link,) = where.tunnels.links
        wire = b"POST / HTTP/1.1\r\nhost: foo\r\ntransfer-encoding: chunked\r\n\r\n"
        payload = OPEN_PREFIX.pack(0, 3) + b"foo" + wire
        send(link, frame(FrameType.OPEN, 1, payload, Flag.CHUNKED | Flag.END))
        await asyncio.wait_for(app.opened.wait(), 20)
        (stream,) = app.streams
        assert stream.head.framing is Framing.CHUNKED
        await asyncio.wait_for(stream.complete.wait(), 20)


async def test_the_app_gets_the_head_that_was_sent() -> None:
    head = RequestHead(b"GET", b"/", get().framing, 0, b"GET / HTTP/1.1\r\nX-Odd-Case: \xe9\r\n\r\n")
    app = App()
    async with site() as where:
        link = await connect(where, {"foo": app})
        await link.welcome
        where.upstream().open(head, Client())
        await app.opened.wait()
        assert app.streams[0].head == head
        link.close_with(DevrouteError("the test is over"))


@pytest.mark.parametrize(
    "wire",
    [
        b"GET / HTTP/1.1 \r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"GET /\r\na: HTTP/1.1\r\n\r\n",
        b"GET /\r\na: b HTTP/1.1\r\n\r\n",
        b"GET\r\na: / HTTP/1.1\r\n\r\n",
        b"GET /\r\n\r\n",
        b"\r\n\r\n",
    ],
)
async def test_a_request_line_of_other_than_three_parts_is_refused(wire: bytes) -> None:
    app = App(answer(b"hello"))
    async with tunnel(app) as (where, _):
        client = await response_to(where.upstream(), RequestHead(b"GET", b"/", Framing.NONE, 0, wire))
    assert isinstance(client.error, RequestMalformed)
    assert not app.streams


async def test_an_upload_that_was_refused_is_no_source_any_more() -> None:
    async with tunnel(App()) as (where, _):
        (proxy,) = where.tunnels.links
        proxy.limit_streams(0)
        client = Client()
        stream = where.upstream().open(post(100_000), client)
        stream.send_data(bytes(8 * 1024))
        await asyncio.wait_for(client.done.wait(), 20)
        assert isinstance(client.error, TargetOverloaded)
        assert not proxy.sources


async def test_early_hints_and_trailers_reach_the_client() -> None:
    def serve(stream: AppStream) -> None:
        stream.sink.on_informational(head(103))
        stream.sink.on_head(head(200))
        stream.sink.on_data(b"x")
        stream.sink.on_end([(b"grpc-status", b"0")])

    async with tunnel(App(serve)) as (where, _):
        client = await response_to(where.upstream(), get())
    assert client.hints == [103]
    assert client.trailers == [(b"grpc-status", b"0")]


async def test_an_upgrade_becomes_two_pipes_that_close_one_after_the_other() -> None:
    def serve(stream: AppStream) -> None:
        stream.sink.on_head(head(101))
        stream.sink.on_data(b"from the app")

    app = App(serve)
    async with tunnel(app) as (where, link):
        client = Client()
        upgrade = RequestHead(b"GET", b"/ws", Framing.UPGRADE, 0, b"GET /ws HTTP/1.1\r\n\r\n")
        stream = where.upstream().open(upgrade, client)
        await eventually(lambda: client.body == b"from the app")
        stream.send_data(b"from the client")
        stream.send_end([])
        await eventually(lambda: app.streams[0].ended)
        assert app.streams[0].body == b"from the client"
        app.streams[0].sink.on_data(b"!")
        app.streams[0].sink.on_end([])
        await client.done.wait()
        assert client.body == b"from the app!"
        await eventually(lambda: not link.in_flight)


async def test_a_client_that_goes_away_cancels_the_app_s_work() -> None:
    app = App()
    observed: list[Finished] = []
    async with tunnel(app, observed=observed) as (where, link):
        stream = where.upstream().open(get(), Client())
        await app.opened.wait()
        stream.cancel()
        await app.streams[0].cancelled.wait()
        assert not link.in_flight
    assert [line.code for line in observed] == ["cancelled"]


async def test_an_app_that_cannot_be_reached_is_named_in_the_client_s_error() -> None:
    def serve(stream: AppStream) -> None:
        stream.sink.on_error(AppUnreachable("nothing listens on localhost:8001"))

    observed: list[Finished] = []
    async with tunnel(App(serve), observed=observed) as (where, _):
        client = await response_to(where.upstream(), get())
    assert isinstance(client.error, AppUnreachable)
    assert client.error.message == "nothing listens on localhost:8001"
    assert client.error.hint == AppUnreachable.default_hint
    assert observed[0].code == "app-unreachable"


async def test_a_response_that_is_complete_before_its_request_ends_the_request() -> None:
    app = App(answer(b"too large"))
    async with tunnel(app) as (where, link):
        client = Client()
        stream = where.upstream().open(post(10 * WINDOW), client)
        stream.send_data(b"x")
        await client.done.wait()
        assert client.error is None
        stream.send_data(b"x")
        await eventually(lambda: not link.in_flight)


@pytest.mark.parametrize(
    ("promised", "sent", "complaint"), [(10, 9, "1 bytes short"), (10, 11, "longer"), (0, 1, "longer")]
)
async def test_a_response_that_is_not_as_long_as_its_content_length_is_an_error(
    promised: int, sent: int, complaint: str
) -> None:
    def serve(stream: AppStream) -> None:
        stream.sink.on_head(head(200, promised))
        stream.sink.on_data(bytes(sent))
        stream.sink.on_end([])

    async with tunnel(App(serve)) as (where, _):
        client = await response_to(where.upstream(), get())
    assert isinstance(client.error, UpstreamReset)
    assert complaint in client.error.message
    assert client.trailers is None


async def test_a_request_that_is_longer_than_its_content_length_is_cancelled_at_the_app() -> None:
    app = App()
    async with tunnel(app) as (where, _):
        client = Client()
        stream = where.upstream().open(post(3), client)
        stream.send_data(b"four")
        await client.done.wait()
        assert client.error is not None
        assert client.error.code == "request-malformed"
        assert app.streams[0].cancelled.is_set()


@pytest.mark.parametrize(
    "raw", [b"no head at all", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n", b"HTTP/1.1 101 Switch\r\n\r\n"]
)
async def test_a_malformed_response_head_is_not_passed_on(raw: bytes) -> None:
    def serve(stream: AppStream) -> None:
        assert isinstance(stream.sink, ServedStream)
        end = stream.sink
        end.link.send_head(end.stream, raw, 0)

    app = App(serve)
    async with tunnel(app) as (where, _):
        client = await response_to(where.upstream(), get())
        assert client.error is not None
        assert client.error.code == "upstream-invalid"
        assert not client.heads
        await app.streams[0].cancelled.wait()


async def test_a_switch_of_protocols_without_a_request_for_it_is_refused() -> None:
    """A sidecar would take it for a response, and send the next request into the pipe."""

    def serve(stream: AppStream) -> None:
        stream.sink.on_head(head(101))

    async with tunnel(App(serve)) as (where, link):
        client = await response_to(where.upstream(), get())
        await eventually(lambda: not link.in_flight)
    assert isinstance(client.error, UpstreamInvalid)
    assert not client.heads


async def test_a_service_that_the_agent_does_not_know_is_refused() -> None:
    async with site() as where:
        link = await connect(where, {"foo": App()}, offered=("foo", "bar"))
        await link.welcome
        client = await response_to(where.upstream(service="bar"), get())
        assert client.error is not None
        assert client.error.code == "service-not-served"
        link.close_with(DevrouteError("the test is over"))


async def test_the_body_of_a_refused_request_is_ignored_and_the_link_goes_on() -> None:
    """Request and body arrive at once, before the proxy has learned of the refusal."""
    app = App(answer(b"still here"))
    async with site() as where:
        link = await connect(where, {"foo": app}, offered=("foo", "bar"))
        await link.welcome
        client = Client()
        stream = where.upstream(service="bar").open(post(5), client)
        stream.send_data(b"12345")
        stream.send_end([])
        async with asyncio.timeout(20):
            await client.done.wait()
        assert client.error is not None
        assert client.error.code == "service-not-served"
        assert (await response_to(where.upstream(), get())).body == b"still here"
        link.close_with(DevrouteError("the test is over"))


# --- many at once ------------------------------------------------------------------------------------------


async def test_a_thousand_interleaved_streams_keep_their_bodies_apart() -> None:
    def serve(stream: AppStream) -> None:
        loop = asyncio.get_running_loop()
        body = stream.head.target * 50
        stream.sink.on_head(head(200, len(body)))
        pieces = [body[i : i + 37] for i in range(0, len(body), 37)]

        def step() -> None:
            stream.sink.on_data(pieces.pop(0))
            if pieces:
                loop.call_soon(step)
            else:
                stream.sink.on_end([])

        step()

    async with tunnel(App(serve)) as (where, link):
        upstream = where.upstream()
        clients = [Client() for _ in range(1000)]
        for number, client in enumerate(clients):
            upstream.open(get(b"/%d" % number), client)
        async with asyncio.timeout(20):
            for client in clients:
                await client.done.wait()
        assert not link.in_flight
    assert [bytes(c.body) for c in clients] == [b"/%d" % n * 50 for n in range(1000)]


async def test_a_paused_stream_delays_no_other_and_holds_one_window() -> None:
    app = BulkApp()
    async with tunnel(app) as (where, _):
        upstream = where.upstream()
        stalled = Client()
        stream = upstream.open(get(b"/%d" % (8 * WINDOW)), stalled)
        stream.pause_response()
        await eventually(lambda: app.streams and app.streams[0].paused)
        for _ in range(20):
            client = await response_to(upstream, get(b"/100000"))
            assert len(client.body) == 100_000
        assert stalled.size == 0
        assert app.streams[0].paused
        assert 8 * WINDOW - app.streams[0].left <= WINDOW + len(app.streams[0].PIECE)
        stream.resume_response()
        await stalled.done.wait()
        assert stalled.size == 8 * WINDOW


async def test_an_app_that_does_not_read_pauses_its_client() -> None:
    app = App()
    async with tunnel(app) as (where, _):
        client = Client()
        stream = where.upstream().open(post(2 * WINDOW), client)
        await app.opened.wait()
        app.streams[0].sink.pause_request()
        stream.send_data(bytes(2 * WINDOW))
        assert client.paused
        stream.send_end([])
        other = where.upstream().open(post(1), Client())
        other.send_data(b"x")
        await eventually(lambda: len(app.streams) == 2 and app.streams[1].body == b"x")
        assert not app.streams[0].body
        app.streams[0].sink.resume_request()
        await eventually(lambda: app.streams[0].ended)
        assert len(app.streams[0].body) == 2 * WINDOW


async def test_bulk_streams_share_a_full_connection() -> None:
    app = BulkApp()
    async with tunnel(app) as (where, _):
        clients = [Client(keep=False) for _ in range(8)]
        for client in clients:
            where.upstream().open(get(b"/%d" % (6 * WINDOW)), client)
        slowest = []
        for client in clients:
            await client.done.wait()
            slowest.append(min(c.size for c in clients))
        assert all(c.error is None and c.size == 6 * WINDOW for c in clients)
        assert slowest[0] >= 3 * WINDOW, "the first to finish has not starved the others"


async def test_200_mb_through_one_stream_need_a_few_mb_of_memory() -> None:
    size = 200_000_000
    async with tunnel(BulkApp()) as (where, _):
        gc.collect()
        tracemalloc.start()
        try:
            client = Client(keep=False)
            where.upstream().open(get(b"/%d" % size), client)
            async with asyncio.timeout(4 * PATIENCE_S):  # each allocation is recorded
                await client.done.wait()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert client.size == size
    assert client.error is None
    assert peak < 8_000_000


async def test_over_a_distance_a_window_grows_and_what_it_grew_by_returns_at_the_end() -> None:
    """Far enough away that a busy machine, too, sends a window in less than the round trip."""
    async with site() as where, distant(("127.0.0.1", where.port), 0.1) as port:
        where.url = f"http://127.0.0.1:{port}"
        link = await connect(where, {"foo": BulkApp()}, windows=True)
        await link.welcome
        link.enable_windows()
        client = Client(keep=False)
        request = where.upstream().open(get(b"/%d" % (1_000_000 * WINDOW)), client)
        (proxy_link,) = where.tunnels.links
        budget = proxy_link.windows
        assert budget is not None
        await eventually(lambda: budget.left == LINK_GROWTH - MAX_WINDOW + WINDOW, "the window to grow")
        assert request.stream.window == MAX_WINDOW
        request.cancel()
        await eventually(lambda: budget.left == LINK_GROWTH, "what it grew by to return")
        assert client.error is None
        link.close_with(DevrouteError("the test is over"))


# --- the end of a link -------------------------------------------------------------------------------------


async def test_a_lost_connection_ends_every_stream_on_both_sides() -> None:
    app = App()
    async with site() as where:
        link = await connect(where, {"foo": app})
        await link.welcome
        clients = [Client() for _ in range(50)]
        for client in clients:
            where.upstream().open(get(), client)
        await eventually(lambda: len(app.streams) == 50)
        link.transport.abort()
        async with asyncio.timeout(10):
            for client in clients:
                await client.done.wait()
            for stream in app.streams:
                await stream.cancelled.wait()
        assert all(isinstance(c.error, UpstreamReset) for c in clients)
        assert where.registry.listing() == []


async def test_a_lost_link_ends_whole_whatever_the_observer_of_its_requests_raises() -> None:
    reported: list[str] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: reported.append(str(context["exception"]))
    )

    def observe(finished: Finished) -> None:
        raise ValueError(finished.target)

    app = App()
    async with site() as where:
        link = await connect(where, {"foo": app})
        await link.welcome
        link.observe = observe
        for number in range(3):
            where.upstream().open(get(b"/%d" % number), Client())
        await eventually(lambda: len(app.streams) == 3)
        link.transport.abort()
        async with asyncio.timeout(10):
            await link.close_reason  # what has it dialled again
            await link.disconnected
        assert all(stream.cancelled.is_set() for stream in app.streams)
    assert reported == ["/0", "/1", "/2"]


async def test_a_stream_opened_on_a_dead_link_fails_after_open_has_returned() -> None:
    async with site() as where:
        link = await connect(where, {"foo": App()})
        await link.welcome
        upstream = where.upstream()
        link.transport.abort()
        await eventually(lambda: not where.registry.listing())
        client = Client()
        stream = upstream.open(get(), client)
        assert client.error is None
        stream.send_data(b"ignored")
        stream.send_end([])
        await client.done.wait()
        assert client.error is not None
        assert client.error.code == "laptop-offline"


async def test_a_peer_that_does_not_respond_to_a_probe_is_dead() -> None:
    async with site() as where:
        link = await connect(where, {"foo": App()})
        await link.welcome
        (theirs,) = where.tunnels.links
        theirs.transport.pause_reading()
        link.heartbeat.probe(0.02)
        error = await asyncio.wait_for(link.close_reason, 20)
        assert "idle" in error.message
        theirs.transport.abort()


async def test_a_peer_that_responds_to_a_probe_keeps_its_link() -> None:
    async with site() as where:
        link = await connect(where, {"foo": App()})
        await link.welcome
        link.heartbeat.probe(within=10)
        await asyncio.wait_for(link.heartbeat.ping(), 20)
        assert link.heartbeat.round_trip is not None
        assert not link.close_reason.done()
        assert where.registry.listing()
        link.close_with(DevrouteError("the test is over"))


async def test_draining_lets_open_streams_end_and_takes_the_laptop_offline_at_once() -> None:
    app = App()
    async with site() as where:
        link = await connect(where, {"foo": app})
        await link.welcome
        client = Client()
        where.upstream().open(get(), client)
        await app.opened.wait()
        link.drain("leaving", "Ctrl-C")
        await eventually(lambda: not where.registry.listing())
        answer(b"still here")(app.streams[0])
        await client.done.wait()
        assert client.body == b"still here"
        await asyncio.wait_for(link.close_reason, 10)


async def test_an_agent_that_violates_the_protocol_gets_the_reason_and_the_link_is_closed() -> None:
    async with site() as where:
        link = await connect(where, {"foo": App()})
        await link.welcome
        client = Client()
        where.upstream().open(get(), client)
        send(link, frame(99))
        await client.done.wait()
        assert isinstance(client.error, UpstreamReset)
        await link.close_reason
        assert link.goaway is not None
        assert link.goaway.code == "tunnel-protocol"
