"""Where a request goes: contract + policy + who is online -> a decision. The answer of /resolve is made here.

Pure; never awaits, resolves a name or connects. A decision that carries an `address` holds only if that can
be reached: the shell (proxy/control/api.py) tries it, and calls `Decision.unreachable` if not.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from devroute.contract.grammar import Contract, Entry, parse
from devroute.contract.offer_options import DEFAULT_OPTIONS, OfferOptions
from devroute.contract.target import Address, Version
from devroute.contract.verifier import SKEW_S
from devroute.errors import DevrouteError, NotSupported, ServiceNotServed
from devroute.policy.policy import Policy, permit_contract
from devroute.quoting import printable
from devroute.upstream.interface import ProbedUpstream
from devroute.upstream.quota import Share

#: First line of the answer; a filter that does not know it leaves the request alone.
VERSION_LINE: Final = "devroute 1"
#: Milliseconds a sidecar may keep an answer that only another contract or policy would change.
TTL_MS: Final = 1000
#: Milliseconds for an answer that leads to a laptop: for so long requests may still be sent to one that has
#: gone, and get an error instead of the service. Four questions a second and worker are cheap.
LAPTOP_TTL_MS: Final = 250
#: Milliseconds for an answer that a person is about to change: by starting the laptop, the app or the tunnel.
FALLBACK_TTL_MS: Final = 250
#: Names that a sidecar may have for its own service, in order of trust; there are three sources (DESIGN 2).
MAX_CANDIDATES: Final = 8

Kind = Literal["detour", "mirror", "version", "service", "fallback", "error"]


class LaptopService(Protocol):
    """How a registered laptop serves a service: one of the two is there."""

    @property
    def address(self) -> Address | None: ...
    @property
    def upstream(self) -> ProbedUpstream | None: ...
    @property
    def options(self) -> OfferOptions: ...
    @property
    def share(self) -> Share | None: ...
    @property
    def tell(self) -> Callable[[bytes], None] | None: ...


class Directory(Protocol):
    """Who is online (routing/registry.py)."""

    def lookup(self, name: str, service: str) -> LaptopService:
        """Raises LaptopOffline or ServiceNotServed."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the sidecar is to do. `service` is the contract's key; `entry` and `error` where there are any.
    `callers` are patterns of those whose requests policy permits, None for everybody: the sidecar knows whose
    request it is, and one answer serves all of them."""

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

    def unreachable(self, error: DevrouteError, ttl_ms: int = FALLBACK_TTL_MS) -> "Decision":
        """What becomes of a detour whose target turns out not to be there, or not to be permitted."""
        return replace(_failed(self.entry, error), ttl_ms=ttl_ms)

    def as_lines(self) -> bytes:
        """The answer of /resolve: lines of "key value", ASCII, LF."""
        lines = [VERSION_LINE, f"decision {self.kind}", f"ttl {self.ttl_ms}"]
        if self.service:
            lines.append(f"service {self.service}")
        if self.reason:
            lines.append(f"reason {printable(self.reason)}")
        if self.entry is not None:
            lines += _conditions(self.entry, self.options)
            if self.callers is not None:
                lines.append(f"callers {','.join(self.callers)}")
            lines += _option_lines(self.options)
            if self.kind == "version":
                lines += _version(self.entry)
        if self.kind == "error" and self.error is not None:
            lines.append(f"status {self.error.status}")
            lines.append(f"body {json.dumps(self.error.as_dict(), separators=(',', ':'))}")
        return ("\n".join(lines) + "\n").encode("ascii")


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

    `candidates` are the names the service may have, in order of trust. `read` is what reads contracts, signed
    ones too where those count; `now`, in seconds since the epoch, is for the time in which they hold.
    """
    try:
        contract = read(raw)
    except DevrouteError as error:
        return Decision("error", reason=error.message, error=error)
    decision = decide_parsed(contract, candidates, namespace, policy, directory, now=now)
    if contract.signature is None:
        return decision
    remaining = contract.signature.expires + SKEW_S - now
    return replace(decision, ttl_ms=min(decision.ttl_ms, max(0, int(remaining * 1000))))


def decide_parsed(
    contract: Contract,
    candidates: Sequence[str],
    namespace: str | None,
    policy: Policy,
    directory: Directory,
    *,
    now: float = 0.0,
) -> Decision:
    """As `decide`, for a contract that was parsed before."""
    entry = contract.find(candidates[:MAX_CANDIDATES], namespace)
    if entry is None:
        return Decision("service")
    target = str(entry.target)
    try:
        permit_contract(contract, policy, now)
        permit_entry(entry, policy)
        callers = policy.callers_of(entry)
        if entry.abort_status is not None:  # the proxy answers by itself
            return Decision("detour", entry.key, target, entry=entry, callers=callers)
        if isinstance(entry.target, Version):
            return Decision("version", entry.key, target, entry=entry, callers=callers)
        route, options = select_target(entry, policy, directory)
    except DevrouteError as error:
        return _failed(entry, error)
    if options.shadow is not None and entry.fallback == "fail":
        return _failed(entry, _copies_only(entry))
    kind: Kind = "mirror" if entry.mirror or options.shadow is not None else "detour"
    laptop = Decision(
        kind, entry.key, target, ttl_ms=LAPTOP_TTL_MS, entry=entry, callers=callers, options=options
    )
    if isinstance(route, Address):
        return replace(laptop, address=route)
    return replace(laptop, upstream=route)


def select_target(
    entry: Entry, policy: Policy, directory: Directory
) -> tuple[Address | ProbedUpstream, OfferOptions]:
    """Where the requests of an entry that policy permits go, and on which terms: an address to connect to (a
    name in it is still to be resolved, and each address to be permitted), or a laptop's tunnel.

    Raises TargetDenied, LaptopOffline or ServiceNotServed.
    """
    if isinstance(entry.target, Address):
        return entry.target, DEFAULT_OPTIONS
    served = directory.lookup(str(entry.target), entry.service)
    return destination_of(entry, served, policy), served.options


def _copies_only(entry: Entry) -> NotSupported:
    return NotSupported(
        f"service '{entry.key}': laptop '{entry.target}' takes only copies, and fallback is 'fail'",
        hint="leave the option 'fallback' out, or have the laptop registered without --shadow",
        service=entry.key,
        target=str(entry.target),
    )


def permit_entry(entry: Entry, policy: Policy) -> None:
    """What can be judged without knowing who is online. Raises TargetDenied, CallerDenied or
    NotSupported."""
    policy.permit(entry)
    if (problem := _impossible(entry)) is not None:
        raise NotSupported(
            f"service '{entry.key}': {problem}",
            hint="leave the option out",
            service=entry.key,
            target=str(entry.target),
        )


def destination_of(entry: Entry, served: LaptopService, policy: Policy) -> Address | ProbedUpstream:
    """How a laptop that is online is reached. Raises TargetDenied or ServiceNotServed."""
    if served.upstream is not None:
        return served.upstream
    if served.address is None:
        raise ServiceNotServed(
            f"laptop '{entry.target}' serves '{entry.service}' neither by tunnel nor by address",
            service=entry.key,
            target=str(entry.target),
        )
    policy.permit_target(served.address, service=entry.key)
    return served.address


def _failed(entry: Entry | None, error: DevrouteError) -> Decision:
    if entry is None:
        return Decision("error", reason=error.message, error=error, ttl_ms=FALLBACK_TTL_MS)
    base = Decision(
        "fallback", entry.key, str(entry.target), error.message, error, FALLBACK_TTL_MS, entry=entry
    )
    return replace(base, kind="error") if entry.fallback == "fail" else base


def _impossible(entry: Entry) -> str | None:
    """Options that are each fine, and cannot be had together."""
    if entry.mirror and isinstance(entry.target, Version):
        return "option 'mirror' is for laptops: a version that stops reading would hold up the real service"
    if entry.mirror and entry.delay_s is not None:
        return "option 'delay' is not for copies: nobody waits for their answer"
    if entry.delay_s is not None and isinstance(entry.target, Version) and entry.abort_status is None:
        return "option 'delay' is not for versions: the request does not pass the devroute proxy"
    return None


def _conditions(entry: Entry, options: OfferOptions) -> list[str]:
    """Which requests the decision is for, by the contract and by the laptop's terms; the sidecar leaves all
    others to the service."""
    lines = []
    methods, percent = tuple(entry.methods or ()), entry.percent
    if options.shadow is not None:
        percent *= options.shadow / 100
        methods = tuple(each for each in options.shadow_methods if not methods or each in methods)
        percent = percent if methods else 0.0
    if methods:
        lines.append(f"methods {','.join(methods)}")
    if entry.path is not None:
        lines.append(f"path {entry.path}")
    if entry.callers:
        lines.append(f"from {','.join(entry.callers)}")
    if percent < 100:
        lines.append(f"percent {percent:.6f}")
    if entry.fallback == "fail":
        lines.append("fallback fail")
    return lines


def _option_lines(options: OfferOptions) -> list[str]:
    """What the laptop leaves to the service, and what the proxy has to know to hand a request back."""
    lines = []
    if options.paths:
        lines.append(f"only-paths {' '.join(options.paths)}")
    if options.except_status:
        lines.append("origin yes")
    if options.shadow is not None:
        lines.append("compare yes")
    return lines


def _version(entry: Entry) -> list[str]:
    """What the sidecar has to know, since the proxy does not see the request."""
    lines = [f"version {getattr(entry.target, 'subset', '')}"]
    if entry.timeout_s is not None:
        lines.append(f"timeout {max(1, round(entry.timeout_s * 1000))}")
    return lines
