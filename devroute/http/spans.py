"""The spans of a sampled request: their ids, the `traceparent` that the next hop gets, and what the tunnel
sees of the laptop's part (W3C Trace Context §3.2). Pure. Compiled (setup.py).

A request that is not sampled has none of this: it keeps its head byte for byte.
"""

from collections.abc import Callable
from typing import Final

from devroute.headers import TRACEPARENT, line_start
from devroute.http.trace_context import TraceParent, trace_parent

_LINE: Final = line_start(TRACEPARENT)
_LINE_BYTES: Final = len(_LINE)
#: Where the second digit of the flags is: 00-<32 digits>-<16 digits>-0?
_FLAG_AT: Final = _LINE_BYTES + 54
#: Digits whose lowest bit is set, "sampled" (§3.2.2.3.1).
_SAMPLED: Final = b"13579bdf"


def sampled_parent(raw: bytes) -> TraceParent | None:
    """That of a request's head; None if its `traceparent` is absent or malformed, or not sampled."""
    at = raw.find(_LINE)
    if at < 0 or len(raw) <= at + _FLAG_AT:
        return None
    if raw[at + _FLAG_AT] not in _SAMPLED:  # a number: to look for bytes in bytes costs ten times as much
        return None
    return trace_parent(raw)


class SpanIds:
    """Those of the two spans at the proxy, below the caller's `parent`; each of 16 hexadecimal digits."""

    __slots__ = ("client_id", "parent", "server_id")

    def __init__(self, parent: TraceParent, server_id: bytes, client_id: bytes) -> None:
        self.parent = parent
        self.server_id = server_id
        self.client_id = client_id


def with_parent(wire: bytes, ids: SpanIds) -> bytes:
    """The head whose `traceparent` names the client span, in version 00 (§4.3). `tracestate` stays: it
    belongs to vendors, of which this proxy is none."""
    at = wire.find(_LINE)
    if at < 0:
        return wire
    value = b"00-%b-%b-%02x" % (ids.parent.trace_id, ids.client_id, ids.parent.flags)
    return b"".join((wire[: at + _LINE_BYTES], value, wire[wire.index(b"\r\n", at + _LINE_BYTES) :]))


class AgentSpan:
    """A sampled request's time at a laptop, by the frames that the proxy sent and received.

    `parent` is the proxy's client span. Times by time.monotonic(): `opened`, its frames began (0: never);
    `ended`, the last frame of the response, or what ended it, came. `round_trip`: the link's, in seconds;
    None if not known. `status` is 0 without a response; `code` is "" or that of the error. `report` is called
    once, at the end.
    """

    __slots__ = (
        "_report",
        "code",
        "ended",
        "laptop",
        "opened",
        "parent",
        "round_trip",
        "service",
        "status",
    )

    def __init__(
        self, parent: TraceParent, service: str, laptop: str, report: "Callable[[AgentSpan], None]"
    ) -> None:
        self.parent = parent
        self.service = service
        self.laptop = laptop
        self.opened = self.ended = 0.0
        self.round_trip: float | None = None
        self.status = 0
        self.code = ""
        self._report = report

    @property
    def spans(self) -> int:
        """How many spans it becomes."""
        return 1

    def end(self, now: float, round_trip: float | None, code: str) -> None:
        """Later calls, and those for a request that was never sent, change nothing."""
        if self.opened and not self.ended:
            self.ended = now
            self.round_trip = round_trip
            self.code = code
            self._report(self)

    def at_laptop(self) -> tuple[float, float]:
        """Start and end, without the way there and back."""
        way = min(self.round_trip or 0.0, self.ended - self.opened) / 2
        return self.opened + way, self.ended - way
