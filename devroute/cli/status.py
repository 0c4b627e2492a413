"""What `devroute status` says to people: the server's document in sentences. Pure."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from devroute.cli.table import cell, objects

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


def describe_status(server: str, document: Mapping[str, object]) -> list[str]:
    """GET /api/status in aligned lines. What another release sends beside or instead is shown as it is."""
    rows = list(_rows(server, dict(document)))
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {text}" for name, text in rows]


def describe_running(processes: Sequence[Mapping[str, Any]]) -> list[str]:
    """What each devroute up on this machine says of itself (GET /v1 of its control API), in lines."""
    found: list[str] = []
    for each in processes:
        state = "is online" if each.get("online") else "is offline, dialling again"
        if each.get("responding") is False:
            state = "does not respond, as it hangs or is stopped; it is registered"
        name, server, pid = (cell(each.get(key)) for key in ("name", "server", "pid"))
        found.append(f"{name} {state} at {server} (process {pid})")
        for served in objects(each.get("services")):
            missing = ", whose app does not listen" if served.get("listening") is False else ""
            place = cell(served.get("direct") or served.get("local"))
            found.append(f"  {cell(served.get('service'))} -> {place}{missing}")
        found += describe_reach(each)
        for name in ("inspector", "log"):
            if each.get(name):
                found.append(f"  {name}: {cell(each.get(name))}")
    return found


def describe_reach(process: Mapping[str, Any]) -> list[str]:
    """The local ports of a devroute up that lead into the mesh, in lines."""
    reach = process.get("reach")
    if not isinstance(reach, Mapping):
        return []
    lines = [
        f"  {cell(each.get('service'))} is reached at {cell(each.get('local'))}"
        for each in objects(reach.get("ports"))
    ]
    if reach.get("proxy"):
        lines.append(f"  SOCKS and HTTP proxy: 127.0.0.1:{cell(reach['proxy'])}")
    return lines


def you_are(server: str, document: Mapping[str, object]) -> str:
    """The same in one line, for commands that try a token."""
    return f"you are {cell(document.get('you'))} at {server} (devroute {cell(document.get('version'))})"


def _rows(server: str, rest: dict[str, object]) -> Iterator[tuple[str, str]]:
    uptime = rest.pop("uptime_s", None)
    running = f", up for {in_words(uptime)}" if isinstance(uptime, int | float) else ""
    yield "server", f"{server} (devroute {cell(rest.pop('version', None))}{running})"
    groups = rest.pop("groups", None)
    yield "you", cell(rest.pop("you", None)) + (f", in the groups {cell(groups)}" if groups else "")
    expires = rest.pop("token_expires_s", None)
    left = f"expires in {in_words(expires)}" if isinstance(expires, int | float) else "does not expire"
    yield "token", left
    yield "you may register", _services(rest.pop("you_may_register", None))
    reach = rest.pop("you_may_reach", None)
    if isinstance(reach, list):
        yield "you may reach", "; ".join(map(_reached, reach)) or "no service of the mesh"
    online = rest.pop("laptops", None)
    yield "laptops", "1 is online" if online == 1 else f"{cell(online)} are online"
    policy = rest.pop("policy", None)
    if isinstance(policy, Mapping):
        yield from _policy(policy)
    entries = rest.pop("entries", None)
    if isinstance(entries, Mapping) and entries:
        yield "called at", cell(list(entries.values()))
    if rest.pop("registry", None) == "unavailable":
        yield "registry", "unavailable: a laptop that dials now is known to its own replica alone"
    for key, value in rest.items():
        yield cell(key.replace("_", " ")), cell(value)


def _policy(policy: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    yield (
        "contracts",
        (
            f"may name {_services(policy.get('services'))},"
            f" and {'must be signed' if policy.get('signed_contracts_only') else 'need no signature'}"
        ),
    )
    networks = policy.get("networks")
    ports = f"{cell(networks)}; ports {cell(policy.get('ports'))}"
    yield "without a tunnel", ports if networks else "no laptop is reached"


def _reached(rule: object) -> str:
    """What a rule of the policy's reach permits."""
    known = rule if isinstance(rule, Mapping) else {}
    services = f"{_services(known.get('services'))} in {cell(known.get('namespaces'))}"
    hosts = cell(known["hosts"]) if known.get("hosts") else ""
    where = " and ".join(each for each in (services if known.get("namespaces") else "", hosts) if each)
    every = known.get("ports") in (None, ["1-65535"])
    ports = "" if every else f" at ports {cell(known['ports'])}"
    return f"{where}{ports} by {cell(known.get('protocols'))}"


def _services(patterns: object) -> str:
    if not isinstance(patterns, list) or not patterns:
        return "no service"
    return "every service" if "*" in patterns else cell(patterns)


def in_words(seconds: float) -> str:
    """A span of time, rounded down: 12 days; with the next unit where the first is below ten, since
    8 hours of which a second has passed are not 7: 7 hours 59 minutes."""
    if not math.isfinite(seconds):  # JSON of Python's may hold such numbers
        return "an unknown time"
    place = next((place for place, (_, length) in enumerate(_UNITS) if seconds >= length), len(_UNITS) - 1)
    (unit, length), following = _UNITS[place], _UNITS[place + 1 : place + 2]
    count, rest = divmod(int(seconds), length)
    smaller = [(rest // each, name) for name, each in following if count < 10 and rest >= each]
    return " ".join(
        f"{number} {name}{'' if number == 1 else 's'}" for number, name in [(count, unit), *smaller]
    )
