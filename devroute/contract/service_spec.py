"""The services that a laptop serves, and where their apps listen: the grammar of `b=8001`. Pure."""

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, get_args

from devroute.contract.target import Address, Malformed, check_service, parse_address, parse_host, parse_port
from devroute.quoting import quote

#: Services of one agent: as many as a contract can name.
MAX_SERVICES = 64

#: What an app speaks: HTTP/1.1 (and HTTP/2 for gRPC requests), or HTTP/2 only; with a final s over TLS.
Scheme = Literal["http", "https", "grpc", "grpcs"]


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """A service and the address of its app on the laptop. With `direct`, the proxy connects to that address
    instead of using the tunnel."""

    service: str
    host: str
    port: int
    scheme: Scheme = "http"
    direct: Address | None = None

    @property
    def url(self) -> str:
        """The app's URL for programs on this laptop."""
        return f"{'https' if self.tls else 'http'}://{Address(self.host, self.port)}"

    @property
    def place(self) -> str:
        """The app's address with its scheme, as it can be written on the command line."""
        return f"{self.scheme}://{Address(self.host, self.port)}"

    @property
    def other_place(self) -> str:
        """`place` with TLS if it is without, and without if it is with."""
        scheme = self.scheme.removesuffix("s") if self.tls else f"{self.scheme}s"
        return f"{scheme}://{Address(self.host, self.port)}"

    @property
    def tls(self) -> bool:
        return self.scheme in ("https", "grpcs")

    def as_json(self) -> dict[str, str | None]:
        """For programs: in the events and the control API of `devroute up`."""
        direct = None if self.direct is None else str(self.direct)
        return {"service": self.service, "local": self.place, "direct": direct}

    @classmethod
    def parse(cls, text: str) -> "ServiceSpec":
        """`b=8001`, `b.namespace=8001`, `b=host:8001`, `b=http://host:8001`,
        `b=grpc://localhost:9000`; with TLS `https://` and `grpcs://`. Raises Malformed."""
        service, equals, place = text.partition("=")
        if not equals:
            raise Malformed(f"{quote(text)}: write SERVICE=PORT, such as b=8001")
        try:
            check_service(service)
            scheme, host, port = _local(place)
        except Malformed as problem:
            raise Malformed(f"{quote(text)}: {problem}") from None
        return cls(service, host, port, scheme)


def _local(place: str) -> tuple[Scheme, str, int]:
    scheme: Scheme = "http"
    named, separator, rest = place.partition("://")
    if separator:
        place = rest.removesuffix("/")
        found = next((each for each in get_args(Scheme) if each == named.lower()), None)
        if found is None:
            raise Malformed(
                f"scheme {quote(named)} is not supported; write http:// or grpc://, with TLS https:// or grpcs://"
            )
        scheme = found
    if not place:
        raise Malformed("the port is missing; write SERVICE=PORT, such as b=8001")
    if place.isdigit():
        # localhost and not 127.0.0.1: on many machines, a server on "localhost" listens on ::1 only.
        return scheme, "localhost", parse_port(place)
    if ":" not in place:
        raise Malformed(f"port {quote(place)} is not a number from 1 to 65535")
    address = parse_address(place)
    return scheme, address.host, address.port


def with_direct(services: Iterable[ServiceSpec], direct: str) -> tuple[ServiceSpec, ...]:
    """The services with their `direct` addresses: `HOST` and each service's port, or `HOST:PORT` for a single
    service. Raises Malformed."""
    specs = tuple(services)
    for spec in specs:
        if spec.tls:
            raise Malformed(f"'{spec.service}' is {spec.place}, but the mesh sends cleartext to addresses")
    try:
        whole = parse_address(direct)
    except Malformed:
        host = _bare_host(direct)
        return tuple(replace(spec, direct=Address(host, spec.port)) for spec in specs)
    if len(specs) != 1:
        raise Malformed(
            f"{quote(direct)} has a port, but there are {len(specs)} services; write the host only"
        )
    return (replace(specs[0], direct=whole),)


def _bare_host(text: str) -> str:
    literal = text.removeprefix("[").removesuffix("]")
    if ":" in literal:
        try:
            return str(ipaddress.IPv6Address(literal))
        except ValueError:
            raise Malformed(f"{quote(text)} is not an address; write HOST or HOST:PORT") from None
    return parse_host(literal)


def read_specs(value: object) -> object:
    """Specs from a list of texts, or from a mapping of service to place. Raises ValueError."""
    if isinstance(value, Mapping):
        value = [f"{service}={place}" for service, place in value.items()]
    if not isinstance(value, list | tuple):
        raise ValueError("write a list such as [b=8001]")
    specs = tuple(spec if isinstance(spec, ServiceSpec) else ServiceSpec.parse(str(spec)) for spec in value)
    if len(specs) > MAX_SERVICES:
        raise ValueError(f"{len(specs)} services are given; at most {MAX_SERVICES} are allowed")
    for index, spec in enumerate(specs):
        if any(other.service == spec.service for other in specs[:index]):
            raise ValueError(f"service '{spec.service}' is given twice")
    return specs
