"""The targets of a contract: an address, a laptop or a version. Owns the grammar of names, hosts and ports.
Pure; never resolves a name and never checks whether a target is permitted (policy/policy.py).
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final

from devroute.quoting import quote

#: A DNS label (RFC 1123 §2.1): the names of Kubernetes Services, of namespaces and of laptops.
MAX_LABEL = 63
#: A DNS name without its final dot (RFC 1035 §2.3.4, as text).
MAX_HOST = 253

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_HOST_LABEL = re.compile(r"[a-z0-9_](?:[-a-z0-9_]*[a-z0-9_])?")
_VERSION = re.compile(r"[A-Za-z0-9](?:[-_.A-Za-z0-9]*[A-Za-z0-9])?")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_VERSION_PREFIX = "version:"


class Malformed(ValueError):
    """A text breaks its grammar. The message says what is wrong and what to write instead; the caller, which
    knows the place (contract, flag, file), adds that."""


@dataclass(frozen=True, slots=True)
class Address:
    """`host` is an IP literal in canonical form or a DNS name in lower case, `port` is 1 to 65535."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_literal(self) -> bool:
        """Whether the host is an IP address, and not a name that has to be resolved."""
        return ":" in self.host or bool(_NUMERIC.fullmatch(self.host.rpartition(".")[2]))


@dataclass(frozen=True, slots=True)
class Laptop:
    """A laptop that `devroute up` registered, through a tunnel or with an address."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Version:
    """Another version of the service inside the mesh, as named by its pods or its DestinationRule."""

    name: str

    @property
    def subset(self) -> str:
        """Its subset in the DestinationRule. Istio requires a DNS label there, so v1.2 becomes v1-2."""
        return subset_name(self.name)

    def __str__(self) -> str:
        return _VERSION_PREFIX + self.name


def subset_name(version: str) -> str:
    """The subset of a version, as a DNS label."""
    return re.sub(r"[._]", "-", version.lower())


Target = Address | Laptop | Version


#: Between the subject and the rest of a laptop's name.
SUFFIX_SEPARATOR: Final = "--"


def check_label(text: str, what: str) -> str:
    """A name of a service, namespace, laptop or subject, unchanged. Raises Malformed."""
    if len(text) > MAX_LABEL:
        raise Malformed(f"{what} is longer than {MAX_LABEL} characters")
    if not _LABEL.fullmatch(text):
        likely = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
        advice = f"; write {likely}" if _LABEL.fullmatch(likely) else ""
        raise Malformed(f"{what} consists of a-z, 0-9 and inner hyphens{advice}")
    return text


def check_subject(text: str) -> str:
    """A subject, unchanged: a label in which SUFFIX_SEPARATOR cannot occur, so that no name of one subject
    is one of another. Raises Malformed."""
    check_label(text, "a subject")
    if SUFFIX_SEPARATOR in text:
        raise Malformed(
            f"a subject has no '{SUFFIX_SEPARATOR}', which separates it from the rest of a laptop's name;"
            f" write {re.sub('-+', '-', text)}"
        )
    return text


def check_service(text: str) -> str:
    """A service as contracts name it, `b` or `b.namespace`, unchanged. Raises Malformed."""
    service, dot, namespace = text.partition(".")
    if "." in namespace:
        short = ".".join(text.split(".")[:2])
        raise Malformed(f"a service is NAME or NAME.NAMESPACE; write {quote(short)}")
    check_label(service, "a service's name")
    if dot:
        check_label(namespace, "a namespace's name")
    return text


def parse_port(text: str) -> int:
    """1 to 65535 in decimal digits without leading zeros. Raises Malformed."""
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise Malformed(f"port {quote(text)} is not a number from 1 to 65535")
    return int(text)


def parse_host(text: str) -> str:
    """A DNS name, or an IPv4 literal in its one canonical form. Raises Malformed.

    If the last label is a number, the text must be a canonical IPv4 address (WHATWG URL, "ends in a number"):
    inet_aton would also read octal, hexadecimal and short forms.
    """
    if not text.isascii():  # lower() makes ASCII of some: the Kelvin sign becomes a k
        raise Malformed(f"{quote(text)} is not ASCII; write an international name in its xn-- form")
    host = text.lower()
    if not host:
        raise Malformed("the host is missing; write HOST:PORT, such as 192.168.1.12:8001")
    if len(host) > MAX_HOST:
        raise Malformed(f"the host is longer than {MAX_HOST} characters")
    if host.endswith("."):
        raise Malformed(f"the host ends with a dot; write {parse_host(host.rstrip('.'))}")
    labels = host.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise Malformed(
                f"{quote(text)} is not an IPv4 address in its usual form"
                " (four numbers from 0 to 255, no leading zeros)"
            ) from None
    if any(len(label) > MAX_LABEL or not _HOST_LABEL.fullmatch(label) for label in labels):
        raise Malformed(f"{quote(text)} is neither an IP address nor a host name")
    return host


def parse_address(text: str) -> Address:
    """`192.168.1.12:8001`, `[fd00::1]:8001` or `host:8001`. Raises Malformed."""
    if text.startswith("["):
        literal, bracket, rest = text[1:].partition("]")
        host = _ipv6(literal) if bracket else None
        if host is None:
            raise Malformed("the text in the brackets is not an IPv6 address; write it like [fd00::1]:8001")
        if not rest.startswith(":") or rest == ":":
            raise Malformed(f"a port is missing; write [{host}]:8001")
        return Address(host, parse_port(rest[1:]))
    if text.count(":") > 1:
        raise Malformed(f"an IPv6 address needs brackets; write {_bracketed(text)}")
    host, colon, port = text.partition(":")
    if not port:
        raise Malformed(f"a port is missing; write {_with_port(host)}")
    if not colon:
        raise Malformed("a port is missing")
    digits = port.partition("/")[0]
    if digits != port and digits.isdigit():
        raise Malformed(f"an address has no path; write {Address(parse_host(host), parse_port(digits))}")
    return Address(parse_host(host), parse_port(port))


def parse_target(text: str) -> Target:
    """The text of a target: an address, a laptop's name or `version:NAME`. Raises Malformed."""
    if not text:
        raise Malformed(
            "it is empty; write an address such as 192.168.1.12:8001 or a laptop's name such as alice"
        )
    if text != text.strip():
        raise Malformed(f"there is white space around it; write {quote(text.strip())}")
    if "://" in text:
        scheme, _, rest = text.partition("://")
        raise Malformed(
            f"a target has no scheme; leave out {quote(scheme + '://')} and write {_authority(rest)}"
        )
    if text.startswith(_VERSION_PREFIX):
        name = text.removeprefix(_VERSION_PREFIX)
        if len(name) > MAX_LABEL or not _VERSION.fullmatch(name):
            raise Malformed("a version is the name of a subset; write it like version:v2")
        return Version(name)
    if any(mark in text for mark in ":.["):
        return parse_address(text)
    try:
        return Laptop(check_label(text, "a laptop's name"))
    except Malformed as problem:
        raise Malformed(f"{problem}; an address is written like 192.168.1.12:8001") from None


def _ipv6(text: str) -> str | None:
    """The canonical form (RFC 5952), or None. A zone id (RFC 4007 §11) has no meaning on another machine."""
    try:
        return str(ipaddress.IPv6Address(text)) if "%" not in text else None
    except ValueError:
        return None


def _bracketed(text: str) -> str:
    head, _, tail = text.rpartition(":")
    if tail.isdigit() and _ipv6(head) is not None:
        return f"[{head}]:{tail}"
    return f"[{text}]:8001" if _ipv6(text) is not None else "it like [fd00::1]:8001"


def _with_port(host: str) -> str:
    """The target that was most likely meant, for one without a port."""
    likely = re.fullmatch(r"(.*[^_])_([1-9][0-9]{0,4})", host)
    name, port = likely.groups() if likely else (host, "8001")
    try:
        return f"{parse_host(name)}:{port}"
    except Malformed:
        return "HOST:PORT, such as 192.168.1.12:8001"


def _authority(rest: str) -> str:
    authority = rest.partition("/")[0]
    try:
        return str(parse_address(authority))
    except Malformed:
        return "HOST:PORT, such as 192.168.1.12:8001"
