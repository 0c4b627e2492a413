"""Records requests and responses, those between the tunnel and an app and those from this laptop to a service
of the mesh: an upstream that wraps an upstream.

Everything is passed on at once, unchanged. On the path of a request, events are only queued (2 µs a request).
The recorder processes and redacts them a moment later (40 µs a request), at a rate that leaves the event loop
to the requests. Until then they are not visible.
"""

import asyncio
from time import monotonic, time
from typing import Any, Final, Protocol

from devroute.errors import DevrouteError
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.inspector.capture import Capture, Direction
from devroute.inspector.messages import MAX_MESSAGE_BYTES, GrpcMessages, Watcher, WebSocketMessages
from devroute.inspector.store import CaptureStore
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream

#: How long events wait, in seconds, and how many streams are then processed: 1,600 a second, for a sixteenth
#: of a core. While twice as many arrive, only SAMPLE are each time, and the event loop is left to requests.
DELAY_S: Final = 0.02
BATCH: Final = 32
SAMPLE: Final = 4

#: Streams with queued events. Beyond them, requests are not recorded, but counted.
MAX_WAITING: Final = 512

#: Bytes of bodies in queued events, of all streams; queued events of one stream.
MAX_QUEUED_BYTES: Final = 4 * 1024 * 1024
MAX_QUEUED: Final = 256

_UPGRADE: Final = Framing.UPGRADE

# Types of events.
_REQUEST_DATA, _REQUEST_END, _HEAD, _RESPONSE_DATA, _RESPONSE_END, _ERROR, _CANCEL, _RULE = range(8)


class App(Upstream, Protocol):
    """The upstream of a local app, or of a service of the mesh."""

    async def close(self) -> None: ...


class Recorder:
    """Turns the queued events of streams into captures."""

    def __init__(self, store: CaptureStore, loop: asyncio.AbstractEventLoop) -> None:
        self.store = store
        self.queued_bytes = 0
        self._loop = loop
        self._waiting: list[RecordedStream] = []
        self._timer: asyncio.TimerHandle | None = None
        self._before = 0  # streams that had been skipped or waited after the last time

    @property
    def busy(self) -> bool:
        return len(self._waiting) >= MAX_WAITING

    def schedule(self, stream: "RecordedStream") -> None:
        """Process the stream's events after DELAY_S."""
        self._waiting.append(stream)
        if self._timer is None:
            self._timer = self._loop.call_later(DELAY_S, self._record)

    def _record(self) -> None:
        self._timer = None
        waiting, skipped = self._waiting, self.store.skipped
        arrived = skipped + len(waiting) - self._before
        size = SAMPLE if self.busy and arrived > 2 * BATCH else BATCH
        batch = waiting[:size]
        del waiting[:size]
        self._before = skipped + len(waiting)
        for stream in batch:
            stream.record()
        if self._waiting:
            self._timer = self._loop.call_later(DELAY_S, self._record)

    def flush(self) -> None:
        """Process all queued events now."""
        waiting, self._waiting = self._waiting, []
        for stream in waiting:
            stream.record()


class RecordingUpstream:
    """An app whose requests and responses are recorded; implements devroute.upstream.Upstream. `service` and
    `direction` as of Capture."""

    __slots__ = ("_app", "_recorder", "direction", "service")

    def __init__(self, app: App, service: str, recorder: Recorder, direction: Direction = "in") -> None:
        self._app = app
        self._recorder = recorder
        self.service = service
        self.direction: Direction = direction

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        recorder = self._recorder
        if recorder.store.paused:
            return self._app.open(head, sink)
        if recorder.busy:
            recorder.store.skipped += 1
            return self._app.open(head, sink)
        stream = RecordedStream(recorder, self, head, sink)
        stream.stream = self._app.open(head, stream)
        return stream

    def record(
        self, head: RequestHead, sink: ResponseSink, replay_of: int | None
    ) -> tuple[Capture, UpstreamStream]:
        """Open a stream whose capture exists at once, even if recording is paused or busy: for replays."""
        stream = RecordedStream(self._recorder, self, head, sink)
        capture = stream.record()
        capture.replay_of = replay_of
        stream.stream = self._app.open(head, stream)
        return capture, stream

    async def close(self) -> None:
        await self._app.close()


class _Direction:
    """The request's or the response's body. `full`: no more of it is kept; `uncounted`: bytes since then that
    the store does not know yet."""

    __slots__ = ("full", "uncounted", "watcher")

    def __init__(self) -> None:
        self.watcher: Watcher | None = None
        self.full = False
        self.uncounted = 0


#: Both directions until the first event is processed, so that no objects are made on the path of a request.
_NEW: Final = _Direction()


class RecordedStream:
    """One request: the stream for its sender, and the sink for the app's response. `stream` leads to the app,
    once that has opened it. Not a PassingStream, which is not compiled."""

    __slots__ = (
        "_capture", "_done", "_events", "_half_closed", "_head", "_opened", "_queued_bytes", "_recorder",
        "_request", "_response", "_scheduled", "_sink", "_started", "_to", "_upgraded", "stream",
    )  # fmt: skip

    def __init__(
        self, recorder: Recorder, to: RecordingUpstream, head: RequestHead, sink: ResponseSink
    ) -> None:
        self.stream: UpstreamStream
        self._sink = sink
        self._recorder = recorder
        self._to = to
        self._head = head
        self._started = time()
        self._opened = monotonic()
        self._events: list[tuple[int, float, Any]] = []
        self._queued_bytes = 0
        self._scheduled = True
        self._done = False
        self._capture: Capture | None = None
        self._upgraded = False  # after a 101, both directions are independent byte streams
        self._half_closed = False  # one of them has ended
        self._request = self._response = _NEW
        recorder.schedule(self)

    # --- the request

    def send_data(self, data: bytes) -> None:
        self._queue_data(_REQUEST_DATA, self._request, data)
        self.stream.send_data(data)

    def send_end(self, trailers: Headers) -> None:
        self._queue(_REQUEST_END, None)
        self.stream.send_end(trailers)

    def cancel(self) -> None:
        self._queue(_CANCEL, None)
        self.stream.cancel()

    def pause_request(self) -> None:
        self._sink.pause_request()

    def resume_request(self) -> None:
        self._sink.resume_request()

    # --- the response

    def on_informational(self, head: ResponseHead) -> None:
        self._sink.on_informational(head)

    def on_head(self, head: ResponseHead) -> None:
        self._queue(_HEAD, head)
        self._sink.on_head(head)

    def on_data(self, data: bytes) -> None:
        self._queue_data(_RESPONSE_DATA, self._response, data)
        self._sink.on_data(data)

    def on_end(self, trailers: Headers) -> None:
        self._queue(_RESPONSE_END, trailers)
        self._sink.on_end(trailers)

    def on_error(self, error: DevrouteError) -> None:
        self._queue(_ERROR, error)
        self._sink.on_error(error)

    def pause_response(self) -> None:
        self.stream.pause_response()

    def resume_response(self) -> None:
        self.stream.resume_response()

    def on_rule(self, text: str) -> None:
        """A rule does something with the request or the response (rules/marking.py)."""
        self._queue(_RULE, text)

    # --- queued events

    def _queue(self, event: int, value: Any) -> None:
        self._events.append((event, monotonic(), value))
        if not self._scheduled:
            self._scheduled = True
            self._recorder.schedule(self)

    def _queue_data(self, event: int, direction: _Direction, data: bytes) -> None:
        if self._done:
            return
        recorder, size = self._recorder, len(data)
        if direction.full:  # keeping the bytes until they are counted would cost more than passing them on
            direction.uncounted += size
        else:
            self._events.append((event, monotonic(), data))
            self._queued_bytes += size
            recorder.queued_bytes += size
        if not self._scheduled:
            self._scheduled = True
            recorder.schedule(self)
        if recorder.queued_bytes > MAX_QUEUED_BYTES or len(self._events) > MAX_QUEUED:
            self.record()

    def record(self) -> Capture:
        """Process the queued events. Called by the recorder, and at once if the queue is full."""
        recorder = self._recorder
        recorder.queued_bytes -= self._queued_bytes
        self._queued_bytes = 0
        events, self._events = self._events, []
        store = recorder.store
        capture = self._capture
        if capture is None:
            to = self._to
            capture = store.begin(to.service, self._head, self._started, self._opened, to.direction)
            self._capture = capture
            self._request, self._response = _Direction(), _Direction()
            if capture.kind == "grpc":
                self._request.watcher = GrpcMessages(from_client=True)
        request, response = self._request, self._response
        if request.uncounted or response.uncounted:  # these bytes came before all queued events
            store.count(capture, request.uncounted, response.uncounted)
            request.uncounted = response.uncounted = 0
        for event, now, value in events:
            if not self._done:
                self._process(store, capture, event, now, value)
        self._done = self._done or not capture.stored
        request.full = capture.request_body.truncated and request.watcher is None
        response.full = capture.response_body.truncated and response.watcher is None
        self._scheduled = False
        return capture

    def _process(self, store: CaptureStore, capture: Capture, event: int, now: float, value: Any) -> None:
        if event in (_REQUEST_DATA, _RESPONSE_DATA):
            self._received(store, capture, event == _REQUEST_DATA, now, value)
        elif event == _HEAD:
            self._responded(store, capture, value, now)
        elif event == _RULE:
            store.add_rule(capture, value)
        elif event == _REQUEST_END:
            store.complete_request(capture, now)
            self._end_half(store, capture, now)
        elif event == _RESPONSE_END:
            if self._upgraded:
                self._end_half(store, capture, now)
            else:
                self._done = True
                store.complete(capture, value, now)
        elif event == _CANCEL and self._upgraded and (self._half_closed or _has_close_frame(capture)):
            self._done = True
            store.complete(capture, [], now)
        else:
            self._done = True
            if value is None:
                code, message = "cancelled", "the caller cancelled the request"
            else:
                code, message = value.code, value.message
            store.fail(capture, code, message, now)

    def _received(
        self, store: CaptureStore, capture: Capture, from_client: bool, now: float, data: bytes
    ) -> None:
        watcher = (self._request if from_client else self._response).watcher
        if watcher is not None:
            for message in watcher.feed(data, now - capture.opened):
                store.add_message(capture, message)
        if self._upgraded and capture.kind == "websocket":  # its messages are kept, not its bytes
            size = len(data)
            store.count(capture, size if from_client else 0, 0 if from_client else size)
        else:
            store.receive(capture, data, "request" if from_client else "response")

    def _responded(self, store: CaptureStore, capture: Capture, head: ResponseHead, now: float) -> None:
        fields = store.respond(capture, head, now)
        if head.framing is _UPGRADE:
            self._upgraded = True
            if capture.kind == "websocket":
                extensions = fields.extensions.decode("latin-1")
                limit = min(MAX_MESSAGE_BYTES, store.max_body)
                for direction, from_client in ((self._request, True), (self._response, False)):
                    direction.watcher = WebSocketMessages(
                        from_client=from_client, extensions=extensions, limit=limit
                    )
        elif capture.kind == "grpc":
            self._response.watcher = GrpcMessages(from_client=False)

    def _end_half(self, store: CaptureStore, capture: Capture, now: float) -> None:
        """Of an upgraded one each half ends by itself, and the request's may before the upgrade."""
        if self._upgraded and self._half_closed:
            self._done = True
            store.complete(capture, [], now)
        self._half_closed = True


def _has_close_frame(capture: Capture) -> bool:
    """Whether one of the last messages is a close frame (RFC 6455 §7.1.4)."""
    return any(message.opcode == "close" for message in capture.messages[-4:])
