"""The parts of an installation that let laptops reach the mesh: the policy's rules, what the proxy has to
know of the cluster, packets out of its pod, an example for callees. Pure.
"""

import ipaddress
import re
from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

from devroute.errors import ConfigInvalid
from devroute.headers import SUBJECT
from devroute.mesh.manifests.model import Document, ProxyService, manifest, metadata_of
from devroute.quoting import quote

#: The example's service and people.
EXAMPLE_NAMESPACE: Final = "shop"
_GIVEN: Final = re.compile(r"(?:(tcp|http)://)?([^:/]+?)(?::(\d{1,5}))?")
_SETTING: Final = "DEVROUTE_REACH"


class Reachable(NamedTuple):
    """Services of a namespace, each a pattern, or a host outside of the cluster; then `namespace` is "".
    Without a port it is any."""

    protocol: Literal["http", "tcp"]
    name: str
    namespace: str
    port: int | None

    @property
    def is_outside(self) -> bool:
        return not self.namespace

    def __str__(self) -> str:
        name = f"{self.name}.{self.namespace}" if self.namespace else self.name
        port = "" if self.port is None else f":{self.port}"
        return f"{'tcp://' if self.protocol == 'tcp' else ''}{name}{port}"

    @property
    def rule(self) -> Document:
        """For the policy's section `reach`: all laptops."""
        where = {"services": [self.name], "namespaces": [self.namespace]}
        return {
            "subjects": ["*"],
            **({"hosts": [self.name]} if self.is_outside else where),
            **({} if self.port is None else {"ports": [self.port]}),
            "protocols": [self.protocol],
        }


def read_reachable(text: str) -> Reachable:
    """Of "c.shop:80", "*.shop", "tcp://orders-db.data:5432" or "api.vendor.example:443". Raises
    ConfigInvalid."""
    found = _GIVEN.fullmatch(text)
    labels = found[2].split(".") if found else []
    port = int(found[3]) if found and found[3] else None
    in_cluster = len(labels) == 2
    if found is None or len(labels) < 2 or "svc" in labels[2:3] or port == 0 or (port or 0) > 65535:
        hint = "write SERVICE.NAMESPACE[:PORT], *.NAMESPACE or HOST[:PORT], with tcp:// in front for bytes"
        raise ConfigInvalid(f"reach: {quote(text)} is no service in a namespace, and no host", hint=hint)
    if not in_cluster and labels[-1].isdigit():  # of no host's name (RFC 3696 §2)
        raise ConfigInvalid(f"reach: {quote(text)} is an address; laptops reach what has a name")
    protocol: Literal["http", "tcp"] = "tcp" if found[1] == "tcp" else "http"
    name, namespace = labels if in_cluster else (found[2], "")
    return Reachable(protocol, name, namespace, port)


def check_reach(
    reach: Sequence[Reachable], networks: Sequence[str], denied: Sequence[str], *, mesh_egress: bool
) -> None:
    """Raises ConfigInvalid for what could reach nothing. `denied`: the namespaces that no laptop reaches."""
    for each in reach:
        if each.namespace in denied:
            raise ConfigInvalid(
                f"reach: {quote(str(each))} is in a namespace that no laptop reaches",
                hint=f"whatever the policy lists: these are {', '.join(denied)}",
            )
        if each.protocol == "http" and not mesh_egress:
            raise ConfigInvalid(
                f"reach: {quote(str(each))} by HTTP needs the sidecar's listener into the mesh",
                hint="leave out --no-mesh-egress, or write tcp://",
            )
        if each.is_outside and not networks:
            raise ConfigInvalid(
                f"reach: the NetworkPolicy lets nothing out to {quote(str(each))}",
                hint="add its network: --reach-network CIDR",
            )
    for network in networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise ConfigInvalid(f"reach_networks: {error}") from None
    if networks and not any(each.is_outside for each in reach):
        raise ConfigInvalid("reach_networks: they are where hosts outside of the cluster are; reach has none")


def environment(domain: str, denied: Sequence[str], namespace: str | None) -> list[Document]:
    """Settings of the proxy that follow from where everything is: the cluster's domain, and the `denied`
    namespaces of the infrastructure, the proxy's own first. `namespace`: of names that have none."""
    settings = {
        "DOMAIN": domain,
        "DENIED_NAMESPACES": ",".join(denied),
        **({} if namespace is None else {"NAMESPACE": namespace}),
    }
    return [{"name": f"{_SETTING}_{name}", "value": value} for name, value in settings.items()]


def egress_rules(
    reach: Sequence[Reachable], blocks: Sequence[Document], *, mesh_egress: bool
) -> list[dict[str, Any]]:
    """Rules of the NetworkPolicy. `blocks`: where hosts outside of the cluster are. Into namespaces with all
    ports, since a rule has the pods' ports, and a Service others; none where the way into the mesh is open
    already."""
    rules: list[dict[str, Any]] = []
    inside = dict.fromkeys(each.namespace for each in reach if not each.is_outside)
    if inside and not mesh_egress:
        any_of_them = any("*" in each for each in inside)
        names = [{"matchLabels": {"kubernetes.io/metadata.name": each}} for each in inside]
        rules.append({"to": [{"namespaceSelector": each} for each in ([{}] if any_of_them else names)]})
    outside = [each for each in reach if each.is_outside]
    if outside:
        ports = dict.fromkeys(each.port for each in outside)
        listed = [{"protocol": "TCP", "port": each} for each in ports]
        rules.append({"to": list(blocks), **({} if None in ports else {"ports": listed})})
    return rules


def callee_policy(proxy: ProxyService) -> Document:
    """Lets two people's laptops reach a service that has AuthorizationPolicies; the caller is the proxy."""
    principal = f"cluster.local/ns/{proxy.namespace}/sa/{proxy.name}"
    people = {"key": f"request.headers[{SUBJECT}]", "values": ["alice", "bob"]}
    spec = {
        "selector": {"matchLabels": {"app": "c"}},
        "action": "ALLOW",
        "rules": [{"from": [{"source": {"principals": [principal]}}], "when": [people]}],
    }
    metadata = metadata_of("laptops", EXAMPLE_NAMESPACE)
    return manifest("security.istio.io/v1", "AuthorizationPolicy", metadata, spec)
