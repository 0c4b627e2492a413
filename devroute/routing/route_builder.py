"""Makes the route of a detoured request: the upstream, with the wrappers that contract and offer ask for.

Never judges whether a request may go there (routing/router.py).
"""

from functools import partial

from devroute.contract.grammar import Entry, Signature
from devroute.contract.offer_options import DEFAULT_OPTIONS
from devroute.contract.target import Address
from devroute.routing.decision import LaptopService
from devroute.routing.route import ADDRESS, FAULT, MIRROR, SHADOW, TUNNEL, Route
from devroute.routing.shadow.traffic import ShadowTraffic
from devroute.upstream.address_pool import MAX_IN_FLIGHT
from devroute.upstream.failover import FailoverUpstream
from devroute.upstream.faults import AbortUpstream, Delayed, DelayUpstream, TimeoutUpstream, too_long
from devroute.upstream.interface import Reservable, Upstream
from devroute.upstream.mirror import MirrorBudget, MirrorUpstream
from devroute.upstream.pools import Pools
from devroute.upstream.quota import QuotaUpstream


class RouteBuilder:
    """`mesh` leads to the services themselves, by the name that a request is sent to. `cacheable`: caches may
    keep the responses of laptops."""

    def __init__(
        self, pools: Pools, mesh: Upstream | None, shadow: ShadowTraffic, *, cacheable: bool = False
    ) -> None:
        self._no_store = not cacheable
        self._pools = pools
        self._mesh = mesh
        self._shadow = shadow
        self._copies = MirrorBudget()
        self._delayed = Delayed(MAX_IN_FLIGHT)

    def static(self, entry: Entry, signature: Signature | None) -> Route:
        """The route of an entry that needs no laptop: it names an address, or asks for an abort."""
        if entry.abort_status is None:
            assert isinstance(entry.target, Address)
            return self.route(entry, entry.target, signature)
        abort: Upstream = AbortUpstream(entry.abort_status, entry.key)
        if entry.delay_s is not None:
            abort = DelayUpstream(abort, entry.delay_s, self._delayed)
        reason = f"responded with {entry.abort_status}, as the contract asks"
        return self._route(abort, entry, signature, "error", reason, FAULT)

    def route(
        self,
        entry: Entry,
        destination: Address | Upstream,
        signature: Signature | None,
        laptop: LaptopService | None = None,
        *,
        contract: bool = True,
    ) -> Route:
        """The route to `destination`, which `laptop` has registered, if it is one. Without a `contract` it is
        for shadow traffic."""
        target = str(entry.target)
        options = DEFAULT_OPTIONS if laptop is None else laptop.options
        upstream: Upstream
        if isinstance(destination, Address):
            who = target if target == str(destination) else f"{target} ({destination})"
            upstream = pool = self._pools.get(entry.service, destination)
            if laptop is not None and laptop.quota is not None:
                upstream = QuotaUpstream(pool, laptop.quota)
        else:  # at another replica, perhaps, which has the address of the laptop's own
            address = None if laptop is None else laptop.address
            who = f"{target} (tunnel)" if address is None else f"{target} ({address})"
            upstream = destination
        counting = upstream if isinstance(upstream, Reservable) else self._delayed
        if entry.mirror or options.shadow is not None:
            watch = None if options.shadow is None else self._shadow.watch(target, entry.key)
            service = "" if contract else entry.service
            upstream = MirrorUpstream(upstream, self._copies, entry.timeout_s, watch, service)
            reason = f"{entry.key} copied to {who}"
            code = MIRROR if options.shadow is None else SHADOW
            return self._route(upstream, entry, signature, "mirror", reason, code, laptop)
        reason = f"{entry.key} answered by {who}"
        code = TUNNEL if laptop is not None and laptop.address is None else ADDRESS
        if options.except_status and self._mesh is not None:
            upstream = FailoverUpstream(upstream, self._mesh, options, entry.key, target, reason)
        if entry.delay_s is not None:
            upstream = DelayUpstream(upstream, entry.delay_s, counting)
        if entry.timeout_s is not None:  # it includes the delay
            upstream = TimeoutUpstream(upstream, entry.timeout_s, partial(too_long, target, entry.timeout_s))
        return self._route(upstream, entry, signature, "laptop", reason, code, laptop)

    def _route(
        self,
        upstream: Upstream,
        entry: Entry,
        signature: Signature | None,
        result: str,
        reason: str,
        reason_code: str,
        laptop: LaptopService | None = None,
    ) -> Route:
        return Route(
            upstream,
            entry.key,
            str(entry.target),
            result,
            reason,
            None if signature is None else signature.subject,
            reason_code=reason_code,
            laptop="" if laptop is None else str(entry.target),
            no_store=self._no_store,
            replica=laptop.owner if laptop is not None and laptop.remote else None,
        )
