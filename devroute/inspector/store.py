"""Stores captures within bounds of memory and number, and redacts everything before it stores it. Pure.

inspector/recorder.py calls begin, receive, complete_request, respond, add_message, complete and fail as a
request proceeds; each is cheap, and none raises.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, Literal

from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.inspector.body_redactor import store_rest
from devroute.inspector.capture import Body, Capture, CapturedHead, Direction, Message, as_text
from devroute.inspector.redaction import BodyFields, Redaction, redaction
from devroute.inspector.subscriptions import Callback, Defer, Subscriptions

#: Bytes of all captures, and of one body. The defaults in the settings are the same.
MAX_TOTAL_BYTES: Final = 50 * 1024 * 1024
MAX_BODY_BYTES: Final = 1024 * 1024

#: The number of captures, however small: as many as a browser's list shows without effort.
MAX_EXCHANGES: Final = 5000

#: Memory of a capture besides heads and bodies, and of a message besides its data (measured: 1.4 KiB, 200 B).
EXCHANGE_BYTES: Final = 2048
MESSAGE_BYTES: Final = 256

#: Messages of one capture; beyond them, the oldest DROPPED_MESSAGES are dropped.
MAX_MESSAGES: Final = 1000
DROPPED_MESSAGES: Final = 100

#: The oldest captures, of which the first completed one is evicted; if none is completed, the oldest is.
EVICTION_SCAN: Final = 64

_UPGRADE: Final = Framing.UPGRADE
_NONE: Final = Framing.NONE


def _call_now(call: Callable[[], None]) -> None:
    call()


class CaptureStore:
    """All captures, newest last. `defer` as in inspector/subscriptions.py."""

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
        self.skipped = 0  # requests that arrived faster than they could be recorded
        self.total = 0
        self._by_id: dict[int, Capture] = {}
        self._last_id = 0
        self.subscriptions = Subscriptions(defer)

    # --- reading

    def __len__(self) -> int:
        return len(self._by_id)

    def newest_first(self) -> Iterator[Capture]:
        return iter(list(reversed(self._by_id.values())))

    def get(self, number: int) -> Capture | None:
        return self._by_id.get(number)

    def subscribe(self, callback: Callback) -> Callable[[], None]:
        """Calls `callback` for each change; returns the function that ends that."""
        return self.subscriptions.add(callback)

    def clear(self) -> None:
        """Drop all captures. Requests in flight continue unrecorded."""
        for capture in self._by_id.values():
            _forget(capture)
        self._by_id.clear()
        self.total = self.skipped = 0
        self.subscriptions.notify("cleared", None, {})

    def drop(self, capture: Capture) -> None:
        """Drop one capture."""
        if self._by_id.pop(capture.id, None) is not None:
            self.total -= capture.stored_bytes
            _forget(capture)

    def add(self, capture: Capture) -> Capture:
        """Store a capture from elsewhere, such as an import, after redacting it. Sets its id."""
        self._insert(capture, self.redacted(capture))
        self.subscriptions.notify("done", capture, {})
        return capture

    def redacted(self, capture: Capture) -> int:
        """Redact a capture from elsewhere; its bytes besides the request head."""
        redact, limit = self.redact, self.max_body
        capture.target = redact.target_text(capture.target)
        for side in ("request", "response"):
            raw, fields = redact.head(b"\n" + getattr(capture, f"{side}_head").raw)
            setattr(capture, f"{side}_head", CapturedHead(raw[1:]))
            redact.body(getattr(capture, f"{side}_body"), fields, limit)
        capture.trailers = redact.fields(capture.trailers)
        capture.rules = [text for _, text in redact.fields([("rule", each) for each in capture.rules])]
        capture.messages = capture.messages[-MAX_MESSAGES:]
        if capture.kind == "grpc":
            _leave_unchecked(capture)
        for message in capture.messages:
            message.data = message.data[:limit]
            if capture.messages_checked is None:
                message.data = redact.message(message.data, text=message.opcode == "text")
        size = len(capture.response_head.raw)
        size += len(capture.request_body.data) + len(capture.response_body.data)
        return size + sum(len(message.data) + MESSAGE_BYTES for message in capture.messages)

    def reserve(self, last_id: int) -> None:
        """Leave the ids up to this one to captures of an earlier run."""
        self._last_id = max(self._last_id, last_id)

    def restore(self, found: Sequence[tuple[Capture, int]]) -> None:
        """Put captures of an earlier run before all others: each with its id, which was reserved, and what
        `redacted` returned. If there is too little room, the newest are kept."""
        kept: list[Capture] = []
        for capture, size in reversed(found):
            size += _fixed_size(capture)
            if self.total + size > self.max_total or len(self._by_id) + len(kept) >= MAX_EXCHANGES:
                break
            capture.stored, capture.stored_bytes = True, size
            self.total += size
            kept.append(capture)
            self.subscriptions.notify("restored", capture, {})
        self._by_id = {capture.id: capture for capture in reversed(kept)} | self._by_id

    # --- recording

    def begin(
        self, service: str, head: RequestHead, started: float, now: float, direction: Direction = "in"
    ) -> Capture:
        """Store a new request. `started`: Unix time; `now`: the monotonic clock of all later calls."""
        redact = self.redact
        wire = head.wire
        raw, fields = redact.head(wire[wire.find(b"\n") : -2])
        method, target = head.method.decode("latin-1"), redact.target(head.target).decode("latin-1")
        capture = Capture(service, method, target, started, now, direction=direction)
        capture.request_head = CapturedHead(raw[1:])
        framing = head.framing
        if framing is _UPGRADE:
            capture.kind = "websocket" if b"websocket" in fields.upgrade.lower() else "upgrade"
        if framing is _UPGRADE or framing is _NONE:
            capture.sent = now
            capture.request_body.complete = True
        else:
            if fields.content_type.startswith(b"application/grpc"):
                capture.kind = "grpc"
                _leave_unchecked(capture)
            capture.request_body.redactor = redact.body_redactor(fields, self.max_body)
        self._insert(capture, 0)
        if self.subscriptions.callbacks:
            self.subscriptions.notify("open", capture, {})
        return capture

    def respond(self, capture: Capture, head: ResponseHead, now: float) -> BodyFields:
        """The response head has arrived. Returns the fields that concern the body."""
        if not capture.stored:
            return BodyFields()
        raw = head.raw
        redacted, fields = self.redact.head(raw[raw.find(b"\n") : -2])
        capture.response_head = CapturedHead(redacted[1:])
        capture.status = head.status
        capture.reason = head.reason.decode("latin-1")
        capture.responded = now
        if capture.sent is None:
            capture.sent = now
        if head.framing is _UPGRADE:
            capture.request_body.complete = False  # from here on, both directions are open
        else:
            if capture.kind in ("websocket", "upgrade"):
                capture.kind = "http"  # the app refused the upgrade
            if fields.content_type[:17].lower() == b"text/event-stream":
                capture.kind = "sse"
            if head.framing is not _NONE:
                capture.response_body.redactor = self.redact.body_redactor(fields, self.max_body)
        self._grow(capture, len(redacted))
        if self.subscriptions.callbacks:
            self.subscriptions.notify("head", capture, {})
        return fields

    def receive(self, capture: Capture, data: bytes, side: Literal["request", "response"]) -> None:
        """A chunk of a body. Bytes beyond the limit are only counted."""
        if not capture.stored or capture.state != "open":
            return
        body = capture.request_body if side == "request" else capture.response_body
        redactor = body.redactor
        body.size += len(data)
        if not body.truncated and not body.complete:
            buffered = 0 if redactor is None else redactor.buffered
            room = max(0, self.max_body - len(body.data) - buffered)
            if len(data) > room:
                data = data[:room]
                body.truncated = True
            if redactor is None:
                body.data += data
                self._grow(capture, len(data))
            elif data:
                redacted = redactor.feed(data)
                if len(redacted) > self.max_body - len(body.data):  # redaction can make a text longer
                    redacted = redacted[: self.max_body - len(body.data)]
                    body.truncated = True
                body.data += redacted
                self._grow(capture, len(redacted) + redactor.buffered - buffered)
        if self.subscriptions.callbacks:
            self.subscriptions.notify("data", capture, {"side": side, "size": body.size})

    def count(self, capture: Capture, request: int, response: int) -> None:
        """Count bytes that are not stored: beyond the limit of a body, or of a WebSocket, whose messages
        are."""
        if not capture.stored or capture.state != "open":
            return
        for side, body, more in (
            ("request", capture.request_body, request),
            ("response", capture.response_body, response),
        ):
            body.size += more
            if more and self.subscriptions.callbacks:
                self.subscriptions.notify("data", capture, {"side": side, "size": body.size})

    def add_message(self, capture: Capture, message: Message) -> None:
        """Store a WebSocket or gRPC message."""
        if not capture.stored:
            return
        if capture.messages_checked is None:
            message.data = self.redact.message(message.data, text=message.opcode == "text")
        messages = capture.messages
        messages.append(message)
        grown = len(message.data) + MESSAGE_BYTES
        if len(messages) >= MAX_MESSAGES + DROPPED_MESSAGES:
            grown -= sum(len(old.data) + MESSAGE_BYTES for old in messages[:DROPPED_MESSAGES])
            del messages[:DROPPED_MESSAGES]
            capture.messages_dropped += DROPPED_MESSAGES
        self._grow(capture, grown)
        if self.subscriptions.callbacks:
            self.subscriptions.notify("message", capture, {"message": message})

    def add_rule(self, capture: Capture, text: str) -> None:
        """Store what a rule did."""
        if capture.stored and capture.add_rule(text):
            self._grow(capture, len(text) + MESSAGE_BYTES)
            self.subscriptions.notify("rule", capture, {})

    def complete_request(self, capture: Capture, now: float) -> None:
        """The request is complete."""
        body = capture.request_body
        body.complete = True
        if capture.sent is None:
            capture.sent = now
        self._flush(capture, body)

    def complete(self, capture: Capture, trailers: Headers, now: float) -> None:
        """The response is complete."""
        capture.response_body.complete = True
        if trailers:
            capture.trailers = self.redact.fields(as_text(trailers))
        capture.state = "done"
        self._finish(capture, now)

    def fail(self, capture: Capture, code: str, message: str, now: float) -> None:
        """The response failed or broke off, or the request was cancelled."""
        capture.error = (code, message)
        capture.state = "failed"
        self._finish(capture, now)

    def set_comparison(self, capture: Capture, found: list[dict[str, Any]]) -> None:
        """Store the redacted differences from the real service's response to the same request."""
        if capture.stored:
            capture.comparison = found
            self._grow(capture, sum(len(text or "") for each in found for text in each.values()))
            if self.subscriptions.callbacks:
                self.subscriptions.notify("done", capture, {})

    def _finish(self, capture: Capture, now: float) -> None:
        capture.ended = now
        self._flush(capture, capture.request_body)
        self._flush(capture, capture.response_body)
        if self.subscriptions.callbacks and capture.stored:
            self.subscriptions.notify("done", capture, {})

    def _flush(self, capture: Capture, body: Body) -> None:
        """Store the bytes that the body's redactor has buffered."""
        redactor, body.redactor = body.redactor, None
        if redactor is None or not capture.stored:
            return
        buffered = redactor.buffered
        self._grow(capture, store_rest(body, redactor, self.max_body) - buffered)

    def resize(self, capture: Capture, grown: int) -> None:
        """The stored parts of a capture have grown by so many bytes."""
        if capture.stored and grown:
            self._grow(capture, grown)

    # --- bounds

    def _insert(self, capture: Capture, size: int) -> None:
        """`size`: bytes besides the request head."""
        self._last_id += 1
        capture.id = self._last_id
        capture.stored = True
        self._by_id[capture.id] = capture
        self._grow(capture, size + _fixed_size(capture))
        if len(self._by_id) > MAX_EXCHANGES:
            self._evict(capture)

    def _grow(self, capture: Capture, size: int) -> None:
        capture.stored_bytes += size
        self.total += size
        while self.total > self.max_total and self._by_id:
            self._evict(capture)

    def _evict(self, growing: Capture) -> None:
        """Drop the oldest completed capture, else the oldest other than `growing`, else `growing`."""
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


def _leave_unchecked(capture: Capture) -> None:
    """A gRPC call is redacted when its schema is known, by inspector/protobuf/cleaner.py."""
    capture.messages_checked = capture.request_body.checked = capture.response_body.checked = 0


def _fixed_size(capture: Capture) -> int:
    """Bytes of a capture that do not change."""
    return len(capture.request_head.raw) + len(capture.target) + EXCHANGE_BYTES


def _forget(capture: Capture) -> None:
    """Stop recording a capture that the store has dropped."""
    capture.stored = False
    capture.request_body.redactor = capture.response_body.redactor = None
