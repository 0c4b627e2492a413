"""Copies of requests without a contract (`up --shadow` at a workload with a share): whose laptop gets which.

Owns the answer to a sidecar that asks, and how the proxy knows a copy again. What becomes of a copy is
upstream/mirror.py's. Pure.

A sidecar learns a ticket for each laptop and writes it on the copy. Tickets are secrets of the proxy, its
sidecars and the service that is copied, which gets the same request: callers cannot make requests that look
like copies.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from devroute.contract.grammar import Entry, parse
from devroute.errors import DevrouteError, LaptopOffline
from devroute.headers import COPY, line_start
from devroute.http.message import header_id
from devroute.policy.policy import Policy
from devroute.routing.decision import MAX_CANDIDATES, LaptopService

#: Laptops in one answer, and so in one sidecar's draw.
MAX_LAPTOPS: Final = 16
#: Characters of a ticket: 128 bits as hexadecimal digits, too many to guess.
TICKET_LENGTH: Final = 32

_FIELD: Final = line_start(COPY)


@dataclass(frozen=True, slots=True)
class ShadowTarget:
    """A laptop that wants copies of a service's requests. The ticket is its own while it is online."""

    ticket: str
    name: str
    service: str
    served: LaptopService


class ShadowTargets(Protocol):
    """Who wants copies (routing/registry.py)."""

    def shadows(self, service: str) -> Sequence[ShadowTarget]:
        """Those that want copies of a service's requests, by name."""

    def shadow(self, ticket: str) -> ShadowTarget:
        """Raises LaptopOffline."""


class NoShadowTargets:
    """Nobody wants copies."""

    def shadows(self, service: str) -> Sequence[ShadowTarget]:
        return ()

    def shadow(self, ticket: str) -> ShadowTarget:
        raise LaptopOffline("the laptop that wanted this copy is not online any more")


@dataclass(frozen=True, slots=True)
class Assignment:
    """The answer: which laptops get copies of a service's requests, none where there are none."""

    service: str = ""
    laptops: tuple[ShadowTarget, ...] = ()


def assign_shadow_traffic(candidates: Sequence[str], policy: Policy, shadows: ShadowTargets) -> Assignment:
    """Who gets copies of the requests without a contract at one service, which `candidates` name in order of
    trust. Never raises DevrouteError: what policy does not permit is not copied."""
    for service in candidates[:MAX_CANDIDATES]:
        found = [each for each in shadows.shadows(service) if _permitted(each, policy)]
        if found:
            return Assignment(service, tuple(found[:MAX_LAPTOPS]))
    return Assignment()


def permit_shadow_traffic(shadow: ShadowTarget, policy: Policy) -> Entry:
    """A laptop that may have copies, as a contract would name it. Raises TargetDenied, CallerDenied or
    ShadowDenied."""
    entry = parse(json.dumps({shadow.service: shadow.name})).entries[shadow.service]
    policy.permit(entry)
    policy.permit_shadow(shadow.service)
    if shadow.served.address is not None:
        policy.permit_target(shadow.served.address, service=shadow.service)
    return entry


def _permitted(shadow: ShadowTarget, policy: Policy) -> bool:
    try:
        permit_shadow_traffic(shadow, policy)
    except DevrouteError:
        return False
    return True


def ticket_of(head: bytes) -> str | None:
    """The ticket on a request; None where it is no copy."""
    return header_id(head, _FIELD, TICKET_LENGTH)
