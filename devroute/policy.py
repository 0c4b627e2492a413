"""What may be detoured, and to which addresses; denied by default. Owns the policy file and its rules.

Pure; never resolves a name: whoever does asks `permit_address` about each address it got, and connects to no
other. A reload makes a new Policy, so a judgement may be kept for as long as its Policy is.

    direct:
      networks: [192.168.0.0/16, 100.64.0.0/10]     # default: none, so only tunnels
      ports: [1024-65535]
    services: ["*"]                                 # or foo, team-*
"""

import ipaddress
import re
from dataclasses import dataclass
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from devroute.contract import Entry
from devroute.errors import ConfigInvalid, TargetDenied
from devroute.target import Address, quote

#: Bytes of a policy file; a ConfigMap cannot be larger.
MAX_FILE = 1024 * 1024

_Network = IPv4Network | IPv6Network
_Ip = IPv4Address | IPv6Address

#: Ranges that a listed network includes only by naming them: it has to lie inside the range, as 127.0.0.0/8
#: does and 0.0.0.0/0 does not. An address in several of them needs each of them named.
_SPECIAL: tuple[tuple[_Network, str], ...] = tuple(
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
        ("fe80::/10", "link-local"),
        ("fd00:ec2::254/128", "cloud metadata"),
        ("fd00:ec2::23/128", "cloud metadata"),
        ("fd20:ce::254/128", "cloud metadata"),
        ("ff00::/8", "multicast"),
        ("64:ff9b::/96", "NAT64"),  # RFC 6052 §2.1
        ("64:ff9b:1::/48", "local NAT64"),  # RFC 8215
        ("2002::/16", "6to4"),  # RFC 3056
        ("2001::/32", "Teredo"),  # RFC 4380
    ]
)
_COMPATIBLE = IPv6Network("::/96")
_NAT64 = IPv6Network("64:ff9b::/96")


def _network(text: object) -> _Network:
    if not isinstance(text, str):
        raise ValueError("a network is a text such as 192.168.0.0/16")
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{quote(text)} is not a network; write it like 192.168.0.0/16") from None
    host = text.partition("/")[0]
    if ipaddress.ip_address(host) != network.network_address:
        raise ValueError(f"{quote(text)} has bits set outside its mask; write {network}")
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError(f"{quote(text)} is IPv4 in disguise; list the IPv4 network")
    return network


def _ports(value: object) -> tuple[int, int]:
    """8001 or "1024-65535" as first and last."""
    match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", str(value))
    if match and not isinstance(value, bool):
        first, last = int(match[1]), int(match[2] or match[1])
        if 1 <= first <= last <= 65535:
            return first, last
    raise ValueError(f"{quote(str(value))} is not a port or a range; write 8001 or 1024-65535")


def _pattern(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[-a-z0-9*]{1,63}", value):
        raise ValueError(
            f'{quote(str(value))} is not a service\'s name or a pattern; write foo, team-* or "*"'
        )
    return value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DirectSection(_Section):
    """Which addresses a contract or a registration may name."""

    networks: tuple[Annotated[Any, BeforeValidator(_network)], ...] = ()
    ports: tuple[Annotated[Any, BeforeValidator(_ports)], ...] = ((1024, 65535),)


class PolicyFile(_Section):
    """The file as it is written."""

    direct: DirectSection = DirectSection()
    services: tuple[Annotated[str, BeforeValidator(_pattern)], ...] = ("*",)


@dataclass(frozen=True, slots=True, eq=False)
class Policy:
    """The rules in force. Compared and hashed by identity, so that judgements can be kept per policy."""

    networks: tuple[_Network, ...] = ()
    ports: tuple[tuple[int, int], ...] = ((1024, 65535),)
    services: tuple[str, ...] = ("*",)

    @classmethod
    def parse(cls, text: str, source: str = "policy.yaml") -> "Policy":
        """The policy in a file's text; an empty one is the default. Raises ConfigInvalid naming `source`."""
        if len(text) > MAX_FILE:
            raise ConfigInvalid(f"{source}: larger than {MAX_FILE} bytes")
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigInvalid(f"{source}: not valid YAML: {' '.join(str(error).split())}") from None
        return cls.from_mapping({} if document is None else document, source)

    @classmethod
    def from_mapping(cls, document: object, source: str = "policy.yaml") -> "Policy":
        """The policy in a parsed file. Raises ConfigInvalid naming `source` and the field."""
        if not isinstance(document, dict):
            raise ConfigInvalid(f"{source}: write a mapping with `direct:` and `services:`")
        try:
            file = PolicyFile.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(step) for step in first["loc"])
            problem = first["msg"].removeprefix("Value error, ")
            if first["type"] == "extra_forbidden":
                problem = "there is no such field; the fields are direct.networks, direct.ports and services"
            raise ConfigInvalid(f"{source}: {place}: {problem}") from None
        return cls(file.direct.networks, file.direct.ports, file.services)

    def permit(self, entry: Entry) -> None:
        """Judge a contract's entry, as far as that goes without resolving names. Raises TargetDenied."""
        self.permit_service(entry.service)
        if isinstance(entry.target, Address):
            self.permit_target(entry.target, service=entry.service)

    def permit_service(self, service: str) -> None:
        """Raises TargetDenied where the service may not be detoured at all."""
        if not any(fnmatchcase(service, pattern) for pattern in self.services):
            raise TargetDenied(
                f"service '{service}': policy does not let it be detoured",
                hint=f"the platform team can add '{service}' to services in the policy",
                service=service,
            )

    def permit_target(self, address: Address, *, service: str) -> None:
        """Judge a direct target; a name only by its port, and by whether any address at all is permitted.
        Raises TargetDenied."""
        if address.is_literal:
            self.permit_address(address.host, address.port, service=service)
            return
        if not self.networks:
            raise self._denied(
                address,
                service,
                "no networks are listed",
                "the platform team can list networks in direct.networks",
            )
        self._permit_port(address, service)

    def permit_address(self, host_ip: str, port: int, *, service: str) -> None:
        """Judge an IP address that is about to be connected to. Raises TargetDenied naming the rule."""
        address = Address(host_ip, port)
        try:
            if "%" in host_ip:
                raise ValueError("zone id")
            written = ipaddress.ip_address(host_ip)
        except ValueError:
            raise self._denied(
                address,
                service,
                "it is not an IP address in its usual form",
                "write four decimal numbers such as 192.168.1.12, or IPv6 without a zone",
            ) from None
        for ip in _faces(written):
            self._permit_ip(ip, address, service)
        self._permit_port(address, service)

    def _permit_ip(self, ip: _Ip, address: Address, service: str) -> None:
        covering = [network for network in self.networks if ip in network]
        for special, name in _SPECIAL:
            if ip in special and not any(_inside(network, special) for network in covering):
                raise self._denied(
                    address,
                    service,
                    f"{ip} is in the {name} range {special}, which has to be listed by itself",
                    f"the platform team can add {ip}/{ip.max_prefixlen} to direct.networks in the policy",
                )
        if not covering:
            raise self._denied(
                address,
                service,
                f"{ip} is in none of the listed networks",
                f"the platform team can add {ip}/{ip.max_prefixlen} or its network to direct.networks",
            )

    def _permit_port(self, address: Address, service: str) -> None:
        if not any(first <= address.port <= last for first, last in self.ports):
            raise self._denied(
                address,
                service,
                f"port {address.port} is not listed",
                f"use another port, or ask the platform team to add {address.port} to direct.ports",
            )

    def _denied(self, address: Address, service: str, rule: str, hint: str) -> TargetDenied:
        return TargetDenied(
            f"service '{service}': target {quote(str(address))}: denied by policy: {rule}",
            hint=hint,
            service=service,
            target=str(address),
        )


def _inside(network: _Network, outer: _Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(outer, IPv4Network) and network.subnet_of(outer)
    return isinstance(outer, IPv6Network) and network.subnet_of(outer)


def _faces(ip: _Ip) -> list[_Ip]:
    """The addresses that a packet to `ip` may end at; each has to be permitted.

    A mapped address (RFC 4291 §2.5.5.2) is IPv4 and nothing else. Translated and tunnelled ones are
    themselves, in a range that has to be named, and the IPv4 address inside them.
    """
    if isinstance(ip, IPv4Address):
        return [ip]
    if ip.ipv4_mapped is not None:
        return [ip.ipv4_mapped]
    if ip.sixtofour is not None:
        return [ip, ip.sixtofour]
    if ip.teredo is not None:
        return [ip, *ip.teredo]
    if ip in _NAT64 or (ip in _COMPATIBLE and int(ip) > 1):
        return [ip, IPv4Address(int(ip) & 0xFFFFFFFF)]
    return [ip]
