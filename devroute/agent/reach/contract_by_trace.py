"""The contracts of requests that this laptop's apps are answering, by the ids that tracers and sidecars pass
on: an app that forwards only those still hands the contract on with what it sends. Pure.

Ids are compared by the low 64 bits of the trace's id, which all formats have: W3C traceparent, b3 in one
header or several, Jaeger's, Datadog's (decimal), Google's, AWS'; and x-request-id as a whole.
"""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from devroute import headers
from devroute.headers import line_start
from devroute.http.baggage import member_value
from devroute.http.message import header_value
from devroute.quoting import MAX_REQUEST_ID

#: Seconds for which a contract is found after its request has ended: an app may send more later.
KEPT_SECONDS: Final = 60.0
#: Ids of requests that have ended, the latest ones.
MAX_ENDED: Final = 2048

_ID_LINES: Final = re.compile(
    rb"\r\n(traceparent|b3|x-b3-traceid|uber-trace-id|x-datadog-trace-id|x-cloud-trace-context|x-amzn-trace-id"
    rb"|x-request-id):[ \t]*([^\r]*)",
    re.IGNORECASE,
)
#: The trace's id in each, as hexadecimal digits.
_HEX_IDS: Final = {
    b"traceparent": re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-", re.IGNORECASE),
    b"b3": re.compile(rb"([0-9a-f]{16,32})-", re.IGNORECASE),
    b"x-b3-traceid": re.compile(rb"([0-9a-f]{16,32})[ \t]*$", re.IGNORECASE),
    b"uber-trace-id": re.compile(rb"([0-9a-f]{1,32})(?::|%3a)", re.IGNORECASE),
    b"x-cloud-trace-context": re.compile(rb"([0-9a-f]{32})(?:/|[ \t]*$)", re.IGNORECASE),
    b"x-amzn-trace-id": re.compile(rb"(?:[^,]*;)?[ \t]*root=1-[0-9a-f]{8}-([0-9a-f]{24})", re.IGNORECASE),
}
_DATADOG: Final = re.compile(rb"([0-9]{1,20})[ \t]*$")
_LOW: Final = (1 << 64) - 1


def trace_ids(head: bytes) -> set[bytes]:
    """All of a request's head."""
    found = set()
    for name, value in _ID_LINES.findall(head):
        name = name.lower()
        if name == b"x-request-id":
            if 0 < len(value) <= MAX_REQUEST_ID:
                found.add(value.strip())
            continue
        match = (_DATADOG if name == b"x-datadog-trace-id" else _HEX_IDS[name]).match(value)
        if match is not None:
            low = int(match[1], 10 if name == b"x-datadog-trace-id" else 16) & _LOW
            if low:
                found.add(b"%016x" % low)
    return found


class Carried(NamedTuple):
    """What a request carries for devroute: values of headers and of baggage members, by their names, as the
    sidecar wrote them."""

    headers: tuple[tuple[bytes, bytes], ...]
    members: tuple[tuple[bytes, bytes], ...]


_HEADERS: Final = tuple(
    (name.encode(), line_start(name)) for name in (headers.CONTRACT, headers.VIA, headers.TRACE)
)
_CONTRACT_LINE: Final = line_start(headers.CONTRACT)
_MEMBERS: Final = tuple(
    name.encode() for name in (headers.BAGGAGE_CONTRACT, headers.BAGGAGE_VIA, headers.BAGGAGE_TRACE)
)
_BAGGAGE: Final = line_start("baggage")


def carried_by(head: bytes) -> Carried | None:
    """What a request that a sidecar detoured carries; None without a contract."""
    if header_value(head, _CONTRACT_LINE) is None:
        return None
    found = [(name, header_value(head, line)) for name, line in _HEADERS]
    baggage = header_value(head, _BAGGAGE) or b""
    members = [(key, member_value(baggage, key)) for key in _MEMBERS]
    return Carried(
        tuple((name, value) for name, value in found if value is not None),
        tuple((key, value) for key, value in members if value is not None),
    )


class _Known:
    __slots__ = ("carried", "open")

    def __init__(self, carried: Carried) -> None:
        self.carried = carried
        self.open = 0


class ContractsByTrace:
    """`begin` and `end` are called with the head of each request to this laptop's apps. As many ids are kept
    as the open requests have, and MAX_ENDED more."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._open: dict[bytes, _Known] = {}
        self._ended: dict[bytes, tuple[float, Carried]] = {}  # in the order in which they ended
        self._last: Carried | None = None

    def begin(self, head: bytes) -> None:
        carried = carried_by(head)
        if carried is None:
            return
        if carried == self._last:
            carried = self._last  # most requests have the same, which is kept once
        self._last = carried
        for each in trace_ids(head):
            known = self._open.get(each)
            if known is None:
                known = self._open[each] = _Known(carried)
            known.carried = carried
            known.open += 1

    def end(self, head: bytes) -> None:
        if header_value(head, _CONTRACT_LINE) is None:  # `begin` knows none of it
            return
        now = self._clock()
        for each in trace_ids(head):
            known = self._open.get(each)
            if known is None:
                continue
            known.open -= 1
            if not known.open:
                del self._open[each]
                self._ended.pop(each, None)
                self._ended[each] = now + KEPT_SECONDS, known.carried
        while self._ended:
            oldest = next(iter(self._ended))
            if len(self._ended) <= MAX_ENDED and self._ended[oldest][0] >= now:
                break
            del self._ended[oldest]

    def find(self, head: bytes) -> Carried | None:
        """What the request carries that this one belongs to."""
        if not self._open and not self._ended:
            return None
        ids = trace_ids(head)
        for each in ids:
            if (known := self._open.get(each)) is not None:
                return known.carried
        now = self._clock()
        for each in ids:
            ended = self._ended.get(each)
            if ended is not None and ended[0] >= now:
                return ended[1]
        return None
