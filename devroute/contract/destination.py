"""What a laptop reaches in the mesh: `c.shop:80`, `tcp://orders-db:5432`. Owns the grammar, on the laptop and
in the proxy. Pure; never resolves a name and never checks whether it may be reached (policy/policy.py).
"""

from dataclasses import dataclass
from typing import Final, Literal

from devroute.contract.target import Malformed, check_label, parse_address
from devroute.quoting import quote

Protocol = Literal["http", "tcp"]

#: Of names without a namespace, and the domain of the cluster, unless the proxy's settings say otherwise.
DEFAULT_NAMESPACE: Final = "default"
DEFAULT_DOMAIN: Final = "cluster.local"

_TCP: Final = "tcp://"
_HTTP: Final = "http://"


@dataclass(frozen=True, slots=True)
class Destination:
    """A service in a namespace, or a host outside of the cluster; then `namespace` is ""."""

    protocol: Protocol
    name: str
    namespace: str
    port: int

    def __str__(self) -> str:
        """As it is written, with its namespace."""
        name = f"{self.name}.{self.namespace}" if self.namespace else self.name
        return f"{_TCP if self.protocol == 'tcp' else ''}{name}:{self.port}"

    def host(self, domain: str) -> str:
        """The name by which mesh and DNS know it; `domain` is the cluster's own."""
        return f"{self.name}.{self.namespace}.svc.{domain}" if self.namespace else self.name


def parse_destination(
    text: str, namespace: str = DEFAULT_NAMESPACE, domain: str = DEFAULT_DOMAIN
) -> Destination:
    """`NAME[.NAMESPACE]:PORT`, or a host of three or more labels, with `tcp://` in front for bytes.
    `namespace`: of names without one; `domain`: of the cluster. Raises Malformed."""
    protocol: Protocol = "tcp" if text.startswith(_TCP) else "http"
    address = parse_address(text.removeprefix(_TCP).removeprefix(_HTTP))
    if address.is_literal:
        raise Malformed(f"{quote(text)} is an address; write a name, which the policy can judge")
    host = address.host.removesuffix(f".{domain}")
    labels = host.split(".")
    if len(labels) == 3 and labels[2] == "svc":
        del labels[2]
    if len(labels) > 2:
        if host != address.host or labels[-1] == "svc":
            raise Malformed(f"{quote(text)} is in the cluster, but no service; write NAME.NAMESPACE:PORT")
        return Destination(protocol, host, "", address.port)
    check_label(labels[0], "a service's name")
    if len(labels) == 2:
        namespace = check_label(labels[1], "a namespace's name")
    return Destination(protocol, labels[0], namespace, address.port)
