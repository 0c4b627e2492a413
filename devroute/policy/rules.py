"""How the rules of a policy match services, addresses and callers. Pure; policy/policy.py combines them.

In all patterns `*` matches any text without a slash, and every other character matches itself.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address

from devroute.contract.mesh_identity import account_of
from devroute.contract.target import Address, Laptop, Target, Version
from devroute.policy.ranges import Ip, NamedRange, Network, effective_addresses, is_covered, is_inside

Ports = tuple[tuple[int, int], ...]

#: Compiled patterns in the cache: more than a policy has.
_MAX_COMPILED = 4096


@lru_cache(_MAX_COMPILED)
def _compiled(pattern: str) -> re.Pattern[str]:
    """Linear: what stands between two stars is matched where it first occurs, and nowhere else (an atomic
    group)."""
    first, *rest = map(re.escape, pattern.split("*"))
    inner = "".join(f"(?>[^/]*?{each})" for each in rest[:-1])
    return re.compile(first + inner + "".join(f"[^/]*{each}" for each in rest[-1:]))


def matches(pattern: str, text: str) -> bool:
    return _compiled(pattern).fullmatch(text) is not None


def any_matches(patterns: Iterable[str], text: str) -> bool:
    return any(matches(pattern, text) for pattern in patterns)


def is_listed(port: int, ports: Ports) -> bool:
    return any(first <= port <= last for first, last in ports)


def written_ports(ports: Ports) -> list[str]:
    """As a policy file has them: 8001, or 1024-65535."""
    return [str(first) if first == last else f"{first}-{last}" for first, last in ports]


# --- addresses ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a rule does not permit an address. Of several refusals, the one with the highest rank is reported:
    its rule came closest to permitting."""

    rank: int
    rule: str
    hint: str


@dataclass(frozen=True, slots=True)
class AddressRule:
    """Targets of these services may be in these networks, on these ports. `place`: the section of the
    file."""

    services: tuple[str, ...]
    networks: tuple[Network, ...]
    ports: Ports
    place: str = "direct"

    def refusal(self, ips: Iterable[Ip], port: int, special: Iterable[NamedRange]) -> Refusal | None:
        """None if the port and all of `ips` are permitted."""
        for ip in ips:
            covering = [network for network in self.networks if ip in network]
            own = f"{ip}/{ip.max_prefixlen}"
            for outer, name in special:
                if ip in outer and not any(is_inside(network, outer) for network in covering):
                    return Refusal(
                        1 if covering else 0,
                        f"{ip} is in the {name} range {outer}, which must be listed by itself",
                        f"the platform team can add {own} to {self.place}.networks in the policy",
                    )
            if not covering:
                return Refusal(
                    0,
                    f"{ip} is in none of the listed networks",
                    f"the platform team can add {own} or its network to {self.place}.networks",
                )
        return self.port_refusal(port)

    def port_refusal(self, port: int) -> Refusal | None:
        if is_listed(port, self.ports):
            return None
        return Refusal(
            2,
            f"port {port} is not listed",
            f"use another port, or ask the platform team to add {port} to {self.place}.ports",
        )


# --- callers ------------------------------------------------------------------------------------------------


def is_caller(pattern: str, caller: str) -> bool:
    """Whether a pattern matches a mesh identity (a certificate's URI, or "" for a caller without one). `*`
    matches all callers; `namespace/serviceaccount` matches in every trust domain. The sidecar's filter has
    the same rules (lua/parts/rule.lua)."""
    if pattern == "*":
        return True
    if "://" in pattern:
        return matches(pattern, caller)
    account = account_of(caller)
    return account != "" and matches(pattern, account)


def matches_target(names: Iterable[str], networks: Iterable[Network], target: Target) -> bool:
    """Whether a rule's networks match a literal address, or its patterns another target. A pattern matches
    one type of target: a name matches laptops, a name with a dot hosts, `version:NAME` versions."""
    if isinstance(target, Address) and target.is_literal:
        return all(is_covered(face, networks) for face in effective_addresses(ip_address(target.host)))
    target_type, text = _type_and_name(target)
    return any(matches(each, text) for each in names if _type_of_pattern(each) is target_type)


def _type_and_name(target: Target) -> tuple[type[Target], str]:
    if isinstance(target, Address):
        return Address, target.host
    return type(target), str(target)


def _type_of_pattern(pattern: str) -> type[Target]:
    if pattern.startswith("version:"):
        return Version
    return Address if "." in pattern else Laptop
