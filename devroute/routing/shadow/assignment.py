"""Which laptops get the shadow traffic of a service, as policy permits, and how it is recognised. Pure.

A sidecar learns a ticket for each laptop, and writes it on each shadow request. Only the proxy, its sidecars
and the mirrored service, which receives the same request, know tickets: no caller can forge a shadow request.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from devroute.contract.grammar import Entry, parse
from devroute.errors import DevrouteError
from devroute.headers import COPY, line_start
from devroute.http.message import header_id
from devroute.policy.policy import Policy
from devroute.routing.decision import MAX_CANDIDATES
from devroute.routing.registry import TICKET_LENGTH
from devroute.routing.shadow.traffic import ShadowTarget, ShadowTraffic

#: Laptops in one /resolve response, and so in one sidecar's draw.
MAX_LAPTOPS: Final = 16
_FIELD: Final = line_start(COPY)


@dataclass(frozen=True, slots=True)
class Assignment:
    """The laptops that get shadow traffic of a service, if any."""

    service: str = ""
    laptops: tuple[ShadowTarget, ...] = ()


def assign_shadow_traffic(
    candidates: Sequence[str],
    policy: Policy,
    shadow: ShadowTraffic,
    namespace: str | None = None,
    sender: str | None = None,
) -> Assignment:
    """The laptops for the requests without a contract at one service, which `candidates` name in order of
    trust; offers for its namespace come first. `sender`: the namespace that the workload has proved, outside
    of which it gets no ticket. Never raises DevrouteError: a laptop that policy does not permit gets none."""
    if sender is not None:
        namespace = sender
        candidates = [name for name in candidates if name.partition(".")[2].partition(".")[0] in ("", sender)]
    suffixes = (f".{namespace}", "") if namespace else ("",)
    for service in (name + suffix for name in candidates[:MAX_CANDIDATES] for suffix in suffixes):
        found = [each for each in shadow.targets(service) if _permitted(each, policy)]
        if found:
            return Assignment(service, tuple(found[:MAX_LAPTOPS]))
    return Assignment()


def permit_shadow_traffic(target: ShadowTarget, policy: Policy) -> Entry:
    """The entry by which a contract would name the laptop. Raises TargetDenied, CallerDenied or
    ShadowDenied."""
    entry = parse(json.dumps({target.service: target.name})).entries[target.service]
    policy.permit(entry)
    policy.permit_shadow(target.service)
    if target.laptop.address is not None:
        policy.permit_target(target.laptop.address, service=target.service)
    return entry


def _permitted(target: ShadowTarget, policy: Policy) -> bool:
    try:
        permit_shadow_traffic(target, policy)
    except DevrouteError:
        return False
    return True


def ticket_of(head: bytes) -> str | None:
    """The ticket on a shadow request; None for every other request."""
    return header_id(head, _FIELD, TICKET_LENGTH)
