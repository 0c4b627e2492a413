"""The path of traced requests (`devroute trace`), as sidecars and this proxy report it. Pure.

Owns the reports and bounds them, since every workload in the mesh can send some.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from devroute import headers as names
from devroute.contract.grammar import WIDEST_LIMITS, parse
from devroute.errors import ContractInvalid

#: Traces that are kept, and bytes of all their reports; `devroute trace` reads its own within seconds.
MAX_TRACES: Final = 256
MAX_BYTES: Final = 16 * 1024 * 1024
#: Bytes of a reported contract, the most that a sidecar accepts; a longer one is cut off.
MAX_CONTRACT: Final = 8192
#: Bytes that a report costs besides its texts.
_HOP_BYTES: Final = 512
#: Hops and responses of one trace: a chain of services, or a fan of retries.
MAX_HOPS: Final = 128
#: Characters of one reported value.
MAX_TEXT: Final = 256
#: Seconds that a trace is kept.
KEPT_SECONDS: Final = 600.0

#: The results, as sidecars report them, of requests that went to the proxy.
RELAYED: Final = ("laptop", "mirror")

_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Hop:
    """One service that received the contract; `contract` is the header as it arrived. `at_ms` counts from the
    trace's first report. `took_ms`, `status` and `target` are set where the proxy relayed the response."""

    service: str
    namespace: str
    result: str
    reason: str
    request_id: str
    contract: str
    at_ms: float
    took_ms: float | None = None
    status: int | None = None
    target: str | None = None


def _joined(hop: Hop, response: Hop) -> Hop:
    return replace(
        hop,
        took_ms=response.took_ms,
        status=response.status,
        target=response.target,
        result="error" if response.reason else hop.result,
        reason=response.reason or hop.reason,
    )


@dataclass(slots=True)
class _Trace:
    """`responses` are what the proxy relayed for a service, or failed to, each with the reason for a
    failure."""

    began: float
    hops: list[Hop]
    responses: list[Hop]
    size: int = 0


class Traces:
    """The traces of the last minutes, by id."""

    def __init__(self) -> None:
        self._traces: OrderedDict[str, _Trace] = OrderedDict()
        self.size = 0  # in bytes

    def add_hop(self, headers: Mapping[str, str], now: float) -> None:
        """A sidecar's report of a request with a contract, by the headers of POST /trace in lower case."""

        def text(name: str) -> str:
            return headers.get(name, "")[:MAX_TEXT]

        trace = self._open(text(names.TRACE), now)
        if trace is None:
            return
        self._add(
            trace,
            trace.hops,
            Hop(
                service=text(names.MATCHED) or text(names.CANDIDATES).partition(",")[0],
                namespace=text(names.NAMESPACE),
                result=text(names.RESULT),
                reason=text(names.REASON),
                request_id=text("x-request-id"),
                contract=headers.get(names.CONTRACT, "")[:MAX_CONTRACT],
                at_ms=round((now - trace.began) * 1000, 1),
            ),
        )

    def add_response(
        self, trace_id: str, service: str, target: str, status: int, error: str, took: float, now: float
    ) -> None:
        """The proxy has relayed a traced request, or failed to; `took` is seconds."""
        trace = self._open(trace_id, now - took)
        if trace is None:
            return
        at_ms, took_ms = round((now - took - trace.began) * 1000, 1), round(took * 1000, 1)
        result, reason = "error" if error else "laptop", error[:MAX_TEXT]
        hop = Hop(service[:MAX_TEXT], "", result, reason, "", "", at_ms, took_ms, status, target[:MAX_TEXT])
        self._add(trace, trace.responses, hop)

    def hops(self, trace_id: str) -> list[Hop]:
        """In the order in which they received the request; empty for an unknown trace.

        Sidecars and the proxy report independently, so either may come first; a response without its hop
        counts as a hop.
        """
        trace = self._traces.get(trace_id)
        if trace is None:
            return []
        responses = list(trace.responses)
        hops = []
        for hop in trace.hops:
            found = next((each for each in responses if each.service == hop.service), None)
            if found is not None and hop.result in RELAYED:
                responses.remove(found)
                hops.append(_joined(hop, found))
            else:
                hops.append(hop)
        return sorted([*hops, *responses], key=lambda hop: hop.at_ms)

    def _open(self, trace_id: str, now: float) -> _Trace | None:
        """None where no more is kept: the id is malformed, or the trace is full."""
        trace = self._traces.get(trace_id)
        if trace is None:
            if _ID.fullmatch(trace_id) is None:
                return None
            self._make_room(now)
            trace = self._traces[trace_id] = _Trace(now, [], [])
        return trace if len(trace.hops) + len(trace.responses) < MAX_HOPS else None

    def _add(self, trace: _Trace, reports: list[Hop], hop: Hop) -> None:
        reports.append(hop)
        size = _HOP_BYTES + len(hop.contract) + len(hop.reason) + len(hop.service) + len(hop.request_id)
        trace.size += size
        self.size += size
        while self.size > MAX_BYTES and len(self._traces) > 1:
            self._drop(next(key for key, other in self._traces.items() if other is not trace))

    def _make_room(self, now: float) -> None:
        while self._traces:
            oldest = next(iter(self._traces.values()))
            if len(self._traces) < MAX_TRACES and now - oldest.began < KEPT_SECONDS:
                return
            self._drop(next(iter(self._traces)))

    def _drop(self, trace_id: str) -> None:
        self.size -= self._traces.pop(trace_id).size


# --- text output --------------------------------------------------------------------------------------------


def unreached_services(hops: Iterable[Hop]) -> list[str]:
    """The services that the contract names and that never received it, as it names them."""
    received = list(hops)
    named: dict[str, str] = {}
    for hop in received:
        try:
            entries = parse(hop.contract, WIDEST_LIMITS).entries.values() if hop.contract else ()
        except ContractInvalid:
            continue
        named.update({entry.key: entry.service for entry in entries})
    reached = {hop.service.partition(".")[0] for hop in received}
    return [key for key, service in named.items() if service not in reached]


def describe(trace_id: str, hops: list[Hop], total_ms: float) -> list[str]:
    """A trace in lines: when each hop received the request, what became of it, and where the contract was
    lost."""
    lines = [f"trace {trace_id}: {len(hops)} {'hop' if len(hops) == 1 else 'hops'}, {total_ms:.0f} ms"]
    if not hops:
        lines.append("no sidecar saw a contract: is the X-devroute header set, and the filter installed?")
        return lines
    width = max(len(hop.service) for hop in hops)
    for hop in hops:
        what = hop.reason
        if hop.took_ms is not None:
            answered = f"{hop.target} answered {hop.status} after {hop.took_ms:.0f} ms"
            what = f"{answered}: {what}" if what else answered
        lines.append(f"{hop.at_ms:+7.0f} ms  {hop.service:<{width}}  {hop.result:<8}  {what}".rstrip())
    if lost := unreached_services(hops):
        last = hops[-1].service
        lines.append(
            f"the contract was lost at '{last}': it also names {', '.join(lost)}, which never received it."
            f" Does {last} call other services, and forward baggage or every header that begins with"
            f" {names.PREFIX}?"
        )
    return lines
