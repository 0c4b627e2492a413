"""Decides which route a detoured request gets: parses the contract, applies policy, looks the laptop up.

Never trusts the sidecar's decision: repeats all of it but a contract's `from` and the random share of
`percent`, which cannot be seen from here. Deciding costs more than relaying, so decisions are cached by the
contract's raw bytes until policy changes; whether a laptop is online is looked up for every request.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from devroute.bounded_cache import BoundedCache
from devroute.contract.grammar import Contract, Entry, Signature, parse
from devroute.contract.path import is_under, read_prefix
from devroute.contract.target import Address, Version
from devroute.contract.trace_id import without_trace
from devroute.contract.validity import check_time
from devroute.errors import (
    ConditionUnmet,
    ContractInvalid,
    ContractMissing,
    DevrouteError,
    LaptopOffline,
    LoopDetected,
    MarkerMissing,
    PathNotOffered,
    RequestMalformed,
    ServiceNotInContract,
)
from devroute.http.message import InboundRequest, header_value
from devroute.policy.policy import Policy, permit_contract
from devroute.routing.decision import Directory, LaptopService, destination_of, permit_entry
from devroute.routing.route import CALLER, Route
from devroute.routing.route_builder import RouteBuilder
from devroute.routing.shadow.assignment import permit_shadow_traffic, ticket_of
from devroute.routing.shadow.traffic import ShadowTraffic
from devroute.upstream.interface import Upstream
from devroute.upstream.pools import Pools

#: Bytes of the decisions in the cache: some 10,000; far fewer people work at the same time.
MAX_REMEMBERED_BYTES: Final = 16 * 1024 * 1024
#: Bytes that a decision costs for each byte of its contract, which it has as objects.
DECISION_COST: Final = 4

#: Permitted callers in one decision; a mesh has a few hundred identities.
MAX_CALLERS: Final = 256
#: Bytes of an identity that is remembered; one has some 60.
MAX_CALLER: Final = 256


@dataclass(slots=True)
class _CachedDecision:
    """An entry that policy permits, and the last route to it."""

    entry: Entry
    target: str = field(init=False)  # the entry's, in words
    conditional: bool = False  # the entry is not for every request
    prefix: tuple[bytes, ...] = ()  # of the paths that the entry is for, if it has one
    static: bool = False  # the route needs no laptop
    callers: set[bytes] | None = None  # those that policy has permitted; None if it permits all
    signature: Signature | None = None
    laptop: LaptopService | None = None  # that `route`, `paths` and `methods` were made for
    route: Route | None = None
    paths: tuple[bytes, ...] = ()  # the laptop takes only requests under these, if any
    methods: tuple[bytes, ...] = ()  # and only with these, if any

    def __post_init__(self) -> None:
        self.target = str(self.entry.target)


class ContractRouter:
    """Routes requests that a sidecar detoured; implements Router."""

    def __init__(
        self,
        directory: Directory,
        policy: Callable[[], Policy],
        pools: Pools,
        read: Callable[[str], Contract] = parse,
        clock: Callable[[], float] = time.time,
        mesh: Upstream | None = None,
        shadow: ShadowTraffic | None = None,
        *,
        cacheable: bool = False,
    ) -> None:
        """`read` parses contracts; `clock` gives seconds since the epoch; `mesh` leads to the services
        themselves, by the name that a request is sent to; `cacheable`: caches may keep laptops' responses."""
        self._shadow = ShadowTraffic(time.monotonic) if shadow is None else shadow
        self._read = read
        self._clock = clock
        self._directory = directory
        self._policy = policy
        pools.observers.append(self.forget)  # the routes of decisions lead to pools
        self._route_builder = RouteBuilder(pools, mesh, self._shadow, cacheable=cacheable)
        # By contract and service as raw bytes; for shadow traffic by laptop and service, so that a new ticket
        # replaces the older one.
        self.decisions: BoundedCache[tuple[bytes, bytes] | tuple[str, str], _CachedDecision] = BoundedCache(
            MAX_REMEMBERED_BYTES
        )

    def forget(self) -> None:
        """Clear the cache, after a change of policy, of signing keys or of a saved contract, and once pools
        were removed."""
        self.decisions.clear()

    def __call__(self, request: InboundRequest) -> Route:
        """Raises the errors of contract, signature, policy and directory, MarkerMissing, ConditionUnmet, or
        LoopDetected."""
        contract = request.contract
        matched = request.matched
        if len(contract) != 1 or len(matched) != 1:
            return self._shadow_route(request)
        key = (contract[0], matched[0])
        cached = self.decisions.get(key)
        if cached is None:
            key = (without_trace(contract[0]), key[1])
            cached = self.decisions.get(key)
            if cached is None:
                cached = self._judge(*key)
                self._remember(key, cached)
        entry = cached.entry
        if cached.signature is not None:
            check_time(cached.signature, self._clock())
        if cached.conditional:
            _check_conditions(cached, request)
        if cached.callers is not None:
            self._check_caller(entry, cached.callers, request.raw)
        via = request.via
        if via is not None and via != key[1]:
            _check_loop(via, key[1])
        if cached.static:
            if cached.route is None:
                cached.route = self._route_builder.static(entry, cached.signature)
            return cached.route
        try:
            laptop = self._directory.lookup(cached.target, entry.key)
        except LaptopOffline:
            self._shadow.refused(request)
            raise
        if cached.route is None or cached.laptop is not laptop:
            self._build(cached, laptop, contract=True)
        return _route_if_offered(cached, laptop, request)

    def _shadow_route(self, request: InboundRequest) -> Route:
        """For shadow traffic, which has a ticket instead of a contract. Raises what policy has against it,
        LaptopOffline, and for all other requests what is wrong with their headers."""
        ticket = None if request.contract else ticket_of(request.raw)
        if ticket is None:
            raise _header_count_error(request)
        try:
            return self._route_of_ticket(ticket, request)
        except DevrouteError:
            self._shadow.refused(request)
            raise

    def _route_of_ticket(self, ticket: str, request: InboundRequest) -> Route:
        """Raises what policy has against it, LaptopOffline, PathNotOffered or ConditionUnmet."""
        target = self._shadow.target(ticket)
        key, laptop = (target.name, target.service), target.laptop
        cached = self.decisions.get(key)
        if cached is None or cached.laptop is not laptop:
            entry = permit_shadow_traffic(target, self._policy())
            cached = _CachedDecision(entry, callers=self._no_callers_yet(entry))
            self._build(cached, laptop, contract=False)
            self._remember(key, cached)
        if cached.callers is not None:
            self._check_caller(cached.entry, cached.callers, request.raw)
        return _route_if_offered(cached, laptop, request)

    def _remember(self, key: tuple[bytes, bytes] | tuple[str, str], decision: _CachedDecision) -> None:
        self.decisions.put(key, decision, DECISION_COST * (len(key[0]) + len(key[1])))

    def _build(self, cached: _CachedDecision, laptop: LaptopService, *, contract: bool) -> None:
        destination = destination_of(cached.entry, laptop, self._policy())
        cached.route = self._route_builder.route(
            cached.entry, destination, cached.signature, laptop, contract=contract
        )
        cached.laptop = laptop
        options = laptop.options
        cached.paths = _prefixes(options.paths)
        cached.methods = (
            () if options.shadow is None else tuple(each.encode("ascii") for each in options.shadow_methods)
        )

    def _no_callers_yet(self, entry: Entry) -> set[bytes] | None:
        return None if self._policy().callers_of(entry) is None else set()

    def _check_caller(self, entry: Entry, permitted: set[bytes], raw: bytes) -> None:
        """Raises CallerDenied, also if the caller has no identity. A client that reaches this port without a
        sidecar can claim any (docs/policy.md)."""
        caller = header_value(raw, CALLER) or b""
        if caller in permitted:
            return
        self._policy().permit_caller(entry, caller.decode("latin-1"))
        if len(caller) > MAX_CALLER:
            return
        if len(permitted) >= MAX_CALLERS:
            permitted.clear()
        permitted.add(caller)

    def _judge(self, raw: bytes, matched: bytes) -> _CachedDecision:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise ContractInvalid("the contract is not UTF-8") from None
        service = matched.decode("latin-1")
        contract = self._read(text)
        entry = contract.entries.get(service)
        if entry is None:
            names = ", ".join(contract.entries) or "none"
            raise ServiceNotInContract(
                f"the sidecar matched '{service}', but the contract names {names}", service=service
            )
        permit_contract(contract, self._policy(), self._clock())
        permit_entry(entry, self._policy())
        aborts = entry.abort_status is not None
        if isinstance(entry.target, Version) and not aborts:
            raise ConditionUnmet(
                f"service '{entry.key}': {entry.target} is inside the mesh; the sidecar should have sent the"
                " request there",
                service=entry.key,
                target=str(entry.target),
            )
        return _CachedDecision(
            entry,
            conditional=bool(entry.methods or entry.path is not None or entry.percent == 0),
            prefix=() if entry.path is None else _prefixes((entry.path,)),
            static=aborts or isinstance(entry.target, Address),
            callers=self._no_callers_yet(entry),
            signature=contract.signature,
        )


def _route_if_offered(cached: _CachedDecision, laptop: LaptopService, request: InboundRequest) -> Route:
    """Raises PathNotOffered or ConditionUnmet."""
    entry = cached.entry
    if cached.paths and not is_under(request.target, cached.paths):
        offered = " ".join(laptop.options.paths)
        raise PathNotOffered(
            f"laptop '{entry.target}' takes requests for '{entry.service}' under {offered} only; the sidecar"
            " should have left this one to the service",
            service=entry.key,
            target=str(entry.target),
        )
    if cached.methods and request.method not in cached.methods:
        methods = ", ".join(laptop.options.shadow_methods)
        raise ConditionUnmet(
            f"laptop '{entry.target}' takes shadow traffic of {methods} only; the"
            " sidecar should have left this request to the service",
            service=entry.key,
            target=str(entry.target),
        )
    assert cached.route is not None
    return cached.route


def _prefixes(paths: tuple[str, ...]) -> tuple[bytes, ...]:
    """Path prefixes as requests' paths are compared with them."""
    return tuple(read_prefix(path) for path in paths)


def _check_conditions(cached: _CachedDecision, request: InboundRequest) -> None:
    """Raises ConditionUnmet. An upgrade over HTTP/2, a CONNECT there, is a GET here (RFC 8441)."""
    entry = cached.entry
    problem = None
    if entry.methods and request.method.decode("ascii") not in entry.methods:
        problem = f"is for {', '.join(entry.methods)}"
    elif entry.path is not None and not is_under(request.target, cached.prefix):
        problem = f"is for {entry.path}"
    elif entry.percent == 0:
        problem = "is for 0% of all requests"
    if problem is not None:
        raise ConditionUnmet(
            f"service '{entry.key}': the contract {problem}; the sidecar should have left this request to the"
            " service",
            service=entry.key,
            target=str(entry.target),
        )


def _check_loop(via: bytes, matched: bytes) -> None:
    """Raises LoopDetected if a service has detoured the request more than once."""
    if [name.strip() for name in via.split(b",")].count(matched) > 1:
        service = matched.decode("latin-1")
        raise LoopDetected(f"service '{service}': the contract leads back to itself", service=service)


def _header_count_error(
    request: InboundRequest,
) -> ContractMissing | ContractInvalid | MarkerMissing | RequestMalformed:
    if not request.contract:
        return ContractMissing("the header X-devroute is missing")
    if len(request.contract) > 1:
        return ContractInvalid(f"the header X-devroute occurs {len(request.contract)} times")
    if not request.matched:
        return MarkerMissing("the header X-devroute-matched is missing: no sidecar matched this request")
    return RequestMalformed(f"the header X-devroute-matched occurs {len(request.matched)} times")
