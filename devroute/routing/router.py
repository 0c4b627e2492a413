"""Which upstream a detoured request gets: parse, permit, choose. Never trusts the sidecar's own decision, and
judges again what can be seen from here: all but a contract's `from` and the dice of `percent`.

Judging a contract costs more than relaying its request, so each judgement is kept by the header's raw bytes
for as long as its policy is in force. Who is online is asked for every request.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from devroute.contract.grammar import Contract, Entry, Signature, parse
from devroute.contract.offer_options import OfferOptions
from devroute.contract.target import Address, Version
from devroute.contract.verifier import check_time
from devroute.errors import (
    ConditionUnmet,
    ContractInvalid,
    ContractMissing,
    LoopDetected,
    MarkerMissing,
    PathNotOffered,
    RequestMalformed,
    ServiceNotInContract,
)
from devroute.headers import VIA, line_start
from devroute.http.message import InboundRequest, header_value
from devroute.policy.policy import Policy, permit_contract
from devroute.routing.decision import Directory, LaptopService, destination_of, permit_entry
from devroute.routing.route import CALLER, Route
from devroute.routing.route_builder import RouteBuilder
from devroute.routing.shadow.assignment import (
    permit_shadow_traffic,
    ticket_of,
)
from devroute.routing.shadow.traffic import ShadowTraffic
from devroute.upstream.interface import Upstream
from devroute.upstream.pools import Pools

#: Contracts that are remembered; people at work at the same time are far fewer.
MAX_REMEMBERED: Final = 4096

#: The services that have sent the request away before (sidecars write it, as one line in lower case).
_VIA: Final = line_start(VIA)

#: Callers of one contract that are remembered as permitted; a mesh has a few hundred identities.
MAX_CALLERS: Final = 256


@dataclass(slots=True)
class _Judged:
    """A contract's entry that policy permits, and the route that was last made of it. `conditional`: it is
    not for every request. `static`: its way never changes. `callers`: those that policy was seen to permit,
    None where it permits everybody. `signature`: it holds for a time only. `paths`: the laptop takes no
    others. `copied`: nor other methods, where it gets copies only."""

    entry: Entry
    conditional: bool
    static: bool
    callers: set[bytes] | None = None
    signature: Signature | None = None
    served: LaptopService | None = None
    route: Route | None = None
    paths: tuple[bytes, ...] = ()
    copied: tuple[bytes, ...] = ()


class ContractRouter:
    """Implements devroute.port.Router for requests that a sidecar detoured. `mesh` leads to the real
    services, by the name that a request is sent to."""

    def __init__(
        self,
        directory: Directory,
        policy: Callable[[], Policy],
        pools: Pools,
        read: Callable[[str], Contract] = parse,
        clock: Callable[[], float] = time.time,
        mesh: Upstream | None = None,
        shadow: ShadowTraffic | None = None,
    ) -> None:
        """`read` is what reads contracts; `clock` gives seconds since the epoch."""
        self._shadow = ShadowTraffic(time.monotonic) if shadow is None else shadow
        # Of copies, by laptop and service: older tickets are forgotten.
        self._copied: dict[tuple[str, str], _Judged] = {}
        self._read = read
        self._clock = clock
        self._directory = directory
        self._policy = policy
        self._route_builder = RouteBuilder(pools, mesh, self._shadow)
        self._judged: dict[tuple[bytes, bytes], _Judged] = {}

    def forget(self) -> None:
        """A new policy is in force, or other keys for contracts."""
        self._judged.clear()
        self._copied.clear()

    def __call__(self, request: InboundRequest) -> Route:
        """Raises the errors of contract, signature, policy and directory, MarkerMissing, ConditionUnmet, or
        LoopDetected."""
        contract = request.contract
        matched = request.matched
        if len(contract) != 1 or len(matched) != 1:
            return self._copy(request)
        key = (contract[0], matched[0])
        judged = self._judged.get(key)
        if judged is None:
            judged = self._judge(*key)
            if len(self._judged) >= MAX_REMEMBERED:
                self._judged.clear()
            self._judged[key] = judged
        entry = judged.entry
        if judged.signature is not None:
            check_time(judged.signature, self._clock())
        if judged.conditional:
            _check_conditions(entry, request)
        if judged.callers is not None:
            self._check_caller(entry, judged.callers, request.raw)
        via = header_value(request.raw, _VIA)
        if via is not None and via != key[1]:
            _check_loop(via, key[1])
        if judged.static:
            if judged.route is None:
                judged.route = self._route_builder.static(entry, judged.signature)
            return judged.route
        served = self._directory.lookup(str(entry.target), entry.service)
        if judged.route is None or judged.served is not served:
            way = destination_of(entry, served, self._policy())
            judged.route = self._route_builder.route(entry, way, judged.signature, served)
            judged.served = served
            judged.copied = _copied_methods(served.options)
            judged.paths = tuple(path.encode("ascii") for path in served.options.paths)
        if judged.paths or judged.copied:
            _check_options(judged, served.options, request)
        return judged.route

    def _copy(self, request: InboundRequest) -> Route:
        """Of a request without a contract. Raises what policy has against that, LaptopOffline where the
        laptop has gone, and for all other requests what is wrong with their markers."""
        ticket = None if request.contract else ticket_of(request.raw)
        if ticket is None:
            raise _miscounted(request)
        shadow = self._shadow.target(ticket)
        key, served = (shadow.name, shadow.service), shadow.laptop
        judged = self._copied.get(key)
        if judged is None or judged.served is not served:
            policy = self._policy()
            entry = permit_shadow_traffic(shadow, policy)
            judged = _Judged(entry, False, False, None if policy.callers_of(entry) is None else set())
            judged.route = self._route_builder.route(
                entry, destination_of(entry, served, policy), None, served, contract=False
            )
            judged.served = served
            judged.copied = _copied_methods(served.options)
            judged.paths = tuple(path.encode("ascii") for path in served.options.paths)
            if len(self._copied) >= MAX_REMEMBERED:
                self._copied.clear()
            self._copied[key] = judged
        if judged.callers is not None:
            self._check_caller(judged.entry, judged.callers, request.raw)
        _check_options(judged, served.options, request)
        assert judged.route is not None
        return judged.route

    def _check_caller(self, entry: Entry, permitted: set[bytes], raw: bytes) -> None:
        """Raises CallerDenied. Whoever may reach this port can claim to be anybody (docs/policy.md), but a
        sidecar that knows nothing of callers gets nobody through."""
        caller = header_value(raw, CALLER) or b""
        if caller in permitted:
            return
        self._policy().permit_caller(entry, caller.decode("latin-1"))
        if len(permitted) >= MAX_CALLERS:
            permitted.clear()
        permitted.add(caller)

    def _judge(self, raw: bytes, matched: bytes) -> _Judged:
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
        conditional = bool(entry.methods or entry.path is not None or entry.percent == 0)
        restricted = self._policy().callers_of(entry) is not None
        return _Judged(
            entry,
            conditional,
            aborts or isinstance(entry.target, Address),
            set() if restricted else None,
            contract.signature,
        )


def _check_options(judged: _Judged, options: OfferOptions, request: InboundRequest) -> None:
    """Raises PathNotOffered or ConditionUnmet."""
    if judged.paths and not request.target.startswith(judged.paths):
        raise _not_offered(judged.entry, judged.paths)
    if judged.copied and request.method not in judged.copied:
        raise _not_copied(judged.entry, options)


def _check_conditions(entry: Entry, request: InboundRequest) -> None:
    """Raises ConditionUnmet. An upgrade over HTTP/2 is a CONNECT there, and a GET here (RFC 8441)."""
    problem = None
    if entry.methods and request.method.decode("ascii") not in entry.methods:
        problem = f"is for {', '.join(entry.methods)}"
    elif entry.path is not None and not request.target.startswith(entry.path.encode("ascii")):
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


def _not_offered(entry: Entry, paths: tuple[bytes, ...]) -> PathNotOffered:
    offered = " ".join(path.decode("ascii") for path in paths)
    return PathNotOffered(
        f"laptop '{entry.target}' takes requests for '{entry.service}' under {offered} only; the sidecar"
        " should have left this one to the service",
        service=entry.key,
        target=str(entry.target),
    )


def _copied_methods(options: OfferOptions) -> tuple[bytes, ...]:
    return () if options.shadow is None else tuple(each.encode("ascii") for each in options.shadow_methods)


def _not_copied(entry: Entry, options: OfferOptions) -> ConditionUnmet:
    return ConditionUnmet(
        f"laptop '{entry.target}' wants copies of {', '.join(options.shadow_methods)} only; the sidecar"
        " should have left this request to the service",
        service=entry.key,
        target=str(entry.target),
    )


def _check_loop(via: bytes, matched: bytes) -> None:
    """Raises LoopDetected where a service has sent the request away more than once."""
    if [name.strip() for name in via.split(b",")].count(matched) > 1:
        service = matched.decode("latin-1")
        raise LoopDetected(f"service '{service}': the contract leads back to itself", service=service)


def _miscounted(
    request: InboundRequest,
) -> ContractMissing | ContractInvalid | MarkerMissing | RequestMalformed:
    if not request.contract:
        return ContractMissing("the header X-devroute is missing")
    if len(request.contract) > 1:
        return ContractInvalid(f"the header X-devroute is there {len(request.contract)} times")
    if not request.matched:
        return MarkerMissing("the header X-devroute-matched is missing: no sidecar matched this request")
    return RequestMalformed(f"the header X-devroute-matched is there {len(request.matched)} times")
