"""The values of a policy file: names, patterns, networks and ports, as pydantic validates them. Pure; raises
ValueError for what breaks a grammar.
"""

import ipaddress
import re
from ipaddress import IPv6Network

from devroute.contract.conditions import MAX_TEXT
from devroute.contract.mesh_identity import URI_PATTERN
from devroute.contract.target import MAX_LABEL
from devroute.policy.ranges import Network
from devroute.quoting import quote

#: `*` in one pattern. Matching gets slower with each, and useful patterns have one or two.
MAX_STARS = 4

#: A host or a pattern. The last label is not a number, as in an IPv4 address.
_HOST = r"([-_a-z0-9*]+\.)+(?![0-9*]+$)[-_a-z0-9*]+"


def network(text: object) -> Network:
    if not isinstance(text, str):
        raise ValueError("a network is a string such as 192.168.0.0/16")
    try:
        found = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{quote(text)} is not a network; write it like 192.168.0.0/16") from None
    if ipaddress.ip_address(text.partition("/")[0]) != found.network_address:
        raise ValueError(f"{quote(text)} has bits set outside its mask; write {found}")
    if isinstance(found, IPv6Network) and found.network_address.ipv4_mapped is not None:
        raise ValueError(f"{quote(text)} is IPv4-mapped; list the IPv4 network")
    return found


def ports(value: object) -> tuple[int, int]:
    """8001 or "1024-65535", as the first and the last port."""
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", str(value))
    if match and not isinstance(value, bool):
        first, last = int(match[1]), int(match[2] or match[1])
        if 1 <= first <= last <= 65535:
            return first, last
    raise ValueError(f"{quote(str(value))} is not a port or a range; write 8001 or 1024-65535")


def _checked(value: object, grammar: str, max_length: int, what: str) -> str:
    text = str(value)
    if not isinstance(value, str | int) or len(text) > max_length or not re.fullmatch(grammar, text):
        raise ValueError(f"{quote(text)} is not {what}")
    if text.count("*") > MAX_STARS:
        raise ValueError(f"{quote(text)} has more than {MAX_STARS} `*`")
    return text


def service(value: object) -> str:
    if not isinstance(value, str):
        value = str(value)
    return _checked(
        value, r"[-a-z0-9*]+", MAX_LABEL, 'a service\'s name or a pattern; write b, team-* or "*"'
    )


def subject(value: object) -> str:
    return _checked(value, r"[-a-z0-9*]+", MAX_LABEL, 'a subject or a pattern; write alice, ci-* or "*"')


def namespace(value: object) -> str:
    return _checked(value, r"[-a-z0-9*]+", MAX_LABEL, 'a namespace or a pattern; write shop, team-* or "*"')


def host(value: object) -> str:
    return _checked(
        value,
        _HOST,
        MAX_TEXT,
        "a host outside of the cluster or a pattern; write db.example.com or *.example.com",
    )


def group(value: object) -> str:
    text = _checked(value, r"[^\x00-\x1f\x7f]+", MAX_TEXT, "the name of a group")
    if "*" in text:
        raise ValueError(f"{quote(text)}: a group is written in full, without `*`")
    return text


def caller(value: object) -> str:
    return _checked(
        value,
        rf"\*|{URI_PATTERN}|[-a-z0-9*]+/[-.a-z0-9*]+",
        MAX_TEXT,
        "a mesh identity or a pattern; write namespace/serviceaccount, namespace/*,"
        ' spiffe://cluster.local/ns/NAMESPACE/sa/SERVICEACCOUNT, or "*" for every caller',
    )


def target(value: object) -> Network | str:
    """A network, or a pattern for the names of laptops, hosts or versions."""
    text = value if isinstance(value, str) else str(value)
    if "/" in text or ":" in text.removeprefix("version:") or re.fullmatch(r"[0-9.]+", text):
        return network(text)
    name = rf"[-a-z0-9*]+|version:[-_.A-Za-z0-9*]+|{_HOST}"
    return _checked(
        text, name, MAX_TEXT,
        "a target; write a laptop's name (alice, ci-*), a network (192.168.0.0/16), a host (*.vpn.example),"
        ' a version (version:v2) or "*"',
    )  # fmt: skip
