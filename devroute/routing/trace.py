"""Where a traced request went: what sidecars and the proxy itself tell of it (`devroute trace`). Pure; `now`
is passed in. Owns what is kept, and bounds it: anybody in the mesh may tell.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from devroute.contract.grammar import WIDEST, parse
from devroute.errors import ContractInvalid

#: Marks a request whose hops are to be told of, by the trace's id; in baggage the member devroute-trace.
HEADER: Final = "x-devroute-trace"
#: Traces that are kept; a person looks at theirs within seconds.
MAX_TRACES: Final = 256
#: Hops and answers of one trace: a chain, or a fan of retries.
MAX_HOPS: Final = 128
#: Bytes of one text that is told.
MAX_TEXT: Final = 256
#: Seconds after which nobody will ask any more.
KEPT_SECONDS: Final = 600.0

#: The results of requests that the proxy answers, as sidecars tell of them.
RELAYED: Final = ("laptop", "mirror")

_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Hop:
    """One service that saw the contract. `at_ms`: after the trace's first sign; `took_ms`, `status` and
    `target` of what the proxy relayed, else None. `contract` is what arrived there."""

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


@dataclass(frozen=True, slots=True)
class RelayedResponse:
    """What the proxy relayed for a service, or why it could not (`error`, else empty). `began_ms` is after
    the trace's first sign."""

    service: str
    target: str
    status: int
    error: str
    began_ms: float
    took_ms: float


def _joined(hop: Hop, answer: RelayedResponse) -> Hop:
    return replace(
        hop,
        took_ms=answer.took_ms,
        status=answer.status,
        target=answer.target,
        result="error" if answer.error else hop.result,
        reason=answer.error or hop.reason,
    )


@dataclass(slots=True)
class _Trail:
    began: float
    hops: list[Hop]
    answers: list[RelayedResponse]


class Traces:
    """The traces of the last minutes, by id."""

    def __init__(self) -> None:
        self._trails: OrderedDict[str, _Trail] = OrderedDict()

    def seen(self, headers: Mapping[str, str], now: float) -> None:
        """A sidecar tells of a request with a contract, by the headers of its message."""

        def text(name: str) -> str:
            return headers.get(name, "")[:MAX_TEXT]

        trail = self._trail(text(HEADER), now)
        if trail is not None:
            service = text("x-devroute-matched") or text("x-devroute-candidates").partition(",")[0]
            trail.hops.append(
                Hop(
                    service=service,
                    namespace=text("x-devroute-namespace"),
                    result=text("x-devroute-result"),
                    reason=text("x-devroute-reason"),
                    request_id=text("x-request-id"),
                    contract=headers.get("x-devroute", ""),
                    at_ms=round((now - trail.began) * 1000, 1),
                )
            )

    def answered(
        self, trace: str, service: str, target: str, status: int, error: str, took: float, now: float
    ) -> None:
        """The proxy has relayed a traced request, or failed to; `took` is seconds."""
        trail = self._trail(trace, now - took)
        if trail is not None:
            began_ms = round((now - took - trail.began) * 1000, 1)
            took_ms = round(took * 1000, 1)
            trail.answers.append(
                RelayedResponse(service, target, status, error[:MAX_TEXT], began_ms, took_ms)
            )

    def hops(self, trace: str) -> list[Hop]:
        """In the order in which they saw the request; empty for a trace nobody has told of.

        Sidecars and the proxy tell by different ways, so either may come first; an answer without its hop is
        one all the same.
        """
        trail = self._trails.get(trace)
        if trail is None:
            return []
        answers = list(trail.answers)
        hops = []
        for hop in trail.hops:
            found = next((each for each in answers if each.service == hop.service), None)
            if found is not None and hop.result in RELAYED:
                answers.remove(found)
                hops.append(_joined(hop, found))
            else:
                hops.append(hop)
        hops += [
            _joined(Hop(each.service, "", "laptop", "", "", "", each.began_ms), each) for each in answers
        ]
        return sorted(hops, key=lambda hop: hop.at_ms)

    def _trail(self, trace: str, now: float) -> _Trail | None:
        """None where no more is kept of it."""
        trail = self._trails.get(trace)
        if trail is None:
            if _ID.fullmatch(trace) is None:
                return None
            self._forget(now)
            trail = self._trails[trace] = _Trail(now, [], [])
        return trail if len(trail.hops) + len(trail.answers) < MAX_HOPS else None

    def _forget(self, now: float) -> None:
        while self._trails:
            oldest = next(iter(self._trails.values()))
            if len(self._trails) < MAX_TRACES and now - oldest.began < KEPT_SECONDS:
                return
            self._trails.popitem(last=False)


# --- for people ---------------------------------------------------------------------------------------------


def unreached_services(hops: Iterable[Hop]) -> list[str]:
    """The services that the contract names and that have not seen it, as it names them."""
    known = list(hops)
    named: dict[str, str] = {}
    for hop in known:
        try:
            entries = parse(hop.contract, WIDEST).entries.values() if hop.contract else ()
        except ContractInvalid:
            continue
        named.update({entry.key: entry.service for entry in entries})
    there = {hop.service.partition(".")[0] for hop in known}
    return [key for key, service in named.items() if service not in there]


def describe(trace: str, hops: list[Hop], total_ms: float) -> list[str]:
    """A trace in lines: who answered each hop, when it saw the request, and where the contract was lost."""
    lines = [f"trace {trace}: {len(hops)} {'hop' if len(hops) == 1 else 'hops'}, {total_ms:.0f} ms"]
    if not hops:
        lines.append("no sidecar saw a contract: is there an X-devroute header, and the filter in the mesh?")
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
            f"the contract was lost at '{last}': it names {', '.join(lost)} too, where it has not arrived."
            f" Does {last} call on, and pass on baggage or all headers that begin with x-devroute?"
        )
    return lines
