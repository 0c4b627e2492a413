"""The Redis that several replicas share, as the manifests need it: whether its URL suits pods, and where it
is. Pure.

The URL may hold a password, so it stands in a Secret, and nothing but its hosts and ports enters a manifest.
"""

import ipaddress
import shlex
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from devroute.errors import ConfigInvalid
from devroute.quoting import quote
from devroute.replicas.redis_url import SCHEMES, places

#: The Secret's name, and its key that holds the URL.
SECRET, URL_KEY = "devroute-registry", "url"
#: The forms of URLs that pods can use: those that lead over the network.
_SCHEMES = tuple(each for each in SCHEMES if each != "unix")


@dataclass(frozen=True, slots=True)
class Registry:
    """`networks` are where it is, if that is not in a namespace that its host names. Raises ConfigInvalid,
    without the URL."""

    url: str = field(repr=False)
    networks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        try:
            hosts = self.places if urlsplit(self.url).scheme in _SCHEMES else []
        except ValueError:  # urlsplit's, of a bracket without the other
            hosts = []
        if not hosts or not all(host for host, _ in hosts):
            forms = ", ".join(f"{each}://" for each in _SCHEMES)
            raise ConfigInvalid(f"registry: write a URL with a host that starts with {forms}")
        for network in self.networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ConfigInvalid(f"registry_networks: {error}") from None
        outside = [host for host, _ in hosts if not is_address(host) and namespace_of(host, "") is None]
        if outside and not self.networks:
            raise ConfigInvalid(
                f"registry: {quote(outside[0])} is no Service of the cluster, and the proxy's NetworkPolicy"
                " needs its addresses",
                hint="name its network: --registry-network CIDR",
            )

    @property
    def places(self) -> list[tuple[str, int]]:
        return places(self.url)

    @property
    def port(self) -> int | None:
        """None where those that are dialled first name others, with ports of their own."""
        return None if "+" in urlsplit(self.url).scheme else self.places[0][1]


def namespace_of(host: str, own: str) -> str | None:
    """The namespace of a Service's name as the cluster's DNS knows it (`redis`, `redis.tools`,
    `redis.tools.svc...`), None for another name. `own` is that of the pods that ask."""
    labels = host.split(".")
    if len(labels) == 1:
        return own
    return labels[1] if len(labels) == 2 or labels[2] == "svc" else None


def is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def secret_command(namespace: str, registry: Registry) -> str:
    """Creates the Secret. A URL that may hold a password is not repeated: it is taken from the variable of
    the proxy's setting."""
    plain = "@" not in registry.url and not urlsplit(registry.url).query
    url = shlex.quote(registry.url) if plain else '"$DEVROUTE_REGISTRY"'
    return f"kubectl --namespace {namespace} create secret generic {SECRET} --from-literal={URL_KEY}={url}"
