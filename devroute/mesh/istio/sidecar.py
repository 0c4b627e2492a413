"""An Istio-shaped sidecar, as Envoy's bootstrap configuration. Pure: a typed description in, a document out.

The names, nesting and order are those that istiod sends (listener, route configuration, virtual host,
clusters), so that an EnvoyFilter's patches find the places they name. Three things differ, since there is no
iptables here: the inbound listener has a port of its own, the application's cluster is STATIC instead of
ORIGINAL_DST, and the outbound listener takes requests for any service and routes them by their Host.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

Document = dict[str, Any]

HCM = "envoy.filters.network.http_connection_manager"
HCM_TYPE = (
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
)
TLS_INSPECTOR_TYPE = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"
#: The filters of an Istio sidecar that stock Envoy has too, in order.
HTTP_FILTERS = {
    "envoy.filters.http.grpc_stats": "grpc_stats.v3.FilterConfig",
    "envoy.filters.http.fault": "fault.v3.HTTPFault",
    "envoy.filters.http.cors": "cors.v3.Cors",
    "envoy.filters.http.router": "router.v3.Router",
}

#: What istiod adds to a cluster whose DestinationRule has useClientProtocol.
_AS_CLIENT: Document = {
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}},
        }
    }
}

INBOUND, OUTBOUND = "virtualInbound", "virtualOutbound"


class Endpoint(NamedTuple):
    """An IP address and a port; port 0 lets the kernel choose."""

    host: str
    port: int


ANY_PORT = Endpoint("127.0.0.1", 0)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """One workload: its service, where the app listens, and which services and clusters it can reach.

    `services` maps the names that the app may call to the inbound listeners of their sidecars; `clusters`
    maps further cluster names, as an EnvoyFilter names them, to endpoints.
    `as_client` names the clusters whose DestinationRule has `useClientProtocol`; all others get HTTP/1.1.
    """

    service: str
    app: Endpoint
    namespace: str = "default"
    labels: Mapping[str, str] = field(default_factory=dict)
    port: int = 8080
    services: Mapping[str, Endpoint] = field(default_factory=dict)
    clusters: Mapping[str, Endpoint] = field(default_factory=dict)
    as_client: Collection[str] = ()

    @property
    def local(self) -> str:
        """The name of the app's own cluster."""
        return f"inbound|{self.port}||"

    @property
    def host(self) -> str:
        return self.host_of(self.service)

    def host_of(self, service: str) -> str:
        return f"{service}.{self.namespace}.svc.cluster.local"


def bootstrap(sidecar: Sidecar) -> Document:
    """The whole configuration of one sidecar; the kernel chooses the ports of all its listeners."""
    local = sidecar.local
    clusters = {local: sidecar.app}
    clusters |= {_outbound_name(sidecar, service): each for service, each in sidecar.services.items()}
    clusters |= sidecar.clusters
    listeners = [_inbound(sidecar, local)]
    if sidecar.services:
        listeners.append(_outbound(sidecar))
    return {
        "node": {"id": f"sidecar~127.0.0.1~{sidecar.host}", "cluster": sidecar.service},
        "admin": {"address": address(ANY_PORT)},
        "static_resources": {
            "listeners": listeners,
            "clusters": [
                cluster(name, endpoint)
                | (_AS_CLIENT if name in sidecar.as_client else {})
                | (_metadata(sidecar) if name == local else {})
                for name, endpoint in clusters.items()
            ],
        },
    }


def egress_bootstrap(sidecar: Sidecar, port: int) -> Document:
    """The same for the proxy's own sidecar: its outbound listener is at `port` of loopback, as a Sidecar
    resource with an HTTP_PROXY listener has it, in a mesh with outboundTrafficPolicy REGISTRY_ONLY. Routes
    ignore the port in Host."""
    configuration = bootstrap(sidecar)
    (outbound,) = (
        each for each in configuration["static_resources"]["listeners"] if each["name"] == OUTBOUND
    )
    outbound["address"] = address(Endpoint("127.0.0.1", port))
    manager = outbound["filter_chains"][0]["filters"][0]["typed_config"]
    blocked = {"match": {"prefix": "/"}, "direct_response": {"status": 502}}
    manager["stat_prefix"] = f"outbound_127.0.0.1_{port}"
    routes = manager["route_config"]
    routes["name"] = str(port)
    routes["ignore_port_in_host_matching"] = True
    routes["virtual_hosts"].append({"name": "block_all", "domains": ["*"], "routes": [blocked]})
    return configuration


def _metadata(sidecar: Sidecar) -> Document:
    """What istiod says of an inbound cluster: which services it serves."""
    service = {"host": sidecar.host, "name": sidecar.service, "namespace": sidecar.namespace}
    return {"metadata": {"filter_metadata": {"istio": {"services": [service]}}}}


def _outbound_name(sidecar: Sidecar, service: str) -> str:
    return f"outbound|{sidecar.port}||{sidecar.host_of(service)}"


def _inbound(sidecar: Sidecar, local: str) -> Document:
    host = {
        "name": f"inbound|http|{sidecar.port}",
        "domains": ["*"],
        "routes": [{"name": "default", **route_to(local, f"{sidecar.host}:{sidecar.port}/*")}],
    }
    manager = connection_manager(f"inbound_0.0.0.0_{sidecar.port}", f"inbound|{sidecar.port}||", [host])
    manager["forward_client_cert_details"] = "APPEND_FORWARD"
    manager["set_current_client_cert_details"] = {"subject": True, "dns": True, "uri": True}
    return listener(INBOUND, "INBOUND", manager)


def _outbound(sidecar: Sidecar) -> Document:
    hosts = [_outbound_host(sidecar, service) for service in sidecar.services]
    manager = connection_manager(f"outbound_0.0.0.0_{sidecar.port}", str(sidecar.port), hosts)
    return listener(OUTBOUND, "OUTBOUND", manager)


def _outbound_host(sidecar: Sidecar, service: str) -> Document:
    host, namespace = sidecar.host_of(service), sidecar.namespace
    names = [service, f"{service}.{namespace}", f"{service}.{namespace}.svc", host]
    return {
        "name": f"{host}:{sidecar.port}",
        "domains": [domain for name in names for domain in (name, f"{name}:{sidecar.port}")],
        "routes": [
            {"name": "default", **route_to(_outbound_name(sidecar, service), f"{host}:{sidecar.port}/*")}
        ],
    }


def route_to(cluster: str, operation: str) -> Document:
    return {
        "match": {"prefix": "/"},
        "route": {
            "cluster": cluster,
            "timeout": "0s",
            "max_stream_duration": {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"},
        },
        "decorator": {"operation": operation},
    }


def connection_manager(prefix: str, route_name: str, hosts: list[Document]) -> Document:
    return {
        "@type": HCM_TYPE,
        "stat_prefix": prefix,
        "server_name": "istio-envoy",
        "use_remote_address": False,
        "stream_idle_timeout": "0s",
        "normalize_path": True,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {"name": route_name, "virtual_hosts": hosts, "validate_clusters": False},
        "http_filters": [_http_filter(name, kind) for name, kind in HTTP_FILTERS.items()],
    }


def _http_filter(name: str, kind: str) -> Document:
    return {
        "name": name,
        "typed_config": {"@type": f"type.googleapis.com/envoy.extensions.filters.http.{kind}"},
    }


def listener(name: str, direction: str, manager: Document) -> Document:
    return {
        "name": name,
        "traffic_direction": direction,
        "address": address(ANY_PORT),
        # Reads the SNI (`requestedServerName` in Lua).
        "listener_filters": [
            {"name": "envoy.filters.listener.tls_inspector", "typed_config": {"@type": TLS_INSPECTOR_TYPE}}
        ],
        "filter_chains": [{"filters": [{"name": HCM, "typed_config": manager}]}],
    }


def cluster(name: str, endpoint: Endpoint) -> Document:
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(endpoint)}}]}],
        },
    }


def address(endpoint: Endpoint) -> Document:
    return {"socket_address": {"address": endpoint.host, "port_value": endpoint.port}}
