"""Who may reach the proxy, and how: mTLS identities, networks, the protocol of its ports. Pure.

data     the identities whose sidecars have the filter: of the mesh, or of one namespace
control  /resolve, /contract, /trace, /compare: the same; laptops' tunnel and API: the ingress gateway only
admin    no identity; pods of the monitoring namespace, by NetworkPolicy
peer     no identity of the mesh, since the pod's connections are not captured: the proxy's own pods, by
         NetworkPolicy, and of these only who has the key of a certificate in Redis
"""

import ipaddress
from collections.abc import Iterable
from urllib.parse import urlsplit

from devroute import headers
from devroute.mesh.manifests import valkey
from devroute.mesh.manifests.installation import (
    ADMIN_PORT,
    CONTROL_PORT,
    DATA_PORT,
    EGRESS_PORT,
    PEER_PORT,
    Installation,
)
from devroute.mesh.manifests.model import Document, MeshScope
from devroute.mesh.manifests.patches import PRIORITY, envoy_filter_of, of_releases, patch
from devroute.mesh.manifests.reach import egress_rules
from devroute.mesh.manifests.registry import is_address, namespace_of
from devroute.policy.policy import Policy
from devroute.policy.ranges import Network, is_inside
from devroute.proxy.settings import ProxySettings
from devroute.routing.sidecar_paths import COMPARE_PATH, CONTRACT_PATH, RESOLVE_PATH, TRACE_PATH

#: Paths of the control port: of sidecars and, as api.py and listener.py of devroute/proxy/control, and
#: devroute/proxy/dashboard/handlers.py serve them.
QUESTION_PATHS = (RESOLVE_PATH, CONTRACT_PATH)
REPORT_PATHS = (TRACE_PATH, COMPARE_PATH)
SIDECAR_PATHS = (*QUESTION_PATHS, *REPORT_PATHS)
LAPTOP_PATHS = ("/tunnel", "/api/*", "/dashboard/*")

#: The port by which pods of an ambient mesh are reached (HBONE), whatever the port inside.
HBONE_PORT = 15008
#: The labels of the cluster's DNS (CoreDNS has that of its predecessor), and the address of its cache on each
#: node.
DNS_APPS = ("kube-dns", "coredns", "node-local-dns")
NODE_LOCAL_DNS = "169.254.20.10/32"
#: Where istiod serves certificates and configuration.
ISTIOD_PORT = 15012
#: Below the proxy's own keep-alive: if the proxy closed first, a request sent meanwhile would be lost.
IDLE_S = round(ProxySettings.model_fields["keep_alive_timeout"].default) - 20
#: The releases whose Envoy, 1.37 or newer, can choose a virtual host by a header of our own.
VHOST_HEADER_SINCE = r"^1\.(29|[3-9]\d)"
#: What names the service to the listener into the mesh is for that listener alone.
NO_EGRESS_HEADER: Document = {"request_headers_to_remove": [headers.EGRESS]}
#: Seconds to connect to a pod, which may be gone with its node, until another one is tried. Istio has 10.
CONNECT_S = 1


def destination_rule(installation: Installation) -> Document:
    """On the data port requests keep their protocol, so that gRPC stays HTTP/2 up to the proxy; the control
    port speaks HTTP/1.1 alone, whatever comes to the gateway. Istio applies it on both sides, in the caller's
    sidecar and in the proxy's own.

    Never give it an outlierDetection: a laptop's 502 to 504 would eject the proxy for everyone.
    """
    idle = {"idleTimeout": f"{IDLE_S}s"}
    tcp = {"connectTimeout": f"{CONNECT_S}s"}
    # Of a port's settings all count, and none of those above.
    data = {
        "port": {"number": installation.proxy.data_port},
        "connectionPool": {"tcp": tcp, "http": {"useClientProtocol": True, **idle}},
    }
    policy = {"connectionPool": {"tcp": tcp, "http": idle}, "portLevelSettings": [data]}
    spec = {"host": installation.host, "trafficPolicy": policy}
    return installation.manifest("networking.istio.io/v1", "DestinationRule", spec)


def peer_authentication(installation: Installation) -> Document:
    """Only clients with a certificate of the mesh."""
    spec = {"selector": {"matchLabels": installation.selector}, "mtls": {"mode": "STRICT"}}
    return installation.manifest("security.istio.io/v1", "PeerAuthentication", spec)


def authorization_policies(installation: Installation) -> list[Document]:
    """One for each kind of caller. What none of them allows is refused."""
    sidecars, gateway = _with_filter(installation), [installation.ingress.principal]
    return [
        _allow(installation, "data", sidecars, _operation(DATA_PORT)),
        _allow(
            installation,
            "resolve",
            sidecars,
            _operation(CONTROL_PORT, QUESTION_PATHS, "GET"),
            _operation(CONTROL_PORT, REPORT_PATHS, "POST"),
        ),
        _allow(installation, "laptops", gateway, _operation(CONTROL_PORT, LAPTOP_PATHS)),
    ]


def _with_filter(installation: Installation) -> list[str]:
    """The identities whose sidecars have the filter, and the gateway's, which asks about contracts from
    outside. Of a service's own pods, only the namespace is known."""
    scope = installation.scope
    if isinstance(scope, MeshScope):
        return ["*"]
    # Of five parts, for which Istio replaces the trust domain by the mesh's own.
    return [f"cluster.local/ns/{scope.namespace}/sa/*", installation.ingress.principal]


def _operation(port: int, paths: tuple[str, ...] = (), method: str = "") -> Document:
    operation: Document = {"ports": [str(port)]}
    if paths:
        operation["paths"] = list(paths)
    if method:
        operation["methods"] = [method]
    return operation


def _allow(installation: Installation, name: str, principals: list[str], *operations: Document) -> Document:
    spec = {
        "selector": {"matchLabels": installation.selector},
        "action": "ALLOW",
        "rules": [
            {
                "from": [{"source": {"principals": principals}}],
                "to": [{"operation": operation} for operation in operations],
            }
        ],
    }
    return installation.manifest(
        "security.istio.io/v1", "AuthorizationPolicy", spec, f"{installation.proxy.name}-{name}"
    )


def network_policy(installation: Installation) -> Document:
    """Which packets may flow; identities are for the AuthorizationPolicies. Out of the pod: DNS, istiod, the
    mesh's pods, what laptops reach, their own networks that the policy permits, other replicas and what they
    share. A collector of logs, or one of traces outside of the cluster, has to be added."""
    mesh = [DATA_PORT, CONTROL_PORT, HBONE_PORT]
    monitoring = {"namespaceSelector": _named(installation.monitoring_namespace)}
    istiod = {"namespaceSelector": _named(installation.istio_namespace)}
    replicas = {"podSelector": {"matchLabels": installation.selector}}
    spec = {
        "podSelector": {"matchLabels": installation.selector},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [
            {"from": [{"namespaceSelector": {}}], "ports": [_tcp(port) for port in mesh]},
            {"from": [monitoring], "ports": [_tcp(ADMIN_PORT)]},
            *([{"from": [replicas], "ports": [_tcp(PEER_PORT)]}] if installation.is_shared else []),
        ],
        "egress": [
            {
                "to": _dns(installation),
                "ports": [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")],
            },
            {"to": [istiod], "ports": [_tcp(ISTIOD_PORT)]},
            *([{"to": [{"namespaceSelector": {}}]}] if installation.mesh_egress else []),
            *([{"to": [replicas], "ports": [_tcp(PEER_PORT)]}] if installation.is_shared else []),
            *registry_egress(installation),
            *collector_egress(installation),
            *_to_laptops(installation),
            *reach_egress(installation),
        ],
    }
    return installation.manifest("networking.k8s.io/v1", "NetworkPolicy", spec)


def _dns(installation: Installation) -> list[Document]:
    """The cluster's DNS: its pods, and the node's cache, which has a link-local address. Elsewhere port
    53 would be a way out of the cluster for whatever can be written into a question."""
    pods = {
        "namespaceSelector": _named(installation.dns_namespace),
        "podSelector": {"matchExpressions": [{"key": "k8s-app", "operator": "In", "values": list(DNS_APPS)}]},
    }
    return [pods, {"ipBlock": {"cidr": NODE_LOCAL_DNS}}]


def registry_egress(installation: Installation) -> list[Document]:
    """What replicas share: a Service's namespace, addresses, or the networks that were named."""
    if installation.valkey:
        return [{"to": [{"podSelector": {"matchLabels": valkey.SELECTOR}}], "ports": [_tcp(valkey.PORT)]}]
    registry = installation.registry
    if registry is None:
        return []
    to: list[Document] = [{"ipBlock": {"cidr": each}} for each in registry.networks]
    for host in dict(registry.places):
        namespace = namespace_of(host, installation.proxy.namespace)
        if is_address(host):
            to.append(_address(host))
        elif namespace is not None and not registry.networks:
            to.append({"namespaceSelector": _named(namespace)})
    unique = [each for index, each in enumerate(to) if each not in to[:index]]
    return [{"to": unique} | ({} if registry.port is None else {"ports": [_tcp(registry.port)]})]


def collector_egress(installation: Installation) -> list[Document]:
    """The collector's namespace or address. One elsewhere has to be added by the operator."""
    url = urlsplit(installation.otlp_endpoint or "")
    host = url.hostname or ""
    if is_address(host):
        to = _address(host)
    elif host and (namespace := namespace_of(host, installation.proxy.namespace)) is not None:
        to = {"namespaceSelector": _named(namespace)}
    else:
        return []
    return [{"to": [to], "ports": [_tcp(url.port or (443 if url.scheme == "https" else 80))]}]


def reach_egress(installation: Installation) -> list[Document]:
    """To what laptops reach, beyond the mesh's pods."""
    blocks = _blocks(map(ipaddress.ip_network, installation.reach_networks), installation.policy)
    return egress_rules(installation.reach, blocks, mesh_egress=installation.mesh_egress)


def _to_laptops(installation: Installation) -> list[Document]:
    """The networks and ports of the proxy's policy. Tunnels need none: laptops open them from outside."""
    policy = installation.policy
    if not policy.networks:
        return []
    ports = [_tcp(first) | ({"endPort": last} if last > first else {}) for first, last in policy.ports]
    return [{"to": _blocks(policy.networks, policy), "ports": ports}]


def _blocks(networks: Iterable[Network], policy: Policy) -> list[Document]:
    """As few as cover them."""
    listed, collapse = list(networks), ipaddress.collapse_addresses
    blocks: list[Network] = [
        *collapse(each for each in listed if isinstance(each, ipaddress.IPv4Network)),
        *collapse(each for each in listed if isinstance(each, ipaddress.IPv6Network)),
    ]
    return [{"ipBlock": _block(block, policy)} for block in blocks]


def _block(block: Network, policy: Policy) -> Document:
    """A network without the cluster's own ranges, unless the policy lists something in them."""
    ranges = [network for network, _ in policy.cluster if network != block and is_inside(network, block)]
    own = [each for each in ranges if not any(is_inside(listed, each) for listed in policy.networks)]
    return {"cidr": str(block)} | ({"except": list(map(str, own))} if own else {})


def _named(namespace: str) -> Document:
    return {"matchLabels": {"kubernetes.io/metadata.name": namespace}}


def _address(host: str) -> Document:
    address = ipaddress.ip_address(host)
    return {"ipBlock": {"cidr": f"{address}/{address.max_prefixlen}"}}


def _tcp(port: int) -> Document:
    return {"protocol": "TCP", "port": port}


def mesh_egress(installation: Installation) -> Document:
    """Lets the proxy send a request that a laptop declined, or one of a laptop's own, to a service, as any
    workload would, with the proxy's identity. Only requests that ask for it go this way: nothing of the pod
    is captured."""
    listener = {
        "port": {"number": EGRESS_PORT, "protocol": "HTTP_PROXY", "name": "mesh-egress"},
        "bind": "127.0.0.1",
        "captureMode": "NONE",
        "hosts": ["*/*"],
    }
    spec = {
        "workloadSelector": {"labels": installation.selector},
        "egress": [listener],
        # A name that the mesh does not know is an error at once, and leads nowhere else.
        "outboundTrafficPolicy": {"mode": "REGISTRY_ONLY"},
    }
    return installation.manifest("networking.istio.io/v1", "Sidecar", spec)


def own_sidecar(installation: Installation) -> Document:
    """Keeps the mesh-wide filter away from the proxy's own sidecar: detoured requests and those of /resolve
    carry contracts, about which the filter there would ask the proxy again.

    Of the same priority a namespace's patches come after the root namespace's, so these routes precede the
    filter's.
    """
    ports = [
        (installation.proxy.data_port, DATA_PORT),
        (installation.proxy.control_port, CONTROL_PORT),
    ]
    patches = [_straight_in(*each) for each in ports]
    if installation.mesh_egress:
        patches += by_port(EGRESS_PORT)
    return envoy_filter_of(installation.metadata(), patches, installation.selector, PRIORITY)


def by_port(port: int) -> list[Document]:
    """Has the listener into the mesh, at `port`, find routes by a header of the proxy's. Istio has all routes
    ignore the port in Host, and this listener is for all ports: of a service with several, each request would
    go to port 80, and to none where there is no port 80."""
    removed = patch("SIDECAR_OUTBOUND", "ROUTE_CONFIGURATION", "MERGE", NO_EGRESS_HEADER)
    found = patch("SIDECAR_OUTBOUND", "ROUTE_CONFIGURATION", "MERGE", {"vhost_header": headers.EGRESS})
    both = [removed, of_releases(VHOST_HEADER_SINCE, found)]
    for each in both:
        each["match"]["routeConfiguration"] = {"portNumber": port}
    return both


def _straight_in(port: int, container_port: int) -> Document:
    """All requests of one port to the app, as by Istio's own route. Where the sidecar finds the port closed,
    its response says so, that the caller's sidecar may try another replica."""
    unlimited = {"max_stream_duration": "0s", "grpc_timeout_header_max": "0s"}
    route = {"cluster": f"inbound|{container_port}||", "timeout": "0s", "max_stream_duration": unlimited}
    unsent = {"header": {"key": headers.UNSENT, "value": "%UPSTREAM_TRANSPORT_FAILURE_REASON%"}}
    value = {
        "name": "devroute-proxy",
        "match": {"prefix": "/"},
        "route": route,
        "response_headers_to_remove": [headers.UNSENT],  # a laptop's
        "response_headers_to_add": [unsent],  # not where it is empty
    }
    inserted = patch("SIDECAR_INBOUND", "HTTP_ROUTE", "INSERT_FIRST", value)
    inserted["match"]["routeConfiguration"] = {"vhost": {"name": f"inbound|http|{port}"}}
    return inserted
