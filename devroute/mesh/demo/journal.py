"""Requests that entered the demo's mesh, with each service that they were sent to, and who answered. Pure.

Owns their records and bounds them. The entry and the demo's apps report; times are seconds since the epoch.
"""

import re
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final

from devroute.contract.trace_id import split_trace
from devroute.headers import CONTRACT

#: Requests that are kept, and hops of one.
MAX_REQUESTS: Final = 50
MAX_HOPS: Final = 16
#: Characters of one value.
MAX_TEXT: Final = 400

#: W3C Trace Context: the version, the trace's id, the parent's and flags.
_TRACEPARENT: Final = re.compile(r"00-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


@dataclass(slots=True)
class Hop:
    """A service that the request was sent to. `app`: the app of the demo that received it, "" for one that is
    not the demo's; `result` and `reason` as in the response's headers, which only its caller sees. `status`
    and `ended` are None until there is a response; `ended` is set without a status where there was none."""

    service: str
    began: float
    app: str = ""
    result: str = ""
    reason: str = ""
    status: int | None = None
    ended: float | None = None


@dataclass(slots=True)
class Entered:
    """A request; `contract` is the header as it came, "" without one."""

    method: str
    path: str
    contract: str
    began: float
    hops: list[Hop] = field(default_factory=list)


class Journal:
    """The newest requests. `version` grows with each change. Reports of unknown traces are ignored."""

    def __init__(self) -> None:
        self.version = 0
        self._entered: deque[tuple[str, Entered]] = deque()
        self._by_trace: dict[str, Entered] = {}

    def enter(self, trace: str, method: str, path: str, contract: str, now: float) -> None:
        """A request from outside. A trace may have several: what is reported counts for the newest."""
        contract = split_trace(contract)[0][:MAX_TEXT]
        entered = Entered(method[:MAX_TEXT], path[:MAX_TEXT], contract, now)
        if len(self._entered) == MAX_REQUESTS:
            oldest, dropped = self._entered.popleft()
            if self._by_trace[oldest] is dropped:
                del self._by_trace[oldest]
        self._entered.append((trace, entered))
        self._by_trace[trace] = entered
        self.version += 1

    def send(self, trace: str, service: str, now: float) -> Hop:
        """The request is sent to a service by its caller, who passes the hop to `answer`."""
        hop = Hop(service[:MAX_TEXT], now)
        self._add(trace, hop)
        return hop

    def receive(self, trace: str, service: str, app: str, now: float) -> None:
        """An app of the demo has received the request; perhaps from an app that reports nothing."""
        entered = self._by_trace.get(trace)
        hops = [] if entered is None else entered.hops
        waiting = next(
            (hop for hop in hops if hop.service == service and not hop.app and hop.ended is None), None
        )
        if waiting is None:
            self._add(trace, Hop(service, now, app, ended=now))
        else:
            waiting.app = app
            self.version += 1

    def answer(self, hop: Hop, status: int | None, result: str, reason: str, now: float) -> None:
        """Its caller has the response's head; no status if there was no response."""
        hop.status, hop.ended = status, now
        hop.result, hop.reason = result[:MAX_TEXT], reason[:MAX_TEXT]
        self.version += 1

    def as_json(self) -> list[dict[str, object]]:
        """The newest first."""
        return [asdict(entered) for _, entered in reversed(self._entered)]

    def _add(self, trace: str, hop: Hop) -> None:
        entered = self._by_trace.get(trace)
        if entered is not None and len(entered.hops) < MAX_HOPS:
            entered.hops.append(hop)
            self.version += 1


def trace_of(headers: Mapping[str, str]) -> str:
    """The trace's id in a request's headers, "" without one. The one in the contract counts first: an app
    that passes the contract on may begin a trace of its own."""
    in_contract = split_trace(headers.get(CONTRACT, ""))[1]
    if in_contract is not None:
        return in_contract
    found = _TRACEPARENT.fullmatch(headers.get("traceparent", ""))
    return "" if found is None else found[1]
