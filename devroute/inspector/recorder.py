"""Records what passes between the tunnel and an app: an upstream around an upstream, for each service.

Everything is passed on at once, as it came. On the way of a request it is only noted (2 µs a request); what
it means, and what has to be redacted, the recorder finds out a moment later (40 µs a request), at a pace that
leaves the loop to the requests. Until then a note is seen by nobody.
"""

import asyncio
from time import monotonic, time
from typing import Any, Final, Protocol

from devroute.errors import DevrouteError
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.inspector.capture import Capture
from devroute.inspector.messages import MAX_MESSAGE_BYTES, GrpcMessages, Watcher, WebSocketMessages
from devroute.inspector.store import CaptureStore
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream

#: How long notes wait, in seconds, and of how many exchanges they are taken at a time: 1,600 a second, for
#: a sixteenth of a core. While more than that come, a sample will do, and the loop is the requests'.
NOTED_SECONDS: Final = 0.02
BATCH: Final = 32
SAMPLE: Final = 8

#: Exchanges whose notes wait; beyond them, requests pass unrecorded, and are counted. More a second than
#: anybody looks at.
MAX_WAITING: Final = 512

#: Bytes of bodies, and pieces of one, that wait in notes.
MAX_NOTED_BYTES: Final = 4 * 1024 * 1024
MAX_NOTES: Final = 256

_UPGRADE: Final = Framing.UPGRADE

# Kinds of notes.
_ASKED, _ASKED_END, _HEAD, _ANSWERED, _END, _ERROR, _CANCEL = range(7)


class App(Upstream, Protocol):
    """The upstream of a local app."""

    async def close(self) -> None: ...


class Recorder:
    """Turns the notes of taps into captures."""

    def __init__(self, store: CaptureStore, loop: asyncio.AbstractEventLoop) -> None:
        self.store = store
        self.noted = 0  # bytes of bodies in notes
        self._loop = loop
        self._waiting: list[RecordedStream] = []
        self._timer: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        return len(self._waiting) >= MAX_WAITING

    def due(self, tap: "RecordedStream") -> None:
        """The tap has its first note."""
        self._waiting.append(tap)
        if self._timer is None:
            self._timer = self._loop.call_later(NOTED_SECONDS, self._record)

    def _record(self) -> None:
        self._timer = None
        size = SAMPLE if self.busy else BATCH
        batch = self._waiting[:size]
        del self._waiting[:size]
        for tap in batch:
            tap.record()
        if self._waiting:
            self._timer = self._loop.call_later(NOTED_SECONDS, self._record)

    def flush(self) -> None:
        """Record all that is noted, now."""
        if self._timer is not None:
            self._timer.cancel()
        while self._waiting:
            self._record()
            if self._timer is not None:
                self._timer.cancel()


class RecordingUpstream:
    """An app whose exchanges are recorded; implements devroute.upstream.Upstream."""

    __slots__ = ("_app", "_recorder", "_service")

    def __init__(self, app: App, service: str, recorder: Recorder) -> None:
        self._app = app
        self._service = service
        self._recorder = recorder

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        recorder = self._recorder
        if recorder.store.paused:
            return self._app.open(head, sink)
        if recorder.busy:
            recorder.store.skipped += 1
            return self._app.open(head, sink)
        tap = RecordedStream(recorder, self._service, head, sink)
        tap.stream = self._app.open(head, tap)
        return tap

    def record(
        self, head: RequestHead, sink: ResponseSink, replay_of: int | None
    ) -> tuple[Capture, UpstreamStream]:
        """The same at once and in any case: for requests that the inspector sends itself."""
        tap = RecordedStream(self._recorder, self._service, head, sink)
        capture = tap.record()
        capture.replay_of = replay_of
        tap.stream = self._app.open(head, tap)
        return capture, tap

    async def close(self) -> None:
        await self._app.close()


class RecordedStream:
    """One exchange: the sink of the app's answer, and the stream of whoever asked."""

    __slots__ = (
        "_answered",
        "_answered_full",
        "_answered_more",
        "_asked",
        "_asked_full",
        "_asked_more",
        "_capture",
        "_half",
        "_head",
        "_noted",
        "_notes",
        "_opened",
        "_over",
        "_recorder",
        "_service",
        "_sink",
        "_started",
        "_switched",
        "_waits",
        "stream",
    )  # fmt: skip

    def __init__(self, recorder: Recorder, service: str, head: RequestHead, sink: ResponseSink) -> None:
        self._recorder = recorder
        self._service = service
        self._head = head
        self._sink = sink
        self._started = time()
        self._opened = monotonic()
        self._notes: list[tuple[int, float, Any]] = []
        self._noted = 0  # bytes of bodies in the notes
        self._waits = True
        self._over = False
        self._capture: Capture | None = None
        self._switched = False  # a 101 has made it two pipes
        self._half = False  # one of the pipes has ended
        self._asked: Watcher | None = None
        self._answered: Watcher | None = None
        # Bodies of which nothing more is kept, and the bytes that came since.
        self._asked_full = self._answered_full = False
        self._asked_more = self._answered_more = 0
        self.stream: UpstreamStream
        recorder.due(self)

    # --- the request

    def send_data(self, data: bytes) -> None:
        self._note_data(_ASKED, data)
        self.stream.send_data(data)

    def send_end(self, trailers: Headers) -> None:
        self._note(_ASKED_END, None)
        self.stream.send_end(trailers)

    def cancel(self) -> None:
        self._note(_CANCEL, None)
        self.stream.cancel()

    def pause_response(self) -> None:
        self.stream.pause_response()

    def resume_response(self) -> None:
        self.stream.resume_response()

    # --- the answer

    def on_informational(self, head: ResponseHead) -> None:
        self._sink.on_informational(head)

    def on_head(self, head: ResponseHead) -> None:
        self._note(_HEAD, head)
        self._sink.on_head(head)

    def on_data(self, data: bytes) -> None:
        self._note_data(_ANSWERED, data)
        self._sink.on_data(data)

    def on_end(self, trailers: Headers) -> None:
        self._note(_END, trailers)
        self._sink.on_end(trailers)

    def on_error(self, error: DevrouteError) -> None:
        self._note(_ERROR, error)
        self._sink.on_error(error)

    # --- flow control

    def pause_request(self) -> None:
        self._sink.pause_request()

    def resume_request(self) -> None:
        self._sink.resume_request()

    # --- notes

    def _note(self, kind: int, value: Any) -> None:
        self._notes.append((kind, monotonic(), value))
        if not self._waits:
            self._waits = True
            self._recorder.due(self)

    def _note_data(self, kind: int, data: bytes) -> None:
        if self._over:
            return
        size = len(data)
        if self._answered_full if kind == _ANSWERED else self._asked_full:
            self._count(kind, size)
            return
        self._noted += size
        recorder = self._recorder
        recorder.noted += size
        self._note(kind, data)
        if recorder.noted > MAX_NOTED_BYTES or len(self._notes) > MAX_NOTES:
            self.record()

    def _count(self, kind: int, size: int) -> None:
        """Bytes that nobody will see: to hold on to them would cost more than to pass them on."""
        if kind == _ANSWERED:
            self._answered_more += size
        else:
            self._asked_more += size
        if not self._waits:
            self._waits = True
            self._recorder.due(self)

    def record(self) -> Capture:
        """Act on the notes. Called by the recorder, and where too much would wait."""
        recorder = self._recorder
        recorder.noted -= self._noted
        self._noted = 0
        notes, self._notes = self._notes, []
        store = recorder.store
        capture = self._capture
        if capture is None:
            capture = store.begin(self._service, self._head, self._started, self._opened)
            self._capture = capture
            if capture.kind == "grpc":
                self._asked = GrpcMessages(from_client=True)
        if self._asked_more or self._answered_more:  # they came before all that is noted
            store.count(capture, self._asked_more, self._answered_more)
            self._asked_more = self._answered_more = 0
        for kind, now, value in notes:
            if not self._over:
                self._act(store, capture, kind, now, value)
        self._over = self._over or not capture.stored
        self._asked_full = capture.request_body.truncated and self._asked is None
        self._answered_full = capture.response_body.truncated and self._answered is None
        self._waits = False
        return capture

    def _act(self, store: CaptureStore, capture: Capture, kind: int, now: float, value: Any) -> None:
        if kind in (_ANSWERED, _ASKED):
            watcher = self._answered if kind == _ANSWERED else self._asked
            if watcher is not None:
                for message in watcher.feed(value, now - capture.opened):
                    store.add_message(capture, message)
            if self._switched and capture.kind == "websocket":
                size = len(value)
                store.count(capture, size if kind == _ASKED else 0, size if kind == _ANSWERED else 0)
            else:
                store.receive(capture, value, "response" if kind == _ANSWERED else "request")
        elif kind == _HEAD:
            self._answer_begun(store, capture, value, now)
        elif kind == _ASKED_END:
            store.complete_request(capture, now)
            if self._switched:
                self._half_ended(store, capture, now)
        elif kind == _END:
            if self._switched:
                self._half_ended(store, capture, now)
            else:
                self._over = True
                store.complete(capture, value, now)
        elif kind == _CANCEL and self._switched and (self._half or _closed(capture)):
            self._over = True
            store.complete(capture, [], now)
        else:
            self._over = True
            if value is None:
                code, why = "cancelled", "the caller went away"
            else:
                code, why = value.code, value.message
            store.fail(capture, code, why, now)

    def _answer_begun(self, store: CaptureStore, capture: Capture, head: ResponseHead, now: float) -> None:
        marks = store.respond(capture, head, now)
        if head.framing is _UPGRADE:
            self._switched = True
            if capture.kind == "websocket":
                extensions = marks.get(b"sec-websocket-extensions", b"").decode("latin-1")
                limit = min(MAX_MESSAGE_BYTES, store.max_body)
                self._asked = WebSocketMessages(from_client=True, extensions=extensions, limit=limit)
                self._answered = WebSocketMessages(from_client=False, extensions=extensions, limit=limit)
        elif capture.kind == "grpc":
            self._answered = GrpcMessages(from_client=False)

    def _half_ended(self, store: CaptureStore, capture: Capture, now: float) -> None:
        if self._half:
            self._over = True
            store.complete(capture, [], now)
        self._half = True


def _closed(capture: Capture) -> bool:
    """Whether somebody has said goodbye, as far as we saw (RFC 6455 §7.1.4)."""
    return any(message.opcode == "close" for message in capture.messages[-4:])
