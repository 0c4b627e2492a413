"""A real agent records the requests between its tunnel and real apps, and changes none of them."""

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from aiohttp import web

from devroute.agent.app import Agent
from devroute.agent.settings import AgentSettings
from devroute.agent.ui.fan_out import FanOut
from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.writer import TerminalWriter
from devroute.contract.service_spec import ServiceSpec
from devroute.errors import AppUnreachable, NotReplayable, RequestMalformed
from devroute.http.message import Framing, RequestHead
from devroute.inspector.recorder import BATCH, MAX_WAITING, SAMPLE, Recorder, RecordingUpstream
from devroute.inspector.replay import Replayer
from devroute.inspector.store import CaptureStore
from tests.support import grpc_shop
from tests.support.laptop import laptop, relayed, request, serving, two_events
from tests.support.loopback import App, AppStream, BulkApp, Client, get, head, post, site

pytestmark = pytest.mark.asyncio


def recorder_of(store: CaptureStore) -> Recorder:
    return Recorder(store, asyncio.get_running_loop())


async def echo(asked: web.Request) -> web.StreamResponse:
    body = await asked.read()
    return web.json_response(
        {
            "path": asked.path_qs,
            "sent": body.decode("latin-1"),
            "password": "of the app",
            "h": dict(asked.headers),
        },
        headers={"set-cookie": "a=b"},
    )


async def test_a_request_and_its_response_are_recorded_and_pass_unchanged() -> None:
    async with serving(echo) as port, laptop(port) as it:
        body = b'{"password": "mine", "a": 1}'
        fields = {"content-type": "application/json", "authorization": "Bearer mine"}
        client = await it.ask(request("POST", "/p?x=1&password=mine", fields, body), body)
        answer = json.loads(client.body)
        assert answer["sent"] == body.decode()
        assert answer["path"] == "/p?x=1&password=mine"
        assert {k.lower(): v for k, v in answer["h"].items()}["authorization"] == "Bearer mine"
        capture = await it.newest()
    assert (capture.service, capture.method, capture.status) == ("foo", "POST", 200)
    assert capture.target == "/p?x=1&password=%5Bredacted%5D"
    assert bytes(capture.request_body.data) == b'{"password": "[redacted]", "a": 1}'
    assert json.loads(capture.response_body.data)["password"] == "[redacted]"
    assert capture.response_body.complete
    assert capture.request_body.size == len(body)
    assert capture.response_body.size == len(client.body)
    assert all(each is not None and each >= 0 for each in capture.timing)


async def test_compressed_responses_pass_unchanged_and_are_stored_readable() -> None:
    async def compressed(asked: web.Request) -> web.StreamResponse:
        body = gzip.compress(b'{"access_token": "s3cret", "a": 1}')
        return web.Response(
            body=body, headers={"content-encoding": "gzip", "content-type": "application/json"}
        )

    async with serving(compressed) as port, laptop(port) as it:
        client = await it.ask(get())
        assert b"s3cret" in gzip.decompress(client.body)
        capture = await it.newest()
    assert bytes(capture.response_body.data) == b'{"access_token": "[redacted]", "a": 1}'
    assert capture.response_body.decoded


async def test_an_unreachable_app_is_recorded_as_a_failure(unused_tcp_port: int) -> None:
    async with laptop(unused_tcp_port) as it:
        client = await it.ask(get())
        assert isinstance(client.error, AppUnreachable)
        capture = await it.newest()
    assert capture.state == "failed"
    assert capture.error is not None
    assert capture.error[0] == "app-unreachable"


async def test_a_cancelled_request_is_recorded_as_cancelled() -> None:
    seen = asyncio.Event()

    async def slow(asked: web.Request) -> web.StreamResponse:
        seen.set()
        await asyncio.Event().wait()  # until its connection is closed
        return web.Response()

    async with serving(slow) as port, laptop(port) as it:
        stream = it.where.upstream().open(get(), Client())
        await asyncio.wait_for(seen.wait(), 20)
        stream.cancel()
        capture = await it.newest()
    assert capture.error is not None
    assert capture.error[0] == "cancelled"


async def test_server_sent_events_are_recorded_as_they_arrive() -> None:
    go_on = asyncio.Event()
    async with serving(two_events(go_on)) as port, laptop(port) as it:
        client = Client()
        asking = asyncio.get_running_loop().create_task(it.ask(get(), client=client))
        capture = await it.newest(lambda each: each.response_body.size > 0)
        assert (capture.kind, capture.state) == ("sse", "open")
        assert bytes(capture.response_body.data) == b"data: 1\n\n"
        go_on.set()
        await asking
        capture = await it.newest()
        assert bytes(capture.response_body.data) == b"data: 1\n\ndata: 2\n\n" == client.body


async def test_large_bodies_stream_through_and_are_stored_in_part() -> None:
    store = CaptureStore(max_body=1000)
    app = BulkApp()
    recorder = recorder_of(store)
    upstream = RecordingUpstream(app, "foo", recorder)  # type: ignore[arg-type]  # is never closed
    client = Client(keep=False)
    stream = upstream.open(get(b"/10000000"), client)
    await asyncio.wait_for(client.first.wait(), 20)
    stream.pause_response()
    assert app.streams[0].paused  # backpressure passes through
    stream.resume_response()
    await asyncio.wait_for(client.done.wait(), 20)
    assert client.size == 10_000_000
    recorder.flush()
    (capture,) = store.newest_first()
    assert (len(capture.response_body.data), capture.response_body.size) == (1000, 10_000_000)
    assert capture.response_body.truncated


async def test_each_chunk_is_passed_on_in_the_same_turn_of_the_loop() -> None:
    opened: list[AppStream] = []
    upstream = RecordingUpstream(App(opened.append), "foo", recorder_of(CaptureStore()))  # type: ignore[arg-type]
    client = Client()
    stream = upstream.open(post(4), client)
    await asyncio.sleep(0)
    stream.send_data(b"ab")
    assert bytes(opened[0].body) == b"ab"
    opened[0].sink.pause_request()
    assert client.paused
    opened[0].sink.resume_request()
    assert not client.paused


async def test_while_paused_requests_pass_unrecorded() -> None:
    store = CaptureStore()
    store.paused = True
    app = App()
    stream = RecordingUpstream(app, "foo", recorder_of(store)).open(get(), Client())  # type: ignore[arg-type]
    assert stream is app.streams[0]
    assert not len(store)


async def test_requests_beyond_the_recorder_s_rate_are_counted_only() -> None:
    store = CaptureStore()
    recorder = recorder_of(store)
    app = App()
    upstream = RecordingUpstream(app, "foo", recorder)  # type: ignore[arg-type]
    for _ in range(MAX_WAITING + 7):
        upstream.open(get(), Client())
    assert len(app.streams) == MAX_WAITING + 7
    assert store.skipped == 7
    recorder.flush()
    assert len(store) == MAX_WAITING
    upstream.open(get(), Client())
    recorder.flush()
    assert len(store) == MAX_WAITING + 1


class Timer:
    """The loop of a recorder whose time passes when the test says so."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def call_later(self, delay: float, callback: Callable[[], None]) -> object:
        self.due.append(callback)
        return self


@pytest.mark.parametrize(
    ("arrive", "recorded"), [(BATCH // 2, BATCH), (2 * BATCH, BATCH), (2 * BATCH + 1, SAMPLE), (500, SAMPLE)]
)
async def test_a_sample_is_recorded_while_far_more_arrive_and_no_longer(arrive: int, recorded: int) -> None:
    timer, store = Timer(), CaptureStore()
    recorder = Recorder(store, timer)  # type: ignore[arg-type]
    upstream = RecordingUpstream(App(), "foo", recorder)  # type: ignore[arg-type]
    for _ in range(MAX_WAITING + 10 * BATCH):
        upstream.open(get(), Client())
    timer.due.pop()()
    assert len(store) == SAMPLE
    for _ in range(3):  # the first ones make up for the sample
        before = len(store)
        for _ in range(arrive):
            upstream.open(get(), Client())
        timer.due.pop()()
    assert len(store) - before == recorded


async def test_queued_events_are_bounded() -> None:
    store = CaptureStore()
    recorder = recorder_of(store)
    opened: list[AppStream] = []
    upstream = RecordingUpstream(App(opened.append), "foo", recorder)  # type: ignore[arg-type]
    stream = upstream.open(post(100_000_000), Client(keep=False))
    for _ in range(100):
        stream.send_data(bytes(1_000_000))
        assert recorder.queued_bytes <= 5_000_000
    recorder.flush()
    assert recorder.queued_bytes == 0
    (capture,) = store.newest_first()
    assert capture.request_body.size == 100_000_000


async def test_an_upgrade_whose_request_ends_before_it_is_complete_with_its_response() -> None:
    recorder, app = recorder_of(CaptureStore()), App()
    wire = b"GET / HTTP/1.1\r\nhost: foo\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"
    upgrade = RequestHead(b"GET", b"/", Framing.UPGRADE, 0, wire)
    stream = RecordingUpstream(app, "foo", recorder).open(upgrade, Client())  # type: ignore[arg-type]
    stream.send_end([])
    app.streams[0].sink.on_head(head(101))
    app.streams[0].sink.on_end([])
    recorder.flush()
    (capture,) = recorder.store.newest_first()
    assert (capture.state, capture.error) == ("done", None)


async def test_bytes_beyond_the_stored_part_of_a_body_are_counted_and_not_buffered() -> None:
    store = CaptureStore(max_body=1000)
    recorder = recorder_of(store)
    app = App()
    upstream = RecordingUpstream(app, "foo", recorder)  # type: ignore[arg-type]
    stream = upstream.open(post(100_000), Client(keep=False))
    stream.send_data(bytes(2000))
    recorder.flush()
    for _ in range(3):
        stream.send_data(bytes(500))
    assert recorder.queued_bytes == 0
    recorder.flush()
    (capture,) = store.newest_first()
    assert (len(capture.request_body.data), capture.request_body.size) == (1000, 3500)
    stream.send_data(bytes(500))
    stream.send_end([])
    stream.send_data(b"")
    recorder.flush()
    assert (capture.request_body.size, capture.request_body.complete) == (4000, True)
    assert len(app.streams[0].body) == 4000


async def test_without_an_inspector_nothing_is_recorded() -> None:
    async with serving(echo) as port, site() as where:
        spec = ServiceSpec("foo", "127.0.0.1", port)
        settings = AgentSettings.model_validate(
            {"token": "alice-token", "services": (spec,), "server": where.url, "inspector": "off"}
        )
        with open("/dev/null", "w") as nowhere:  # noqa: ASYNC230
            printer = TerminalWriter(nowhere)
            agent = Agent(settings, FanOut(LineReporter("text", printer)))
            assert agent.inspection is None
            printer.close()


# --- WebSocket and gRPC


async def talk(asked: web.Request) -> web.StreamResponse:
    socket = web.WebSocketResponse(compress="compress" in asked.query)
    await socket.prepare(asked)
    async for message in socket:
        if message.type == aiohttp.WSMsgType.TEXT:
            await socket.send_str("you said " + message.data)
        else:
            await socket.send_bytes(message.data)
    return socket


@pytest.mark.parametrize("compress", [False, True])
async def test_websocket_messages_are_recorded_as_they_arrive(compress: bool) -> None:
    async with serving(talk) as port, laptop(port) as it:
        async with relayed(it) as url, aiohttp.ClientSession() as session:
            socket = await session.ws_connect(
                f"{url}/chat?{'compress' if compress else ''}", compress=15 * compress
            )
            await socket.send_str('{"password": "s3cret"}')
            assert "s3cret" in (await socket.receive_str())
            capture = await it.newest(lambda each: len(each.messages) >= 2)
            assert (capture.kind, capture.state, capture.status) == ("websocket", "open", 101)
            await socket.send_bytes(bytes(range(256)))
            await socket.receive_bytes()
            await socket.close()
        capture = await it.newest()
    said = [(each.from_client, each.opcode, bytes(each.data)) for each in capture.messages]
    assert said[:4] == [
        (True, "text", b'{"password": "[redacted]"}'),
        (False, "text", b'you said {"password": "[redacted]"}'),
        (True, "binary", bytes(range(256))),
        (False, "binary", bytes(range(256))),
    ]
    assert capture.messages[0].size == 22
    assert {opcode for _, opcode, _ in said[4:]} == {"close"}
    with pytest.raises(NotReplayable):
        await it.agent.replayer(capture, {})


async def test_a_grpc_call_is_kept_with_its_messages_and_status() -> None:
    async def call(message: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        if message == b"fail":
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing")
        return message * 2

    handlers = {"Call": grpc.unary_unary_rpc_method_handler(call)}
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Api", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    fields = {"content-type": "application/grpc", "te": "trailers"}
    try:
        async with laptop(port) as it:
            for number, (payload, status) in enumerate(((b"hi", 0), (b"fail", 5)), 1):
                framed = b"\0" + len(payload).to_bytes(4, "big") + payload
                await it.ask(request("POST", "/shop.Api/Call", fields, framed), framed)
                capture = await it.newest(lambda each, n=number: each.id == n and each.state != "open")  # type: ignore[misc]
                assert (capture.kind, capture.grpc_status) == ("grpc", status)
                assert capture.messages[0].data == payload
            assert capture.grpc_message == "no such thing"
            first = it.store.get(1)
            assert first is not None
            assert first.messages[1].data == b"hihi"
            again = await it.agent.replayer(first, {})
            assert await it.newest() is again
            assert (again.grpc_status, again.messages[1].data) == (0, b"hihi")
    finally:
        await server.stop(None)


async def test_an_agent_decodes_and_redacts_grpc_by_the_schema_of_its_app() -> None:
    order = grpc_shop.message("Order", {"id": 7, "customer": "Ada"}).SerializeToString()
    framed = b"\0" + len(order).to_bytes(4, "big") + order
    fields = {"content-type": "application/grpc", "te": "trailers"}
    async with (
        grpc_shop.serving(grpc_shop.reflecting(grpc_shop.V1)) as shop,
        laptop(shop.port, redact=("customer",)) as it,
    ):
        await it.ask(request("POST", "/shop.Orders/Place", fields, framed), framed)
        await it.newest()
        assert it.agent.inspection is not None
        capture = await it.agent.inspection.shown("1")
        sent, received = (await it.agent.inspection.decoder.call(capture)).messages
        assert sent.json == '{"id": "7", "customer": "[redacted]"}'
        assert '"access_token": "[redacted]"' in (received.json or "")
        assert capture.request_body.data != framed
        assert len(it.store) == 1  # reflection is not recorded


# --- replay


async def test_a_request_is_replayed_with_and_without_edits() -> None:
    async with serving(echo) as port, laptop(port) as it:
        body = b'{"n": 1}'
        fields = {"content-type": "application/json", "x-a": "1", "cookie": "s3cret"}
        await it.ask(request("PUT", "/p?id_token=x&n=1", fields, body), body)
        first = await it.newest()
        it.store.paused = True  # replays are recorded all the same
        again = await it.agent.replayer(first, {})
        assert again.replay_of == first.id
        assert await it.newest() is again
        answer = json.loads(again.response_body.data)
        assert (answer["path"], answer["sent"], answer["h"]["x-a"]) == ("/p?n=1", '{"n": 1}', "1")
        assert "cookie" not in answer["h"]
        edits = {"method": "POST", "target": "/other", "headers": [["X-B", "2"]], "body": "später"}
        edited = await it.agent.replayer(first, edits)
        assert await it.newest() is edited
        answer = json.loads(edited.response_body.data)
        assert answer["path"] == "/other"
        assert answer["sent"].encode("latin-1").decode() == "später"
        assert answer["h"]["X-B"] == "2"
        assert "x-a" not in answer["h"]


@pytest.mark.parametrize(
    "edits",
    [
        {"method": "G T"},
        {"method": "NOSUCH"},
        {"method": "CONNECT"},
        {"target": "/a b"},
        {"target": "http://evil/"},
        {"target": "/ü"},
        {"target": ""},
        {"headers": [["a", "b\r\nc: d"]]},
        {"headers": [["a b", "c"]]},
        {"headers": [["host", "a"], ["host", "b"]]},
        {"headers": {"a": "b"}},
        {"headers": [["a"]]},
        {"headers": [["a", "x" * 70_000]]},
        {"body": 1},
        {"body_base64": "%"},
        {"body": "", "body_base64": ""},
        {"nonsense": 1},
    ],
)
async def test_edits_that_give_an_invalid_request_are_refused(edits: dict[str, Any]) -> None:
    store = CaptureStore()
    capture = store.begin("foo", get(), 0, 0)
    laptop = RecordingUpstream(App(), "foo", recorder_of(store))  # type: ignore[arg-type]
    with pytest.raises(RequestMalformed):
        await Replayer({"foo": laptop})(capture, edits)
    assert len(store) == 1


async def test_an_incomplete_request_cannot_be_replayed() -> None:
    store = CaptureStore(max_body=3)
    replayer = Replayer({"foo": RecordingUpstream(App(), "foo", recorder_of(store))})  # type: ignore[arg-type]
    cut = store.begin("foo", post(5), 0, 0)
    store.receive(cut, b"12345", "request")
    store.complete_request(cut, 1)
    with pytest.raises(NotReplayable, match="only the first 3 of the 5 bytes of its body"):
        await replayer(cut, {})
    await replayer(cut, {"body": "x"})
    with pytest.raises(NotReplayable, match="'bar' is not served here"):
        await replayer(store.begin("bar", get(), 0, 0), {})
    replayer.close()
