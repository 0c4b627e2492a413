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
LOOKED_AT: Final = 64

Event = Literal["open", "head", "data", "message", "done", "cleared"]
Callback = Callable[[Event, Capture | None, dict[str, Any]], None]
Later = Callable[[Callable[[], None]], object]

_UPGRADE: Final = Framing.UPGRADE
_NONE: Final = Framing.NONE
_NO_MARKS: Final[Marks] = {}


def _at_once(call: Callable[[], None]) -> None:
    call()


class CaptureStore:
    """`later` runs a call after the current turn of the loop (loop.call_soon): subscribers then hear of many
    events at once, and cannot break a request."""

    def __init__(
        self,
        max_total: int = MAX_TOTAL_BYTES,
        max_body: int = MAX_BODY_BYTES,
        redact: Redaction | None = None,
        later: Later = _at_once,
    ) -> None:
        self.max_total = max_total
        self.max_body = max_body
        self.redact = redaction() if redact is None else redact
        self.paused = False
        self.skipped = 0  # requests that came faster than they could be recorded
        self.total = 0
        self._later = later
        self._kept: dict[int, Capture] = {}
        self._last = 0
        self._subscribers: list[Callback] = []
        self._events: list[tuple[Event, Capture | None, dict[str, Any]]] = []

    # --- looking

    def __len__(self) -> int:
        return len(self._kept)

    def listing(self) -> Iterator[Capture]:
        """Newest first."""
        return iter(list(reversed(self._kept.values())))

    def get(self, number: int) -> Capture | None:
        return self._kept.get(number)

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
        for exchange in self._kept.values():
            _forget(exchange)
        self._kept.clear()
        self.total = self.skipped = 0
        self._tell("cleared", None, {})

    def drop(self, exchange: Capture) -> None:
        """Forget one exchange."""
        if self._kept.pop(exchange.id, None) is not None:
            self.total -= exchange.kept
            _forget(exchange)

    def add(self, exchange: Capture) -> Capture:
        """Keep an exchange from elsewhere (an import), redacted like every other; it gets a number."""
        redact, limit = self.redact, self.max_body
        exchange.target = redact.target(exchange.target.encode("latin-1", "replace")).decode("latin-1")
        for side in ("request", "response"):
            raw, marks = redact.head(b"\n" + getattr(exchange, f"raw_{side}"))
            setattr(exchange, f"{side}_headers", [])
            setattr(exchange, f"raw_{side}", raw[1:])
            _cleanse(getattr(exchange, f"{side}_body"), redact, marks, limit)
        exchange.trailers = redact.fields(exchange.trailers)
        exchange.messages = exchange.messages[-MAX_MESSAGES:]
        for message in exchange.messages:
            message.data = redact.message(message.data[:limit], text=message.opcode == "text")
        size = len(exchange.raw_response)
        size += len(exchange.request_body.data) + len(exchange.response_body.data)
        size += sum(len(message.data) + MESSAGE_BYTES for message in exchange.messages)
        self._put(exchange, size)
        self._tell("done", exchange, {})
        return exchange

    # --- recording

    def begin(self, service: str, head: RequestHead, started: float, now: float) -> Capture:
        """A request has come. `started` is Unix time, `now` the clock of all further calls."""
        redact = self.redact
        wire = head.wire
        raw, marks = redact.head(wire[wire.find(b"\n") : -2])
        exchange = Capture(
            service, head.method.decode("latin-1"), redact.target(head.target).decode("latin-1"), started, now
        )
        exchange.raw_request = raw[1:]
        framing = head.framing
        if framing is _UPGRADE:
            upgrade = marks.get(b"upgrade", b"").lower()
            exchange.kind = "websocket" if b"websocket" in upgrade else "upgrade"
            exchange.sent = now
            exchange.request_body.complete = True
        elif framing is _NONE:
            exchange.sent = now
            exchange.request_body.complete = True
        else:
            if marks.get(b"content-type", b"").startswith(b"application/grpc"):
                exchange.kind = "grpc"
            exchange.request_sieve = redact.sieve(marks, self.max_body)
        self._put(exchange, 0)
        if self._subscribers:
            self._tell("open", exchange, {})
        return exchange

    def respond(self, exchange: Capture, head: ResponseHead, now: float) -> Marks:
        """The answer's head; returns what the recorder has to know of it."""
        if not exchange.stored:
            return _NO_MARKS
        raw = head.raw
        cleaned, marks = self.redact.head(raw[raw.find(b"\n") : -2])
        exchange.raw_response = cleaned[1:]
        exchange.status = head.status
        exchange.reason = head.reason.decode("latin-1")
        exchange.answered = now
        if exchange.sent is None:
            exchange.sent = now
        if head.framing is _UPGRADE:
            exchange.request_body.complete = False  # two pipes from here on
        else:
            if exchange.kind in ("websocket", "upgrade"):
                exchange.kind = "http"  # the app declined it
            if marks.get(b"content-type", b"")[:17].lower() == b"text/event-stream":
                exchange.kind = "sse"
            if head.framing is not _NONE:
                exchange.response_sieve = self.redact.sieve(marks, self.max_body)
        self._grow(exchange, len(cleaned))
        if self._subscribers:
            self._tell("head", exchange, {})
        return marks

    def receive(self, exchange: Capture, data: bytes, side: Literal["request", "response"]) -> None:
        """A piece of a body; what is beyond the limit is counted only."""
        if not exchange.stored or exchange.state != "open":
            return
        if side == "request":
            body, sieve = exchange.request_body, exchange.request_sieve
        else:
            body, sieve = exchange.response_body, exchange.response_sieve
        body.size += len(data)
        if not body.truncated and not body.complete:
            room = self.max_body - len(body.data) - (0 if sieve is None else sieve.held)
            if len(data) > room:
                data = data[:room]
                body.truncated = True
            if sieve is None:
                body.data += data
                self._grow(exchange, len(data))
            elif data:
                before = sieve.held
                clean = sieve.feed(data)
                body.data += clean
                self._grow(exchange, len(clean) + sieve.held - before)
        if self._subscribers:
            self._tell("data", exchange, {"side": side, "size": body.size})

    def count(self, exchange: Capture, asked: int, answered: int) -> None:
        """Bytes that are not kept: of bodies that have all they may have, and of a WebSocket, of which
        messages are kept."""
        if not exchange.stored or exchange.state != "open":
            return
        sides: tuple[tuple[Literal["request", "response"], Body, int], ...] = (
            ("request", exchange.request_body, asked),
            ("response", exchange.response_body, answered),
        )
        for side, body, more in sides:
            body.size += more
            if more and self._subscribers:
                self._tell("data", exchange, {"side": side, "size": body.size})

    def say(self, exchange: Capture, message: Message) -> None:
        """A message of a WebSocket or of gRPC."""
        if not exchange.stored:
            return
        message.data = self.redact.message(message.data, text=message.opcode == "text")
        messages = exchange.messages
        messages.append(message)
        grown = len(message.data) + MESSAGE_BYTES
        if len(messages) >= MAX_MESSAGES + DROPPED_MESSAGES:
            grown -= sum(len(old.data) + MESSAGE_BYTES for old in messages[:DROPPED_MESSAGES])
            del messages[:DROPPED_MESSAGES]
            exchange.messages_dropped += DROPPED_MESSAGES
        self._grow(exchange, grown)
        if self._subscribers:
            self._tell("message", exchange, {"message": message})

    def sent(self, exchange: Capture, now: float) -> None:
        """The request is complete."""
        body = exchange.request_body
        body.complete = True
        if exchange.sent is None:
            exchange.sent = now
        if exchange.request_sieve is not None:
            self._settle(exchange, body, exchange.request_sieve)
            exchange.request_sieve = None

    def end(self, exchange: Capture, trailers: Headers, now: float) -> None:
        """The answer is complete."""
        exchange.response_body.complete = True
        if trailers:
            exchange.trailers = self.redact.fields(as_text(trailers))
        exchange.state = "done"
        self._over(exchange, now)

    def fail(self, exchange: Capture, code: str, message: str, now: float) -> None:
        """There is no answer, or it broke off, or nobody wants it any more."""
        exchange.error = (code, message)
        exchange.state = "failed"
        self._over(exchange, now)

    def compare(self, exchange: Capture, found: list[dict[str, Any]]) -> None:
        """The real service's answer to the same request is known, and what differs, redacted before."""
        if exchange.stored:
            exchange.comparison = found
            self._grow(exchange, sum(len(text or "") for each in found for text in each.values()))
            if self._subscribers:
                self._tell("done", exchange, {})

    def _over(self, exchange: Capture, now: float) -> None:
        exchange.ended = now
        if exchange.request_sieve is not None:
            self._settle(exchange, exchange.request_body, exchange.request_sieve)
            exchange.request_sieve = None
        if exchange.response_sieve is not None:
            self._settle(exchange, exchange.response_body, exchange.response_sieve)
            exchange.response_sieve = None
        if self._subscribers and exchange.stored:
            self._tell("done", exchange, {})

    def _settle(self, exchange: Capture, body: Body, sieve: Any) -> None:
        """Keep what the sieve held back."""
        if not exchange.stored:
            return
        held = sieve.held
        rest, body.decoded, note = sieve.finish()
        body.data += rest[: self.max_body - len(body.data)]
        body.note = body.note or note
        self._grow(exchange, len(rest) - held)

    # --- the bounds

    def _put(self, exchange: Capture, size: int) -> None:
        """`size`: what there is of it besides the request's head."""
        self._last += 1
        exchange.id = self._last
        exchange.stored = True
        self._kept[exchange.id] = exchange
        self._grow(exchange, size + len(exchange.raw_request) + len(exchange.target) + EXCHANGE_BYTES)
        if len(self._kept) > MAX_EXCHANGES:
            self._evict(exchange)

    def _grow(self, exchange: Capture, size: int) -> None:
        exchange.kept += size
        self.total += size
        while self.total > self.max_total and self._kept:
            self._evict(exchange)

    def _evict(self, growing: Capture) -> None:
        """Make room: the oldest that is over, else the oldest but the one that grows, else that one."""
        victim = growing
        for each in islice(self._kept.values(), LOOKED_AT):
            if each is growing:
                continue
            if each.state != "open":
                victim = each
                break
            if victim is growing:
                victim = each
        del self._kept[victim.id]
        self.total -= victim.kept
        _forget(victim)

    # --- telling

    def _tell(self, event: Event, exchange: Capture | None, extra: dict[str, Any]) -> None:
        if self._subscribers:
            self._events.append((event, exchange, extra))
            if len(self._events) == 1:
                self._later(self._deliver)

    def _deliver(self) -> None:
        events, self._events = self._events, []
        for event, exchange, extra in events:
            for callback in list(self._subscribers):
                callback(event, exchange, extra)


def _forget(exchange: Capture) -> None:
    """It is no longer the store's, and nothing more is recorded of it."""
    exchange.stored = False
    exchange.request_sieve = exchange.response_sieve = None


def _cleanse(body: Body, redact: Redaction, marks: Marks, limit: int) -> None:
    """Redact a whole body, and cut it to the limit."""
    data = bytes(body.data[:limit])
    body.truncated = body.truncated or len(data) < len(body.data)
    if body.decoded:
        marks.pop(b"content-encoding", None)
    sieve = redact.sieve(marks, limit)
    if sieve is not None and data:
        first = sieve.feed(data)
        rest, decoded, note = sieve.finish()
        body.decoded, body.note = body.decoded or decoded, body.note or note
        data = first + rest
    body.data = bytearray(data[:limit])
