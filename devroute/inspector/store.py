"""All exchanges that the inspector keeps, newest last, within bounds. Decides; never awaits, reads no clock.

The recorder (inspector/recorder.py) calls begin, sent, respond, receive, say, end and fail in the order of
an exchange; each
is cheap and none raises. Whatever comes is redacted before it is put where anybody can see it.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final, Literal

from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.inspector.capture import Body, Capture, Message, as_text
from devroute.inspector.redaction import Marks, Redaction, redaction

#: Bytes of all that is kept, and of one body. The settings' defaults are the same.
MAX_TOTAL_BYTES: Final = 50 * 1024 * 1024
MAX_BODY_BYTES: Final = 1024 * 1024

#: Exchanges that are kept, however small: what a list in a browser shows without effort.
MAX_EXCHANGES: Final = 5000

#: What an exchange costs besides heads and bodies, and a message besides its data (measured: 1.4 KiB, 200 B).
EXCHANGE_BYTES: Final = 2048
MESSAGE_BYTES: Final = 256

#: Messages of one exchange; the oldest go first, this many at a time.
MAX_MESSAGES: Final = 1000
DROPPED_MESSAGES: Final = 100

#: Exchanges at the old end that are looked at for one that is over, before the very oldest has to go.
EVICTION_SCAN: Final = 64

Event = Literal["open", "head", "data", "message", "done", "cleared"]
Callback = Callable[[Event, Capture | None, dict[str, Any]], None]
Defer = Callable[[Callable[[], None]], object]

_UPGRADE: Final = Framing.UPGRADE
_NONE: Final = Framing.NONE
_NO_MARKS: Final[Marks] = {}


def _call_now(call: Callable[[], None]) -> None:
    call()


class CaptureStore:
    """`later` runs a call after the current turn of the loop (loop.call_soon): subscribers then hear of many
    events at once, and cannot break a request."""

    def __init__(
        self,
        max_total: int = MAX_TOTAL_BYTES,
        max_body: int = MAX_BODY_BYTES,
        redact: Redaction | None = None,
        defer: Defer = _call_now,
    ) -> None:
        self.max_total = max_total
        self.max_body = max_body
        self.redact = redaction() if redact is None else redact
        self.paused = False
        self.skipped = 0  # requests that came faster than they could be recorded
        self.total = 0
        self._defer = defer
        self._by_id: dict[int, Capture] = {}
        self._last_id = 0
        self._subscribers: list[Callback] = []
        self._events: list[tuple[Event, Capture | None, dict[str, Any]]] = []

    # --- looking

    def __len__(self) -> int:
        return len(self._by_id)

    def newest_first(self) -> Iterator[Capture]:
        """Newest first."""
        return iter(list(reversed(self._by_id.values())))

    def get(self, number: int) -> Capture | None:
        return self._by_id.get(number)

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """`callback(event, exchange, extra)`: "open", "head" (the answer's), "data" with `side` ("request" or
        "response") and `size`, "message" with `message`, "done" (failed ones too), "cleared" (exchange None).
        Returns what ends it."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    def clear(self) -> None:
        """Forget everything. What is in flight goes on unrecorded."""
        for capture in self._by_id.values():
            _forget(capture)
        self._by_id.clear()
        self.total = self.skipped = 0
        self._notify("cleared", None, {})

    def drop(self, capture: Capture) -> None:
        """Forget one exchange."""
        if self._by_id.pop(capture.id, None) is not None:
            self.total -= capture.stored_bytes
            _forget(capture)

    def add(self, capture: Capture) -> Capture:
        """Keep an exchange from elsewhere (an import), redacted like every other; it gets a number."""
        redact, limit = self.redact, self.max_body
        capture.target = redact.target(capture.target.encode("latin-1", "replace")).decode("latin-1")
        for side in ("request", "response"):
            raw, marks = redact.head(b"\n" + getattr(capture, f"raw_{side}"))
            setattr(capture, f"{side}_headers", [])
            setattr(capture, f"raw_{side}", raw[1:])
            _redact_body(getattr(capture, f"{side}_body"), redact, marks, limit)
        capture.trailers = redact.fields(capture.trailers)
        capture.messages = capture.messages[-MAX_MESSAGES:]
        for message in capture.messages:
            message.data = redact.message(message.data[:limit], text=message.opcode == "text")
        size = len(capture.raw_response)
        size += len(capture.request_body.data) + len(capture.response_body.data)
        size += sum(len(message.data) + MESSAGE_BYTES for message in capture.messages)
        self._insert(capture, size)
        self._notify("done", capture, {})
        return capture

    # --- recording

    def begin(self, service: str, head: RequestHead, started: float, now: float) -> Capture:
        """A request has come. `started` is Unix time, `now` the clock of all further calls."""
        redact = self.redact
        wire = head.wire
        raw, marks = redact.head(wire[wire.find(b"\n") : -2])
        capture = Capture(
            service, head.method.decode("latin-1"), redact.target(head.target).decode("latin-1"), started, now
        )
        capture.raw_request = raw[1:]
        framing = head.framing
        if framing is _UPGRADE:
            upgrade = marks.get(b"upgrade", b"").lower()
            capture.kind = "websocket" if b"websocket" in upgrade else "upgrade"
            capture.sent = now
            capture.request_body.complete = True
        elif framing is _NONE:
            capture.sent = now
            capture.request_body.complete = True
        else:
            if marks.get(b"content-type", b"").startswith(b"application/grpc"):
                capture.kind = "grpc"
            capture.request_redactor = redact.redactor(marks, self.max_body)
        self._insert(capture, 0)
        if self._subscribers:
            self._notify("open", capture, {})
        return capture

    def respond(self, capture: Capture, head: ResponseHead, now: float) -> Marks:
        """The answer's head; returns what the recorder has to know of it."""
        if not capture.stored:
            return _NO_MARKS
        raw = head.raw
        cleaned, marks = self.redact.head(raw[raw.find(b"\n") : -2])
        capture.raw_response = cleaned[1:]
        capture.status = head.status
        capture.reason = head.reason.decode("latin-1")
        capture.responded = now
        if capture.sent is None:
            capture.sent = now
        if head.framing is _UPGRADE:
            capture.request_body.complete = False  # two pipes from here on
        else:
            if capture.kind in ("websocket", "upgrade"):
                capture.kind = "http"  # the app declined it
            if marks.get(b"content-type", b"")[:17].lower() == b"text/event-stream":
                capture.kind = "sse"
            if head.framing is not _NONE:
                capture.response_redactor = self.redact.redactor(marks, self.max_body)
        self._grow(capture, len(cleaned))
        if self._subscribers:
            self._notify("head", capture, {})
        return marks

    def receive(self, capture: Capture, data: bytes, side: Literal["request", "response"]) -> None:
        """A piece of a body; what is beyond the limit is counted only."""
        if not capture.stored or capture.state != "open":
            return
        if side == "request":
            body, redactor = capture.request_body, capture.request_redactor
        else:
            body, redactor = capture.response_body, capture.response_redactor
        body.size += len(data)
        if not body.truncated and not body.complete:
            room = self.max_body - len(body.data) - (0 if redactor is None else redactor.held)
            if len(data) > room:
                data = data[:room]
                body.truncated = True
            if redactor is None:
                body.data += data
                self._grow(capture, len(data))
            elif data:
                before = redactor.held
                clean = redactor.feed(data)
                body.data += clean
                self._grow(capture, len(clean) + redactor.held - before)
        if self._subscribers:
            self._notify("data", capture, {"side": side, "size": body.size})

    def count(self, capture: Capture, asked: int, responded: int) -> None:
        """Bytes that are not kept: of bodies that have all they may have, and of a WebSocket, of which
        messages are kept."""
        if not capture.stored or capture.state != "open":
            return
        sides: tuple[tuple[Literal["request", "response"], Body, int], ...] = (
            ("request", capture.request_body, asked),
            ("response", capture.response_body, responded),
        )
        for side, body, more in sides:
            body.size += more
            if more and self._subscribers:
                self._notify("data", capture, {"side": side, "size": body.size})

    def add_message(self, capture: Capture, message: Message) -> None:
        """A message of a WebSocket or of gRPC."""
        if not capture.stored:
            return
        message.data = self.redact.message(message.data, text=message.opcode == "text")
        messages = capture.messages
        messages.append(message)
        grown = len(message.data) + MESSAGE_BYTES
        if len(messages) >= MAX_MESSAGES + DROPPED_MESSAGES:
            grown -= sum(len(old.data) + MESSAGE_BYTES for old in messages[:DROPPED_MESSAGES])
            del messages[:DROPPED_MESSAGES]
            capture.messages_dropped += DROPPED_MESSAGES
        self._grow(capture, grown)
        if self._subscribers:
            self._notify("message", capture, {"message": message})

    def complete_request(self, capture: Capture, now: float) -> None:
        """The request is complete."""
        body = capture.request_body
        body.complete = True
        if capture.sent is None:
            capture.sent = now
        if capture.request_redactor is not None:
            self._flush(capture, body, capture.request_redactor)
            capture.request_redactor = None

    def complete(self, capture: Capture, trailers: Headers, now: float) -> None:
        """The answer is complete."""
        capture.response_body.complete = True
        if trailers:
            capture.trailers = self.redact.fields(as_text(trailers))
        capture.state = "done"
        self._over(capture, now)

    def fail(self, capture: Capture, code: str, message: str, now: float) -> None:
        """There is no answer, or it broke off, or nobody wants it any more."""
        capture.error = (code, message)
        capture.state = "failed"
        self._over(capture, now)

    def set_comparison(self, capture: Capture, found: list[dict[str, Any]]) -> None:
        """The real service's answer to the same request is known, and what differs, redacted before."""
        if capture.stored:
            capture.comparison = found
            self._grow(capture, sum(len(text or "") for each in found for text in each.values()))
            if self._subscribers:
                self._notify("done", capture, {})

    def _over(self, capture: Capture, now: float) -> None:
        capture.ended = now
        if capture.request_redactor is not None:
            self._flush(capture, capture.request_body, capture.request_redactor)
            capture.request_redactor = None
        if capture.response_redactor is not None:
            self._flush(capture, capture.response_body, capture.response_redactor)
            capture.response_redactor = None
        if self._subscribers and capture.stored:
            self._notify("done", capture, {})

    def _flush(self, capture: Capture, body: Body, redactor: Any) -> None:
        """Keep what the sieve held back."""
        if not capture.stored:
            return
        held = redactor.held
        rest, body.decoded, note = redactor.finish()
        body.data += rest[: self.max_body - len(body.data)]
        body.note = body.note or note
        self._grow(capture, len(rest) - held)

    # --- the bounds

    def _insert(self, capture: Capture, size: int) -> None:
        """`size`: what there is of it besides the request's head."""
        self._last_id += 1
        capture.id = self._last_id
        capture.stored = True
        self._by_id[capture.id] = capture
        self._grow(capture, size + len(capture.raw_request) + len(capture.target) + EXCHANGE_BYTES)
        if len(self._by_id) > MAX_EXCHANGES:
            self._evict(capture)

    def _grow(self, capture: Capture, size: int) -> None:
        capture.stored_bytes += size
        self.total += size
        while self.total > self.max_total and self._by_id:
            self._evict(capture)

    def _evict(self, growing: Capture) -> None:
        """Make room: the oldest that is over, else the oldest but the one that grows, else that one."""
        victim = growing
        for each in islice(self._by_id.values(), EVICTION_SCAN):
            if each is growing:
                continue
            if each.state != "open":
                victim = each
                break
            if victim is growing:
                victim = each
        del self._by_id[victim.id]
        self.total -= victim.stored_bytes
        _forget(victim)

    # --- telling

    def _notify(self, event: Event, capture: Capture | None, extra: dict[str, Any]) -> None:
        if self._subscribers:
            self._events.append((event, capture, extra))
            if len(self._events) == 1:
                self._defer(self._deliver)

    def _deliver(self) -> None:
        events, self._events = self._events, []
        for event, capture, extra in events:
            for callback in list(self._subscribers):
                callback(event, capture, extra)


def _forget(capture: Capture) -> None:
    """It is no longer the store's, and nothing more is recorded of it."""
    capture.stored = False
    capture.request_redactor = capture.response_redactor = None


def _redact_body(body: Body, redact: Redaction, marks: Marks, limit: int) -> None:
    """Redact a whole body, and cut it to the limit."""
    data = bytes(body.data[:limit])
    body.truncated = body.truncated or len(data) < len(body.data)
    if body.decoded:
        marks.pop(b"content-encoding", None)
    redactor = redact.redactor(marks, limit)
    if redactor is not None and data:
        first = redactor.feed(data)
        rest, decoded, note = redactor.finish()
        body.decoded, body.note = body.decoded or decoded, body.note or note
        data = first + rest
    body.data = bytearray(data[:limit])
