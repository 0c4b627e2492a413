"""The route of a request that is detoured: the upstream that its entry leads to, what the contract and the
laptop's terms put around that, and what all its requests have in common in answers and logs. Never judges
whether a request may go there (routing/router.py).
"""

import json

from devroute.contract.grammar import Entry, Signature
from devroute.contract.offer_options import DEFAULT_OPTIONS
from devroute.contract.target import Address
from devroute.http.message import result_lines
from devroute.proxy.telemetry.audit_events import decision
from devroute.routing.decision import LaptopService
from devroute.routing.route import Route
from devroute.routing.shadow.traffic import ShadowTraffic
from devroute.upstream.failover import FailoverUpstream
from devroute.upstream.faults import AbortUpstream, DelayUpstream, TimeoutUpstream
from devroute.upstream.interface import Upstream
from devroute.upstream.mirror import MirrorBudget, MirrorUpstream, Watch
from devroute.upstream.pools import Pools
from devroute.upstream.quota import QuotaUpstream


class RouteBuilder:
    """Makes routes. `mesh` leads to the real services, by the name that a request is sent to."""

    def __init__(self, pools: Pools, mesh: Upstream | None, shadow: ShadowTraffic) -> None:
        self._pools = pools
        self._mesh = mesh
        self._shadow = shadow
        self._copies = MirrorBudget()

    def static(self, entry: Entry, signature: Signature | None) -> Route:
        """Where the contract alone says what happens: an address, or an answer of our own."""
        if entry.abort_status is None:
            assert isinstance(entry.target, Address)
            return self.route(entry, entry.target, signature)
        abort: Upstream = AbortUpstream(entry.abort_status, entry.key)
        if entry.delay_s is not None:
            abort = DelayUpstream(abort, entry.delay_s)
        reason = f"answered {entry.abort_status} as the contract asks"
        return _marked(entry, signature, abort, None, "error", reason)

    def route(
        self,
        entry: Entry,
        way: Address | Upstream,
        signature: Signature | None,
        served: LaptopService | None = None,
        *,
        contract: bool = True,
    ) -> Route:
        """Along `way`; for a laptop that is what it is `served` by. Without a `contract`: of the copies of
        ordinary traffic."""
        target = str(entry.target)
        options = DEFAULT_OPTIONS if served is None else served.options
        copied = entry.mirror or options.shadow is not None
        quota = None if served is None else served.quota
        watch = None if options.shadow is None else self._shadow.watch(target, entry.key)
        http2: Upstream | None = None
        if isinstance(way, Address):
            who = target if target == str(way) else f"{target} ({way})"
            pool2, pool = self._pools.get_http2(entry.service, way), self._pools.get(entry.service, way)
            http2, way = pool2, pool
            if quota is not None:
                http2, way = QuotaUpstream(pool2, quota), QuotaUpstream(pool, quota)
        else:
            who = f"{target} (tunnel)"
        if copied:
            result, reason = "mirror", f"{entry.key} copied to {who}"
        else:
            result, reason = "laptop", f"{entry.key} answered by {who}"
            if options.except_status and self._mesh is not None:
                way = FailoverUpstream(way, self._mesh, options, entry.key, target, reason)
        return _marked(
            entry,
            signature,
            self._copying(entry, way, watch, contract) if copied else self._as_asked(entry, way),
            None
            if http2 is None
            else self._copying(entry, http2, watch, contract)
            if copied
            else self._as_asked(entry, http2),
            result,
            reason,
        )

    def _as_asked(self, entry: Entry, upstream: Upstream) -> Upstream:
        """The upstream with the entry's options around it; the timeout counts the delay in."""
        if entry.delay_s is not None:
            upstream = DelayUpstream(upstream, entry.delay_s)
        if entry.timeout_s is not None:
            upstream = TimeoutUpstream(upstream, entry.timeout_s, str(entry.target))
        return upstream

    def _copying(self, entry: Entry, upstream: Upstream, watch: Watch | None, contract: bool) -> Upstream:
        service = "" if contract else entry.service
        return MirrorUpstream(upstream, self._copies, entry.timeout_s, watch, service)


def _marked(
    entry: Entry,
    signature: Signature | None,
    way: Upstream,
    http2: Upstream | None,
    result: str,
    reason: str,
) -> Route:
    target = str(entry.target)
    marks = result_lines(result, reason)
    label = f'"service": {json.dumps(entry.key)}, "target": {json.dumps(target)}'.encode()
    signer = signature.subject if signature is not None else None
    return Route(
        way, entry.key, target, marks, label, http2, decision(entry.key, target, signer, result, reason)
    )
