"""Rewrites a request of a local program on its way into the mesh: the mesh's name as its Host, and the
contract of the request that it belongs to. Pure.
"""

import re
from collections.abc import Callable
from typing import Final

from devroute import headers
from devroute.agent.reach.contract_by_trace import Carried, ContractsByTrace
from devroute.agent.reach.mesh_port import MeshPort
from devroute.contract.trace_id import without_trace
from devroute.errors import (
    DevrouteError,
    ReachDenied,
    ReachRefused,
    ReachUnavailable,
    ServiceUnknown,
    TargetUnreachable,
)
from devroute.http.baggage import member_value, with_member
from devroute.http.carriers import carried_contract, compact_json
from devroute.http.message import RequestHead, ResponseHead, header_value, split_fields
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream

_CONTRACT: Final = headers.CONTRACT.encode()
#: The fields that are read or written, and all of devroute's own.
_LINES: Final = re.compile(rb"\r\n(host|baggage|x-devroute[^:]*):[ \t]*([^\r]*)", re.IGNORECASE)
#: Those of devroute's fields that a program may send: what a caller may send into the mesh at all. All others
#: come from sidecars and proxies only, which are trusted.
_PASSED: Final = frozenset(name.encode() for name in (headers.CONTRACT, headers.VIA, headers.TRACE))
#: What of a response is otherwise for the next proxy alone.
_SHOWN: Final = re.compile(rb"(?:%b|%b):" % (headers.RESULT.encode(), headers.REASON.encode()), re.IGNORECASE)
_RESULT_LINE: Final = headers.line_start(headers.RESULT)
_REASON_LINE: Final = headers.line_start(headers.REASON)
#: Errors that a person has to do something about; the response with the hint is the app's, which rarely shows
#: it.
_FOR_PEOPLE: Final = (ReachDenied, ReachRefused, ReachUnavailable, ServiceUnknown, TargetUnreachable)


class RewritingUpstream:
    """Requests to one destination, through `way`; implements Upstream. `own`: the contract for a request that
    belongs to none, None for no contract. `failed` gets the destination's name, and errors for people."""

    def __init__(
        self,
        to: MeshPort,
        way: Upstream,
        contracts: ContractsByTrace,
        own: Callable[[], bytes | None],
        failed: Callable[[str, DevrouteError], None],
    ) -> None:
        self._name = str(to)
        self._failed = failed
        self._authority = to.authority.encode()
        self._way = way
        self._contracts = contracts
        self._own = own

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        wire = self._rewritten(head.wire)
        outgoing = RequestHead(head.method, head.target, head.framing, head.length, wire, head.span)
        return self._way.open(outgoing, _Sink(sink, self._report))

    def _report(self, error: DevrouteError) -> None:
        if isinstance(error, _FOR_PEOPLE):
            self._failed(self._name, error)

    def _rewritten(self, wire: bytes) -> bytes:
        given: dict[bytes, bytes] = {}
        baggage = b""
        for name, value in _LINES.findall(wire):
            name = name.lower()
            if name == b"baggage":
                baggage = b"%b,%b" % (baggage, value) if baggage else value
            elif name in _PASSED:
                given.setdefault(name, value)
        carried = self._contracts.find(wire)
        if carried is None and (own := self._own()) is not None:
            carried = Carried(((_CONTRACT, own),), ())
        lines, baggage = _merged(wire, given, baggage, carried)
        kept = _LINES.sub(self._line, wire)
        if baggage:
            lines += b"baggage: %b\r\n" % baggage
        return b"%b%b\r\n" % (kept[:-2], lines)

    def _line(self, line: "re.Match[bytes]") -> bytes:
        name = line[1].lower()
        if name == b"host":
            return b"\r\nhost: %b" % self._authority
        return line[0] if name in _PASSED else b""  # baggage is added again, in one line


def _merged(
    wire: bytes, given: dict[bytes, bytes], baggage: bytes, carried: Carried | None
) -> tuple[bytes, bytes]:
    """Lines to be added, and the whole baggage. What the program has passed on itself stays; beside another
    contract than the one that was found, nothing is added."""
    if carried is None or not _agree(wire, given, dict(carried.headers)):
        return b"", baggage
    lines = b"".join(b"%b: %b\r\n" % each for each in carried.headers if each[0] not in given)
    for key, value in carried.members:
        if member_value(baggage, key) is None:
            baggage = with_member(baggage, key, value)
    return lines, baggage


def _agree(wire: bytes, given: dict[bytes, bytes], found: dict[bytes, bytes]) -> bool:
    """Whether the program has sent no contract, or the one that was found."""
    contract = found[_CONTRACT]
    if _CONTRACT in given:
        return without_trace(given[_CONTRACT]) == without_trace(contract)
    fields: dict[str, bytes] = {}
    for raw_name, value in split_fields(wire):
        name = raw_name.decode("latin-1").lower()
        fields[name] = b"%b,%b" % (fields[name], value) if name in fields else value
    sent = carried_contract(fields.get)
    if sent is None:
        return True
    return sent.encode("latin-1") == compact_json(without_trace(contract).decode("latin-1")).encode()


class _Sink:
    """Passes a response on, with what it says about who answered. `report` gets its error."""

    def __init__(self, sink: ResponseSink, report: Callable[[DevrouteError], None]) -> None:
        self._sink = sink
        self._report = report
        self.on_informational = sink.on_informational
        self.on_data = sink.on_data
        self.on_end = sink.on_end
        self.pause_request = sink.pause_request
        self.resume_request = sink.resume_request

    def on_head(self, head: ResponseHead) -> None:
        if head.by_rule:  # the exchange writes both lines, with what the rule did
            result, reason = header_value(head.raw, _RESULT_LINE), header_value(head.raw, _REASON_LINE)
            if result is not None and reason is not None:
                head.outcome = result.decode("latin-1"), reason.decode("latin-1")
        else:
            head.drop = [span for span in head.drop if _SHOWN.match(head.raw, *span) is None]
        self._sink.on_head(head)

    def on_error(self, error: DevrouteError) -> None:
        self._report(error)
        self._sink.on_error(error)
