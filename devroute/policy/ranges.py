"""Special IP ranges, and IPv6 addresses that stand for IPv4 addresses. Pure; policy/policy.py decides what is
permitted.
"""

import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Network = IPv4Network | IPv6Network
Ip = IPv4Address | IPv6Address
#: A range and its name in messages.
NamedRange = tuple[Network, str]

#: Ranges that are permitted only by a listed network inside them: 127.0.0.0/8 permits loopback, 0.0.0.0/0
#: does not. An address in several ranges needs a network inside each of them.
SPECIAL: tuple[NamedRange, ...] = tuple(
    (ipaddress.ip_network(network), name)
    for network, name in [
        ("0.0.0.0/8", "unspecified"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("169.254.169.254/32", "cloud metadata"),
        ("169.254.170.2/32", "cloud metadata"),  # ECS task credentials
        ("169.254.170.23/32", "cloud metadata"),  # EKS pod identity
        ("100.100.100.200/32", "cloud metadata"),  # Alibaba, inside CGNAT's range
        ("168.63.129.16/32", "cloud metadata"),  # Azure's wire server
        ("192.0.0.192/32", "cloud metadata"),  # Oracle
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("255.255.255.255/32", "broadcast"),
        ("::/96", "IPv4-compatible"),  # RFC 4291 §2.5.5.1, deprecated
        ("::/128", "unspecified"),
        ("::1/128", "loopback"),
        ("::ffff:0:0:0/96", "IPv4-translated"),  # RFC 2765 §2.1
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),  # RFC 3879, deprecated
        ("fd00:ec2::254/128", "cloud metadata"),
        ("fd00:ec2::23/128", "cloud metadata"),
        ("fd20:ce::254/128", "cloud metadata"),
        ("fd00:c1::a9fe:a9fe/128", "cloud metadata"),  # Oracle
        ("fd00:42::42/128", "cloud metadata"),  # Scaleway
        ("ff00::/8", "multicast"),
        ("64:ff9b::/96", "NAT64"),  # RFC 6052 §2.1
        ("64:ff9b:1::/48", "local NAT64"),  # RFC 8215
        ("2002::/16", "6to4"),  # RFC 3056
        ("2001::/32", "Teredo"),  # RFC 4380
    ]
)
#: Ranges whose addresses end with the IPv4 address for which they stand.
_EMBEDDING = tuple(map(IPv6Network, ("::/96", "64:ff9b::/96", "::ffff:0:0:0/96")))
#: The 32 bits before the IPv4 address in an ISATAP address (RFC 5214 §6.1).
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


def is_inside(network: Network, outer: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(outer, IPv4Network) and network.subnet_of(outer)
    return isinstance(outer, IPv6Network) and network.subnet_of(outer)


def is_covered(ip: Ip, networks: Iterable[Network]) -> bool:
    return any(ip in network for network in networks)


def effective_addresses(ip: Ip) -> tuple[Ip, ...]:
    """The addresses that a packet to `ip` may reach; each must be permitted.

    An IPv4-mapped address (RFC 4291 §2.5.5.2) is that IPv4 address only. A translated or tunnelled address
    is itself, in a special range, and the IPv4 address inside it.
    """
    if isinstance(ip, IPv4Address):
        return (ip,)
    if ip.ipv4_mapped is not None:
        return (ip.ipv4_mapped,)
    if ip.sixtofour is not None:
        return ip, ip.sixtofour
    if ip.teredo is not None:
        return ip, *ip.teredo
    number = int(ip)
    if (number > 1 and is_covered(ip, _EMBEDDING)) or number >> 32 & 0xFFFFFFFF in _ISATAP:
        return ip, IPv4Address(number & 0xFFFFFFFF)
    return (ip,)
