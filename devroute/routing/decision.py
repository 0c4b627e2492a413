"""Where a request goes: contract, policy and registered laptops make a decision. Pure.

Never resolves a name or connects. A decision with an `address` holds only if that can be reached:
proxy/control/sidecars.py connects to it, and calls `Decision.unreachable` if that fails.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from devroute.contract.grammar import Contract, Entry, parse
from devroute.contract.offer_options import DEFAULT_OPTIONS, OfferOptions
from devroute.contract.target import Address, Version
from devroute.contract.validity import SKEW_S
from devroute.errors import (
    ContractsUnavailable,
    DevrouteError,
    KeysUnavailable,
    NotSupported,
    ServiceNotServed,
)
from devroute.policy.policy import Policy, permit_contract
from devroute.quoting import reason_for_others
from devroute.upstream.interface import ProbedUpstream
from devroute.upstream.quota import Quota

#: Milliseconds that a sidecar may cache a decision that only another contract or policy would change.
TTL_MS: Final = 1000
#: Milliseconds for a decision that leads to a laptop: so long after it went offline its requests may get an
#: error instead of the service. Four /resolve requests a second and worker are cheap.
LAPTOP_TTL_MS: Final = 250
#: Milliseconds for a fallback, which a person may be about to end by starting the app or `devroute up`.
FALLBACK_TTL_MS: Final = 250
#: Names that a sidecar may have for its own service, in order of trust; they come from three sources.
MAX_CANDIDATES: Final = 8

Kind = Literal["detour", "mirror", "version", "service", "fallback", "error"]


@dataclass(frozen=True, slots=True)
class LaptopService:
    """A service as a registered laptop offers it: by its tunnel (`upstream`) or at an `address`. The same
    object for as long as the registration lasts. `quota` is the subject's quota, for an address; a tunnel has
    its own. `owner`: the address of the data port at which the laptop's link ends, where there are several
    replicas; at the others, which have it as `remote`, `upstream` leads there and `address` is for people."""

    upstream: ProbedUpstream | None
    address: Address | None
    options: OfferOptions = DEFAULT_OPTIONS
    quota: Quota | None = None
    owner: str = ""
    remote: bool = False


class Directory(Protocol):
    """The registered laptops (routing/registry.py)."""

    def lookup(self, name: str, service: str) -> LaptopService:
        """`service` as a contract names it, `b` or `b.namespace`: a laptop that offers `b` serves both.
        Raises LaptopOffline or ServiceNotServed."""

    def lookup_other(self, name: str, service: str, failed: LaptopService) -> LaptopService | None:
        """By another link of the laptop than that which has failed; None if it has none. Raises as
        `lookup`."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the sidecar is to do. `service` is the contract's key, `target` what the contract names there.
    `callers` are patterns of the callers that policy permits, None for all: the sidecar knows each request's
    caller, so that one decision serves all of them. `owner`: of a detour, the address of the replica at which
    the laptop's link ends, and `laptop` what was found there."""

    kind: Kind
    service: str = ""
    target: str = ""
    reason: str = ""
    error: DevrouteError | None = None
    ttl_ms: int = TTL_MS
    address: Address | None = None
    upstream: ProbedUpstream | None = None
    entry: Entry | None = None
    callers: tuple[str, ...] | None = None
    options: OfferOptions = DEFAULT_OPTIONS
    owner: str = ""
    laptop: LaptopService | None = None

    def by_other_link(self, directory: Directory, policy: Policy) -> "Decision | None":
        """The same by another link of the laptop; None if it has none."""
        if self.laptop is None or self.entry is None or isinstance(self.entry.target, Address):
            return None
        try:
            other = directory.lookup_other(self.target, self.service, self.laptop)
            if other is None:
                return None
            route = destination_of(self.entry, other, policy)
        except DevrouteError:
            return None
        return self.through(route, other)

    def through(self, route: Address | ProbedUpstream, laptop: LaptopService) -> "Decision":
        """The decision for a laptop, by one of its links."""
        # In Envoy no filter can choose the host of a mirrored request.
        owner = laptop.owner if self.kind == "detour" else ""
        if isinstance(route, Address):
            return replace(self, address=route, upstream=None, owner=owner, laptop=laptop)
        return replace(self, address=None, upstream=route, owner=owner, laptop=laptop)

    def unreachable(self, error: DevrouteError, ttl_ms: int = FALLBACK_TTL_MS) -> "Decision":
        """The decision instead of a detour whose target cannot be reached, or is not permitted."""
        return replace(_failed(self.entry, error), ttl_ms=ttl_ms)


def decide(
    raw: str,
    candidates: Sequence[str],
    namespace: str | None,
    policy: Policy,
    directory: Directory,
    *,
    read: Callable[[str], Contract] = parse,
    now: float = 0.0,
) -> Decision:
    """The decision for one contract at one service. Never raises DevrouteError: errors become decisions.

    `candidates` are the names that the service may have, in order of trust. `read` parses contracts, signed
    ones too where keys are configured, and named ones; `now`, in seconds since the epoch, is for their
    lifetime.
    """
    try:
        contract = read(raw)
    except (ContractsUnavailable, KeysUnavailable) as error:
        return Decision("fallback", reason=error.message, error=error, ttl_ms=FALLBACK_TTL_MS)
    except DevrouteError as error:
        return Decision("error", reason=error.message, error=error)
    decision = _decide_parsed(contract, candidates, namespace, policy, directory, now)
    remaining = seconds_left(contract, now)
    if remaining is None:
        return decision
    return replace(decision, ttl_ms=min(decision.ttl_ms, int(remaining * 1000)))


def seconds_left(contract: Contract, now: float) -> float | None:
    """For how long a decision on the contract may hold: until its signature, or what a name stands for,
    expires. None if neither does."""
    ends = []
    if contract.signature is not None:
        ends.append(contract.signature.expires + SKEW_S)
    if contract.saved is not None:
        ends.append(contract.saved.expires)
    return max(0.0, min(ends) - now) if ends else None


def _decide_parsed(
    contract: Contract,
    candidates: Sequence[str],
    namespace: str | None,
    policy: Policy,
    directory: Directory,
    now: float,
) -> Decision:
    entry = contract.find(candidates[:MAX_CANDIDATES], namespace)
    if entry is None:
        return Decision("service", reason=reason_for_others(list(contract.entries)))
    target = str(entry.target)
    try:
        permit_contract(contract, policy, now)
        permit_entry(entry, policy)
        callers = policy.callers_of(entry)
        if entry.abort_status is not None:  # the proxy responds itself
            return Decision("detour", entry.key, target, entry=entry, callers=callers)
        if isinstance(entry.target, Version):
            return Decision("version", entry.key, target, entry=entry, callers=callers)
        route, served = select_target(entry, policy, directory)
    except DevrouteError as error:
        return _failed(entry, error)
    options = served.options
    if options.shadow is not None and entry.fallback == "fail":
        problem = f"laptop '{entry.target}' accepts only shadow traffic, and fallback is 'fail'"
        hint = "remove the option 'fallback', or register the laptop without --shadow"
        return _failed(entry, _not_supported(entry, problem, hint))
    kind: Kind = "mirror" if entry.mirror or options.shadow is not None else "detour"
    laptop = Decision(
        kind, entry.key, target, ttl_ms=LAPTOP_TTL_MS, entry=entry, callers=callers, options=options
    )
    return laptop.through(route, served)


def select_target(
    entry: Entry, policy: Policy, directory: Directory
) -> tuple[Address | ProbedUpstream, LaptopService]:
    """The destination of an entry that policy permits, and what it is: an address to connect to (a name in it
    is still to be resolved, and each IP address to be permitted), or a laptop's tunnel.

    Raises TargetDenied, LaptopOffline or ServiceNotServed.
    """
    if isinstance(entry.target, Address):
        return entry.target, LaptopService(None, entry.target)
    laptop = directory.lookup(str(entry.target), entry.key)
    return destination_of(entry, laptop, policy), laptop


def _not_supported(entry: Entry, problem: str, hint: str) -> NotSupported:
    return NotSupported(
        f"service '{entry.key}': {problem}", hint=hint, service=entry.key, target=str(entry.target)
    )


def permit_entry(entry: Entry, policy: Policy) -> None:
    """What can be judged without the registry. Raises TargetDenied, CallerDenied or NotSupported."""
    policy.permit(entry)
    if (problem := _contradiction(entry)) is not None:
        raise _not_supported(entry, problem, "remove the option")


def destination_of(entry: Entry, laptop: LaptopService, policy: Policy) -> Address | ProbedUpstream:
    """How a registered laptop is reached. Raises TargetDenied or ServiceNotServed."""
    if laptop.upstream is not None:
        return laptop.upstream
    if laptop.address is None:
        raise ServiceNotServed(
            f"laptop '{entry.target}' serves '{entry.key}' neither by tunnel nor by address",
            service=entry.key,
            target=str(entry.target),
        )
    policy.permit_target(laptop.address, service=entry.key)
    return laptop.address


def _failed(entry: Entry | None, error: DevrouteError) -> Decision:
    if entry is None:
        return Decision("error", reason=error.message, error=error, ttl_ms=FALLBACK_TTL_MS)
    base = Decision(
        "fallback", entry.key, str(entry.target), error.message, error, FALLBACK_TTL_MS, entry=entry
    )
    return replace(base, kind="error") if entry.fallback == "fail" else base


def _contradiction(entry: Entry) -> str | None:
    """Options that are valid by themselves but not together."""
    if entry.mirror and isinstance(entry.target, Version):
        return "option 'mirror' is for laptops: a version that stops reading would hold up the real service"
    if entry.mirror and entry.delay_s is not None:
        return "option 'delay' is not for mirrored requests: their responses are discarded"
    if entry.delay_s is not None and isinstance(entry.target, Version) and entry.abort_status is None:
        return "option 'delay' is not for versions: the request does not pass the devroute proxy"
    return None
