"""Services of the mesh as programs on this laptop name them, and their local ports: `c.shop:80`,
`tcp://orders-db:5432` and `9002=c.shop:80`. Pure; the grammar of names is contract/destination.py's.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from devroute.contract.destination import parse_destination
from devroute.contract.target import Malformed, parse_port
from devroute.quoting import quote

#: Services of one agent.
MAX_FORWARDS: Final = 64

_TCP: Final = "tcp://"
_SCHEMES: Final = ("http://", _TCP)
#: Of names with two labels, those that end so are of the internet, and no service in a namespace.
_PUBLIC: Final = frozenset(("com", "edu", "gov", "io", "net", "org"))


@dataclass(frozen=True, slots=True)
class MeshPort:
    """A port of a service in the mesh: HTTP, where devroute reads the requests, or bytes (`tcp`). The name is
    as it was written: which namespace one without stands for is the proxy's to know."""

    host: str
    port: int
    tcp: bool = False

    def __str__(self) -> str:
        """As the proxy reads it."""
        return f"{_TCP if self.tcp else ''}{self.address}"

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def authority(self) -> str:
        """The Host by which the mesh's routes know it."""
        return self.host if self.port == 80 else self.address

    @classmethod
    def parse(cls, text: str) -> "MeshPort":
        """Raises Malformed."""
        scheme, separator, rest = text.partition("://")
        if separator and f"{scheme}://" not in _SCHEMES:
            raise Malformed(f"scheme {quote(scheme)} is not supported; write NAME:PORT, or tcp://NAME:PORT")
        rest = (rest if separator else text).removesuffix("/")
        if rest.startswith("tcp:"):
            raise Malformed(f"write {quote(f'{_TCP}{rest[4:]}')}")
        if rest.startswith(":") or not rest:
            raise Malformed("the name is missing; write NAME:PORT, such as c.shop:80")
        if ":" not in rest:
            raise Malformed(f"a port is missing; write {quote(f'{rest}:80')}, with the port of the service")
        to = parse_destination(rest)
        return cls(rest.rpartition(":")[0].lower(), to.port, f"{scheme}://" == _TCP)


def is_of_the_mesh(host: str) -> bool:
    """Whether a name can be that of a service: NAME, NAME.NAMESPACE, NAME.NAMESPACE.svc and what follows."""
    labels = host.split(".")
    if len(labels) == 2:
        return labels[1] not in _PUBLIC
    return ":" not in host and (len(labels) == 1 or labels[2] == "svc")


@dataclass(frozen=True, slots=True)
class Forward:
    """A destination with a local port of its own; None for one that devroute chooses."""

    to: MeshPort
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> "Forward":
        """`c.shop:80`, `9002=c.shop:80` or `tcp://orders-db:5432`. Raises Malformed."""
        port, equals, rest = text.partition("=")
        try:
            if equals:
                return cls(MeshPort.parse(rest), parse_port(port))
            return cls(MeshPort.parse(text))
        except Malformed as problem:
            raise Malformed(f"{quote(text)}: {problem}") from None


def read_forwards(value: object) -> tuple[Forward, ...]:
    """From a list of texts, or from one text of several words. Raises ValueError."""
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    if not isinstance(value, list | tuple):
        raise ValueError("write a list such as [c.shop:80, tcp://orders-db:5432]")
    forwards = tuple(each if isinstance(each, Forward) else Forward.parse(str(each)) for each in value)
    if len(forwards) > MAX_FORWARDS:
        raise ValueError(f"{len(forwards)} services are given; at most {MAX_FORWARDS} are allowed")
    _check_unique((str(each.to) for each in forwards), "")
    _check_unique((str(each.port) for each in forwards if each.port is not None), "local port ")
    return forwards


def _check_unique(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what}{quote(name)} is given twice")
        seen.add(name)
