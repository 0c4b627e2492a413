"""The path of traced requests (`devroute trace`), as sidecars and this proxy report it. Pure.

Owns the reports and bounds them, since every workload in the mesh can send some.
"""

import json
import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Final

from devroute import headers as names

#: Traces that are kept, and bytes of all their reports; `devroute trace` reads its own within seconds.
MAX_TRACES: Final = 256
MAX_BYTES: Final = 16 * 1024 * 1024
#: Bytes of a reported contract, the most that a sidecar accepts; a longer one is cut off.
MAX_CONTRACT: Final = 8192
#: Bytes that a report, and each of its names, costs besides the texts.
_HOP_BYTES: Final = 512
_NAME_BYTES: Final = 64
#: Hops and responses of one trace: a chain of services, or a fan of retries.
MAX_HOPS: Final = 128
#: Characters of one reported value.
MAX_TEXT: Final = 256
#: Names of one service that are kept, the most trusted first.
MAX_NAMES: Final = 8
#: Services whose sidecars have asked this proxy; a cluster has some thousands.
MAX_SERVICES: Final = 4096
#: Seconds that a trace is kept.
KEPT_SECONDS: Final = 600.0

#: What replicas send beside hops, since those of the release before know hops without.
_BESIDE: Final = ("carriers", "client")

#: The results, as sidecars report them, of requests that went to the proxy.
RELAYED: Final = ("laptop", "mirror")

_ID: Final = re.compile(r"[0-9a-f]{32}")


def is_trace_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def split_names(text: str) -> list[str]:
    """The names of a service as its sidecar sends them, the most trusted first."""
    return text.replace(",", " ").split()


@dataclass(frozen=True, slots=True)
class Hop:
    """One service that received a traced request; `contract` is what it had of one, without the trace's id.
    `at_ms` counts from the trace's first report. `took_ms`, `status` and `target` are set where the proxy
    relayed the response. `names` are all of the service's, `service` among them; `by_traceparent`: neither
    the contract nor a header of devroute had the trace's id. `stands_for`: what a named contract is, for
    clients; replicas leave it out. `carriers`: the headers that the contract came by, none if the sidecar is
    an older one; `client`: the request's `user-agent`, so the program that sent it."""

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
    names: tuple[str, ...] = ()
    by_traceparent: bool = False
    stands_for: str = ""
    carriers: tuple[str, ...] = ()
    client: str = ""


def _joined(hop: Hop, response: Hop) -> Hop:
    return replace(
        hop,
        took_ms=response.took_ms,
        status=response.status,
        target=response.target,
        result=hop.result if response.result in RELAYED else response.result,
        reason=response.reason or hop.reason,
    )


@dataclass(frozen=True, slots=True)
class Reports:
    """What one proxy knows of a trace, whose first report it has had `age` seconds ago, and the services
    whose sidecars it knows. Replicas' clocks differ; ages do not."""

    age: float = 0.0
    hops: tuple[Hop, ...] = ()
    responses: tuple[Hop, ...] = ()
    services: tuple[str, ...] = ()

    def since(self, age: float, hops: Iterable[Hop]) -> list[Hop]:
        """The hops with times that count from `age` seconds ago."""
        late = (age - self.age) * 1000
        return [replace(hop, at_ms=round(hop.at_ms + late, 1)) if late else hop for hop in hops]

    def encode(self) -> bytes:
        document = asdict(self)
        for hop in (*document["hops"], *document["responses"]):
            for name in ("stands_for", *_BESIDE):
                del hop[name]  # a replica of the release before would not understand the report
        document["beside"] = [{name: getattr(hop, name) for name in _BESIDE} for hop in self.hops]
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, body: bytes) -> "Reports":
        """From another replica. Raises ValueError, KeyError or TypeError."""
        found = json.loads(body)
        hops, responses = (
            tuple(Hop(**{**each, "names": tuple(each["names"])}) for each in found[key])
            for key in ("hops", "responses")
        )
        beside = found.get("beside") or [{}] * len(hops)
        hops = tuple(
            replace(
                hop, carriers=tuple(map(str, more.get("carriers", ()))), client=str(more.get("client", ""))
            )
            for hop, more in zip(hops, beside, strict=True)
        )
        return cls(float(found["age"]), hops, responses, tuple(map(str, found["services"])))


@dataclass(slots=True)
class _Trace:
    """`responses` are what the proxy relayed for a service, or failed to, each with the reason for a
    failure. `began`, in seconds, is when it was announced, then when the first report came."""

    began: float
    hops: list[Hop]
    responses: list[Hop]
    size: int = 0


class Traces:
    """The traces of the last minutes, by id."""

    def __init__(self) -> None:
        self._traces: OrderedDict[str, _Trace] = OrderedDict()
        self.size = 0  # in bytes

    def announce(self, trace_id: str, now: float) -> None:
        """A client waits for this trace: only of such are reports on requests without a contract kept, since
        any caller may send a traceparent."""
        self._open(trace_id, now)

    def add_hop(self, headers: Mapping[str, str], now: float) -> None:
        """A sidecar's report of a traced request, by the headers of POST /trace in lower case."""

        def text(name: str) -> str:
            return headers.get(name, "")[:MAX_TEXT]

        trace_id, contract = text(names.TRACE), headers.get(names.CONTRACT, "")[:MAX_CONTRACT]
        by_traceparent = text(names.TRACE_SOURCE) == names.TRACEPARENT
        if by_traceparent and not contract and trace_id not in self._traces:
            return
        trace = self._open(trace_id, now)
        if trace is None:
            return
        candidates = tuple(split_names(text(names.CANDIDATES))[:MAX_NAMES])
        service = text(names.MATCHED) or next(iter(candidates), "")
        self._add(
            trace,
            trace.hops,
            Hop(
                service=service,
                namespace=text(names.NAMESPACE),
                result=text(names.RESULT),
                reason=text(names.REASON),
                request_id=text("x-request-id"),
                contract=contract,
                at_ms=round((now - trace.began) * 1000, 1),
                names=candidates,
                by_traceparent=by_traceparent,
                carriers=tuple(split_names(text(names.ARRIVED))),
                client=text("user-agent"),
            ),
        )

    def add_response(
        self,
        trace_id: str,
        service: str,
        target: str,
        status: int,
        result: str,
        error: str,
        took: float,
        now: float,
    ) -> None:
        """The proxy has relayed a traced request, or failed to; `took` is seconds. `result` is that of the
        response: after a failover it is the service's."""
        trace = self._open(trace_id, now - took)
        if trace is None:
            return
        at_ms, took_ms = round((now - took - trace.began) * 1000, 1), round(took * 1000, 1)
        reason = error[:MAX_TEXT]
        hop = Hop(service[:MAX_TEXT], "", result, reason, "", "", at_ms, took_ms, status, target[:MAX_TEXT])
        self._add(trace, trace.responses, hop)

    def reports(self, trace_id: str, now: float) -> Reports:
        """What is known of a trace."""
        trace = self._traces.get(trace_id)
        if trace is None or not (trace.hops or trace.responses):
            return Reports()
        return Reports(now - trace.began, tuple(trace.hops), tuple(trace.responses))

    def hops(self, trace_id: str, now: float = 0.0, others: Iterable[Reports] = ()) -> list[Hop]:
        """In the order in which they received the request; empty for an unknown trace. `others`: the reports
        that reached other replicas.

        Sidecars and the proxy report independently, so either may come first; a response without its hop
        counts as a hop.
        """
        known = [*others, self.reports(trace_id, now)]
        began = max(each.age for each in known)
        responses = [hop for each in known for hop in each.since(began, each.responses)]
        reported = [hop for each in known for hop in each.since(began, each.hops)]
        if len(known) > 1:
            responses.sort(key=lambda hop: hop.at_ms)
            reported.sort(key=lambda hop: hop.at_ms)
        hops = []
        for hop in reported:
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
            if not is_trace_id(trace_id):
                return None
            self._make_room(now)
            trace = self._traces[trace_id] = _Trace(now, [], [])
        elif not trace.hops and not trace.responses:
            trace.began = now
        return trace if len(trace.hops) + len(trace.responses) < MAX_HOPS else None

    def _add(self, trace: _Trace, reports: list[Hop], hop: Hop) -> None:
        reports.append(hop)
        texts = (hop.service, hop.namespace, hop.result, hop.reason, hop.request_id, hop.contract)
        size = _HOP_BYTES + sum(map(len, texts)) + len(hop.target or "")
        size += sum(len(name) + _NAME_BYTES for name in (*hop.names, *hop.carriers, hop.client))
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


class KnownServices:
    """The names of services whose sidecars have asked this proxy since it started: they have a filter."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def add(self, candidates: Sequence[str]) -> None:
        """The names of one service."""
        for name in candidates[:MAX_NAMES]:
            if name not in self._names and len(name) <= MAX_TEXT:
                if len(self._names) >= MAX_SERVICES:
                    del self._names[next(iter(self._names))]
                self._names[name] = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)
