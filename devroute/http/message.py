"""Parsed heads, and how they are written for the next hop (RFC 9110 §7.6). Pure; parses none itself."""

import re
from dataclasses import dataclass
from enum import Enum, auto
from http import HTTPStatus
from typing import Final

from devroute.headers import REASON, RESULT, RULE, line_start
from devroute.http.spans import AgentSpan
from devroute.quoting import printable

#: Field lines in order, names as received (compare with .lower()).
Headers = list[tuple[bytes, bytes]]


#: Of a response's head, and of a request's unless the settings say otherwise. Envoy's default limit for a
#: request's head is 60 KiB: what it lets through can be read here.
MAX_HEAD_BYTES: Final = 64 * 1024

#: Envoy's default is 100 field lines; the rest is room for what meshes add.
MAX_FIELD_LINES: Final = 200


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Limits of a request's head: bytes in all, and field lines."""

    size: int
    fields: int


#: For requests, unless the proxy's settings say otherwise.
HEAD_LIMITS: Final = HeadLimits(MAX_HEAD_BYTES, MAX_FIELD_LINES)


class Framing(Enum):
    """How a body's end is found (RFC 9112 §6.3)."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()
    UPGRADE = auto()


# Looking up an enum's member costs as much as a call in Python 3.11, and these are needed for each message.
_CHUNKED: Final = Framing.CHUNKED
_UPGRADING: Final = Framing.UPGRADE

#: Of a time: as long as the other side likes.
NO_LIMIT: Final = float("inf")

_VIA: Final = b"via: 1.1 devroute\r\n\r\n"
#: The same for a request over HTTP/2: the last hop learns from it what the client speaks.
VIA_HTTP2: Final = b"via: 2.0 devroute\r\n\r\n"


# Heads are not dataclasses: mypyc cannot compile an __init__ that is generated at run time.
class RequestHead:
    """A request as an upstream gets it: without hop-by-hop fields, framing decided.

    `wire` is the head as sent on an HTTP/1.1 connection or in an OPEN frame, final CRLF CRLF included.
    `length` is the body's length in bytes where framing is LENGTH, else 0. `span`: for what a tunnel
    observes of a sampled request, None for all others.
    """

    __slots__ = ("framing", "length", "method", "span", "target", "wire")

    def __init__(
        self,
        method: bytes,
        target: bytes,
        framing: Framing,
        length: int,
        wire: bytes,
        span: AgentSpan | None = None,
    ) -> None:
        self.method = method
        self.target = target
        self.framing = framing
        self.length = length
        self.wire = wire
        self.span = span

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, RequestHead)
            and self.wire == other.wire
            and (self.framing, self.length) == (other.framing, other.length)
        )

    @property
    def headers(self) -> Headers:
        """The field lines of `wire`. Split on each call: most requests pass without it."""
        return split_fields(self.wire)


#: By status, as on a status line.
REASON_PHRASES: Final = {b"%d" % status: status.phrase.encode() for status in HTTPStatus}

#: Where a field line and the next one start, as offsets into a head.
Span = tuple[int, int]


class InboundRequest:
    """A valid request as a client sent it. `drop` are the spans of the fields that end at this hop; `http2`:
    it came over HTTP/2. `via` and `trace` are the values of the headers VIA and TRACE, None without them;
    `traceparent`: it has one."""

    __slots__ = (
        "contract",
        "drop",
        "expects_continue",
        "framing",
        "http2",
        "keep_alive",
        "length",
        "matched",
        "method",
        "minor",
        "raw",
        "request_id",
        "start_line",
        "target",
        "trace",
        "traceparent",
        "trailers_ok",
        "upgrade",
        "via",
    )

    def __init__(
        self,
        method: bytes,
        target: bytes,
        minor: int,
        framing: Framing,
        length: int,
        keep_alive: bool,
        expects_continue: bool,
        upgrade: bytes,
        trailers_ok: bool,
        request_id: bytes,
        contract: list[bytes],
        matched: list[bytes],
        start_line: bytes,
        raw: bytes,
        drop: list[Span],
    ) -> None:
        self.method = method
        self.target = target
        self.minor = minor
        self.framing = framing
        self.length = length
        self.keep_alive = keep_alive
        self.expects_continue = expects_continue
        self.upgrade = upgrade
        self.trailers_ok = trailers_ok
        self.request_id = request_id
        self.contract = contract
        self.matched = matched
        self.start_line = start_line
        self.raw = raw
        self.drop = drop
        self.http2 = False
        self.via: bytes | None = None
        self.trace: bytes | None = None
        self.traceparent = False

    def forward(self) -> RequestHead:
        """The head for the next hop, with fresh hop-by-hop fields and a Via (RFC 9110 §7.6.3)."""
        framing = self.framing
        extra = VIA_HTTP2 if self.http2 else _VIA
        if framing is _UPGRADING:
            extra = b"connection: upgrade\r\nupgrade: %b\r\n%b" % (self.upgrade, extra)
        elif self.trailers_ok:
            extra = b"connection: te\r\nte: trailers\r\n" + extra
        if framing is _CHUNKED:
            extra = b"transfer-encoding: chunked\r\n" + extra
        wire = _without(self.raw, self.drop, self.start_line, extra)
        return RequestHead(self.method, self.target, framing, self.length, wire)


class ResponseHead:
    """A valid response as an upstream sent it.

    `raw` is the head as received, final CRLF CRLF included. `drop` holds the spans of the fields that end at
    this hop. `outcome` is result and reason, where the route's do not hold for this response (failover).
    `by_rule`: what a rule of the laptop did ("rule 'slow' responded"), "" if none did anything.
    `cached`: the spans of the fields that permit caches to keep the response.
    `idle_limit`: seconds for which the sender keeps an idle connection open, NO_LIMIT if it does not say.
    `not_stored`: what http1/response.py's without_cache_fields has made of this. `repeated`: the app has sent
    the same once more, so that what `forward` returns is remembered.
    """

    __slots__ = (
        "_forwarded",
        "by_rule",
        "cached",
        "drop",
        "framing",
        "idle_limit",
        "keep_alive",
        "length",
        "not_stored",
        "outcome",
        "raw",
        "reason",
        "repeated",
        "status",
    )

    def __init__(
        self,
        status: int,
        reason: bytes,
        framing: Framing,
        length: int,
        keep_alive: bool,
        raw: bytes,
        drop: list[Span],
        outcome: tuple[str, str] | None = None,
    ) -> None:
        self.status = status
        self.reason = reason
        self.framing = framing
        self.length = length
        self.keep_alive = keep_alive
        self.raw = raw
        self.drop = drop
        self.outcome = outcome
        self.by_rule = ""
        self.idle_limit = NO_LIMIT
        self.cached: list[Span] = []
        self.not_stored: ResponseHead | None = None
        self.repeated = False
        self._forwarded: tuple[bytes, bool, bool, bytes] | None = None

    def with_outcome(self, result: str, reason: str) -> "ResponseHead":
        return self._with(self.drop, (result, reason))

    def dropping(self, spans: list[Span]) -> "ResponseHead":
        """The same without the fields at these spans too."""
        return self._with(sorted({*self.drop, *spans}), self.outcome)

    def _with(self, drop: list[Span], outcome: tuple[str, str] | None) -> "ResponseHead":
        status, phrase, framing, length = self.status, self.reason, self.framing, self.length
        head = ResponseHead(status, phrase, framing, length, self.keep_alive, self.raw, drop, outcome)
        head.by_rule = self.by_rule
        head.cached = self.cached
        return head

    @property
    def headers(self) -> Headers:
        """All field lines. Split on each call."""
        return split_fields(self.raw)

    def end_to_end(self) -> Headers:
        """The fields for the next hop, names in lower case."""
        kept = _without(self.raw, self.drop, b"\r\n", b"\r\n")
        return [(name.lower(), value) for name, value in split_fields(kept)]

    def forward(self, extra: bytes, *, chunked: bool, close: bool) -> bytes:
        """The head for an HTTP/1.1 client. `extra` is whole field lines, each with its CRLF."""
        last = self._forwarded
        if last is not None and last[0] == extra and last[1] is chunked and last[2] is close:
            return last[3]
        end = extra
        if chunked:
            end += b"transfer-encoding: chunked\r\n"
        if close:
            end += b"connection: close\r\n"
        start = b"HTTP/1.1 %d %b\r\n" % (self.status, self.reason)
        made = _without(self.raw, self.drop, start, end + b"\r\n")
        if self.repeated:
            self._forwarded = (extra, chunked, close, made)
        return made


def _without(raw: bytes, drop: list[Span], start_line: bytes, end: bytes) -> bytes:
    """The head with another start line, without the lines in `drop`, and `end` instead of its empty line."""
    pieces: list[bytes] = []
    at = 0
    if not raw.startswith(start_line):  # costs a tenth of looking for the line's end
        pieces.append(start_line)
        at = raw.index(b"\n") + 1
    for first, last in drop:
        pieces.append(raw[at:first])
        at = last
    pieces.append(raw[at:-2])
    pieces.append(end)
    return b"".join(pieces)


def header_value(head: bytes, line: bytes) -> bytes | None:
    """The value of a line that a sidecar wrote, or None. `line` is the line's start: CRLF, the name in lower
    case, a colon and a space (devroute.headers.line_start)."""
    at = head.find(line)
    return None if at < 0 else head[at + len(line) : head.index(b"\r\n", at + 2)]


def header_id(head: bytes, line: bytes, longest: int) -> str | None:
    """As header_value, for an id of at most `longest` letters and digits; None for anything else."""
    value = header_value(head, line)
    return value.decode("ascii") if value is not None and len(value) <= longest and value.isalnum() else None


def split_fields(head: bytes) -> Headers:
    """The field lines of a valid head."""
    fields: Headers = []
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields.append((name, value.strip(b" \t")))
    return fields


#: How an agent writes the line of a rule; every other spelling is the app's.
RULE_LINE: Final = line_start(RULE)
_RULE_LINES: Final = re.compile(re.escape(RULE_LINE) + rb"[^\r]*")


def rule_of(raw: bytes) -> str:
    """What a response's head from a tunnel says that a rule of the laptop did, "" if it says nothing."""
    value = header_value(raw, RULE_LINE)
    return "" if value is None else printable(value.decode("latin-1"))


def without_rule(raw: bytes) -> bytes:
    """A response's head without what its app writes as a rule's line."""
    return _RULE_LINES.sub(b"", raw) if raw.find(RULE_LINE) >= 0 else raw


def result_lines(result: str, reason: str) -> bytes:
    """x-devroute-result and x-devroute-reason as whole lines."""
    return f"{RESULT}: {result}\r\n{REASON}: {printable(reason)}\r\n".encode("ascii")
