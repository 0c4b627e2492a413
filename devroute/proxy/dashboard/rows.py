"""What the page lists, as rows of JSON: laptops, other targets of contracts, fallbacks, contracts that have a
name, blocks. Pure.

A row has names, counts and reasons; no path, header or body.
"""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from devroute.auth.blocks import Block
from devroute.contract.entry_urls import entry_for, join_link
from devroute.contract.name import SIGN
from devroute.proxy.dashboard.activity import TotalActivity, as_row
from devroute.routing.named_contracts import NamedContract
from devroute.routing.registration import Registration
from devroute.routing.registry import offer_for
from devroute.timestamps import rfc3339

Row = Mapping[str, Any]

#: Kinds of rows that administrators alone get.
FOR_ADMINS = ("block",)

#: Invitations that are kept from one refresh of the rows to the next: some 5 MB.
MAX_INVITATIONS: Final = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Where people outside send requests: `urls` by name; `links`: whether a link sets a contract there. One
    for each proxy, compared by identity."""

    urls: Mapping[str, str]
    links: bool

    def join(self, services: Sequence[str], contract: str) -> str | None:
        """The link that sets a contract, None where no gateway takes one."""
        chosen = entry_for(services, self.urls) if self.links else None
        return None if chosen is None else join_link(self.urls[chosen], contract)


def rows(
    laptops: Iterable[Registration],
    activity: TotalActivity,
    blocks: Iterable[Block],
    contracts: Iterable[NamedContract],
    entries: Entries,
) -> dict[str, Row]:
    """All rows by an id of their own."""
    found, left = dict[str, Row](), defaultdict[str, set[str]](set)
    for service, target in activity.requests:
        left[target].add(service)
    for each in laptops:
        requested = left.get(each.name, set())
        found[f"laptop {each.name} {each.generation}"] = _laptop(each, activity, entries, requested)
    for key in activity.requests:
        service, target = key
        if service not in left[target]:
            continue  # in a laptop's row
        found[f"target {service} {target}"] = {
            "kind": "target",
            "service": service,
            "target": target,
            "requests": activity.requests[key],
            "failed": activity.failed[key],
        }
    for fallback in activity.fallbacks:
        key_of = f"fallback {fallback.service} {fallback.target} {fallback.code}"
        found[key_of] = {"kind": "fallback", **as_row(fallback)}
    for block in blocks:
        found[f"block {block.subject}"] = {"kind": "block", **block.as_dict()}
    for contract in contracts:
        found[f"contract {contract.name}"] = _contract(contract, entries)
    return found


def _contract(saved: NamedContract, entries: Entries) -> Row:
    """Its targets, without the conditions: those have paths."""
    name = f"{SIGN}{saved.name}"
    return {
        "kind": "contract",
        "name": name,
        "owner": saved.owner,
        "until": rfc3339(saved.expires),
        "contract": name,
        "targets": saved.services,
        "join": entries.join(list(saved.services), name),
    }


def _laptop(
    laptop: Registration,
    activity: TotalActivity,
    entries: Entries,
    requested: set[str],
) -> Row:
    """`requested`: services whose requests went to a laptop of this name; takes its own out."""
    services = [
        {
            "service": offer.service,
            "via": "tunnel" if offer.direct is None else "direct",
            "address": None if offer.direct is None else str(offer.direct),
            "shadow": offer.terms.shadow is not None,
            "requests": 0,
            "failed": 0,
            **_invitation(laptop.name, (offer.service,), entries),
        }
        for offer in laptop.hello.services
    ]
    by_name = {str(each["service"]): each for each in services}
    for service in list(requested):
        offer_row = offer_for(by_name, service)
        if offer_row is not None:
            requested.remove(service)
            offer_row["requests"] += activity.requests[service, laptop.name]
            offer_row["failed"] += activity.failed[service, laptop.name]
    return {
        "kind": "laptop",
        "laptop": laptop.name,
        "generation": laptop.generation,
        "subject": laptop.subject,
        "since": laptop.since_when,
        "agent": laptop.hello.agent,
        "round_trip_ms": activity.round_trips.get((laptop.name, laptop.generation)),
        "services": services,
        **_invitation(laptop.name, tuple(by_name), entries),
    }


@lru_cache(MAX_INVITATIONS)
def _invitation(laptop: str, services: tuple[str, ...], entries: Entries) -> Mapping[str, Any]:
    if not services:  # it only reaches the mesh
        return {"contract": "", "join": None}
    contract = json.dumps(dict.fromkeys(services, laptop))
    return {"contract": contract, "join": entries.join(services, contract)}
