"""An Istio-shaped ingress gateway, as Envoy's bootstrap configuration. Pure: values in, a document out.

Beside mesh/istio/sidecar.py, whose parts it shares: names, nesting and order are those that istiod sends, so
that an EnvoyFilter's patches find the places they name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from devroute.mesh.istio.sidecar import (
    ANY_PORT,
    Document,
    Endpoint,
    address,
    cluster,
    connection_manager,
    listener,
    route_to,
)

LISTENER = "0.0.0.0_8080"


@dataclass(frozen=True, slots=True)
class Gateway:
    """An ingress gateway: `hosts` maps host names to where they are served; `clusters` maps further cluster
    names to endpoints."""

    hosts: Mapping[str, Endpoint]
    clusters: Mapping[str, Endpoint] = field(default_factory=dict)
    namespace: str = "istio-system"
    labels: Mapping[str, str] = field(default_factory=lambda: {"istio": "ingressgateway"})


def bootstrap(gateway: Gateway) -> Document:
    """The whole configuration of one gateway; the kernel chooses the ports of its listeners."""
    clusters = {_cluster_name(host): endpoint for host, endpoint in gateway.hosts.items()}
    clusters |= gateway.clusters
    manager = connection_manager(
        f"outbound_{LISTENER}", "http.8080", [_virtual_host(host) for host in gateway.hosts]
    )
    manager["use_remote_address"] = True
    manager["xff_num_trusted_hops"] = 0
    manager["forward_client_cert_details"] = "SANITIZE_SET"
    return {
        "node": {"id": f"router~127.0.0.1~gateway.{gateway.namespace}", "cluster": "istio-ingressgateway"},
        "admin": {"address": address(ANY_PORT)},
        "static_resources": {
            # Istio counts a gateway's listeners as outbound.
            "listeners": [listener(LISTENER, "OUTBOUND", manager)],
            "clusters": [cluster(name, endpoint) for name, endpoint in clusters.items()],
        },
    }


def _cluster_name(host: str) -> str:
    return f"outbound|80||{host}"


def _virtual_host(host: str) -> Document:
    route = {"name": host.partition(".")[0], **route_to(_cluster_name(host), f"{host}:80/*")}
    return {"name": f"{host}:8080", "domains": [host, f"{host}:*"], "routes": [route]}
