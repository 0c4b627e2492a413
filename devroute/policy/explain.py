"""Explains a policy in English and warns of likely mistakes, for `devroute policy check`. Pure."""

from collections.abc import Iterable, Iterator

from devroute.policy.file import CallerSection, RegisterSection
from devroute.policy.policy import Policy
from devroute.policy.ranges import SPECIAL, Network, is_inside
from devroute.policy.rules import Ports, any_matches, written_ports

#: A network with a prefix shorter than this covers a large part of all addresses, by IP version.
_WIDE = {4: 4, 6: 6}


def explain(policy: Policy) -> list[str]:
    """One line for each rule, under headings that end with a colon."""
    return [
        "Contracts:",
        f"  {_services(policy.services)} may be detoured{'' if '*' in policy.services else ', no others'}",
        f"  {'must be signed' if policy.require_signed else 'need no signature'}",
        "Targets without a tunnel:",
        *_targets(policy),
        "Registrations:",
        *_registrations(policy),
        "Callers:",
        *_callers(policy),
        "Shadow traffic:",
        _shadow(policy),
        "Reach:",
        *_reach(policy),
        "Limits:",
        *_limits(policy),
        "Administrators:",
        _admins(policy),
    ]


def remarks(policy: Policy) -> list[str]:
    """Rules that probably do not do what their author meant."""
    return [
        *_about_networks(policy),
        *_about_registrations(policy),
        *_about_callers(policy),
        *_about_reach(policy),
    ]


# --- one section each ---------------------------------------------------------------------------------------


def _targets(policy: Policy) -> Iterator[str]:
    rules = [rule for rule in policy.rules if rule.networks and rule.ports]
    for rule in rules:
        yield f"  {_services(rule.services)}: {_list(rule.networks)}; ports {_ports(rule.ports)}"
    if not rules:
        yield "  none: laptops are reached through tunnels only"
        return
    yield "  a host name is resolved, and each of its addresses must be permitted"
    own = [f"the {name} range {network}" for network, name in policy.cluster]
    never = _list([*own, "loopback", "link-local", "cloud metadata", "other special ranges"])
    yield f"  denied unless a listed network lies inside: {never}"


def _registrations(policy: Policy) -> Iterator[str]:
    if policy.registrations is None:
        yield "  anyone with a valid token may register every service that may be detoured"
    for rule in policy.registrations or ():
        who = [*rule.subjects, *(f"members of {group}" for group in sorted(rule.groups))]
        yield f"  {_list(who)}: {_services(rule.services)}"
    if policy.registrations is not None:
        yield "  no one else" if policy.registrations else "  no one"


def _callers(policy: Policy) -> Iterator[str]:
    if policy.callers is None:
        yield "  every caller's requests may go to every permitted target"
    for rule in policy.callers or ():
        callers = "every caller" if "*" in rule.callers else _list(rule.callers)
        yield f"  {callers}: {_services(rule.services)} to {_targets_of(rule)}"
    if policy.callers is not None:
        none = "  none: all requests stay with the mesh's own services"
        yield "  no other caller" if policy.callers else none


def _shadow(policy: Policy) -> str:
    if not policy.shadow:
        return "  none: laptops receive no copies of ordinary requests"
    return f"  laptops may receive copies of the requests of {_services(policy.shadow)}"


def _reach(policy: Policy) -> Iterator[str]:
    for rule in policy.reach:
        who = [*rule.subjects, *(f"members of {group}" for group in rule.groups)]
        services = f"{_services(rule.services)} in {_list(rule.namespaces)}" if rule.namespaces else ""
        where = " and ".join(each for each in (services, _list(rule.hosts)) if each)
        yield f"  {_list(who)}: {where}; ports {_ports(rule.ports)}; by {' and '.join(rule.protocols)}"
    if policy.reach:
        yield "  never: loopback, link-local, cloud metadata, other special ranges, the proxy's own namespace"
    else:
        yield "  none: laptops reach no service of the mesh"


def _limits(policy: Policy) -> Iterator[str]:
    limits = policy.limits.model_dump(exclude_none=True)
    for name, value in limits.items():
        yield f"  {name.replace('_', ' ')}: {value}"
    if not limits:
        yield "  as in the proxy's settings"


def _admins(policy: Policy) -> str:
    who = [*policy.admins.subjects, *(f"members of {group}" for group in policy.admins.groups)]
    return f"  {_list(who)}" if who else "  none: everyone changes only what is their own"


def _ports(ports: Ports) -> str:
    return ", ".join(written_ports(ports))


def _list(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))


def _services(patterns: tuple[str, ...]) -> str:
    if "*" in patterns:
        return "every service"
    return _list(patterns) or "no service"


def _targets_of(rule: CallerSection) -> str:
    if "*" in rule.names:
        return "every permitted target"
    return _list([*rule.names, *rule.networks]) or "no target"


# --- likely mistakes ----------------------------------------------------------------------------------------


def _listed(policy: Policy) -> list[Network]:
    return [network for rule in policy.rules for network in rule.networks]


def _about_networks(policy: Policy) -> Iterator[str]:
    listed = _listed(policy)
    if listed and not policy.cluster:
        yield "the cluster's own ranges are not listed: add cluster.pods and cluster.services"
    for network in dict.fromkeys(listed):
        if network.prefixlen < _WIDE[network.version]:
            yield f"{network} covers most addresses: list the laptops' networks instead"
        for outer, name in (*SPECIAL, *policy.cluster):
            if is_inside(network, outer):
                yield f"{network} is in the {name} range {outer}: contracts may send requests there"


def _about_registrations(policy: Policy) -> Iterator[str]:
    for rule in policy.registrations or ():
        for pattern in rule.services:
            if "*" not in pattern and not any_matches(policy.services, pattern):
                yield f"{_who(rule)} may register '{pattern}', but services does not list it"


def _who(rule: RegisterSection) -> str:
    return _list([*rule.subjects, *sorted(rule.groups)])


def _about_callers(policy: Policy) -> Iterator[str]:
    reachable = _listed(policy)
    for rule in policy.callers or ():
        for network in rule.networks:
            if not any(_overlap(network, each) for each in reachable):
                yield f"{_list(rule.callers)} may use {network}, but direct.networks does not list it"


def _about_reach(policy: Policy) -> Iterator[str]:
    for rule in policy.reach:
        if "*" in rule.subjects and "*" in rule.namespaces and "*" in rule.services:
            yield f"every laptop may reach every service by {' and '.join(rule.protocols)}"


def _overlap(one: Network, other: Network) -> bool:
    return is_inside(one, other) or is_inside(other, one)
