"""Examples of what installations need beside the base, each in its own way: access for laptops, contracts
from outside, an ambient mesh, autoscaling, metrics. Pure.
"""

from devroute.headers import MATCHED
from devroute.mesh.manifests import lua
from devroute.mesh.manifests.gateway_filter import EdgeSettings, edge_filter, request_authentication
from devroute.mesh.manifests.installation import Installation
from devroute.mesh.manifests.model import Document, WorkloadScope, manifest, metadata_of
from devroute.metrics.table import IN_FLIGHT

#: The service whose requests the ambient example detours, and its port.
AMBIENT_SERVICE, AMBIENT_PORT = WorkloadScope("shop", "b"), 8080

#: How many requests a replica may have in flight on average before there is one more: each may buffer 1 MiB,
#: of a container's 1 GiB.
MAX_IN_FLIGHT = 500

#: What the overlay takes for Prometheus and Grafana.
MONITORING = ("servicemonitor.yaml", "prometheusrule.yaml", "dashboard.yaml")


def gateway(installation: Installation) -> list[Document]:
    """HTTPS for laptops at the ingress gateway: the tunnel, the API and the team's page, nothing else of the
    control port."""
    ingress = installation.ingress
    tls = {"mode": "SIMPLE", "credentialName": ingress.credential, "minProtocolVersion": "TLSV1_2"}
    port = {"number": 443, "name": "https", "protocol": "HTTPS"}
    destination = {"host": installation.host, "port": {"number": installation.proxy.control_port}}
    # Tunnels and pages stay open for hours: no timeout is none in Istio, whose CRD refuses 0s.
    routes = [
        _http_route("tunnel", {"exact": "/tunnel"}, destination),
        _http_route("api", {"prefix": "/api/"}, destination, timeout="10s"),
        _http_route("dashboard", {"prefix": "/dashboard/"}, destination),
    ]
    servers = [{"port": port, "hosts": [ingress.host], "tls": tls}]
    opened = {"selector": {"istio": ingress.selector}, "servers": servers}
    routed = {"hosts": [ingress.host], "gateways": ["devroute"], "http": routes}
    return [
        installation.manifest("networking.istio.io/v1", "Gateway", opened, "devroute"),
        installation.manifest("networking.istio.io/v1", "VirtualService", routed, "devroute"),
    ]


def _http_route(name: str, uri: Document, destination: Document, **options: str) -> Document:
    return {"name": name, "match": [{"uri": uri}], "route": [{"destination": destination}], **options}


def edge(installation: Installation) -> list[Document]:
    """Contracts from outside, at the ingress gateway: signed, or of callers with a valid token."""
    ingress = installation.ingress
    settings = EdgeSettings(
        namespace=ingress.namespace,
        selector={"istio": ingress.selector},
        control=installation.proxy.control_cluster,
    )
    issuer = "https://id.example"
    tokens = request_authentication(settings, issuer, "devroute", f"{issuer}/.well-known/jwks.json")
    return [edge_filter(settings), tokens]


def ambient_lua(installation: Installation, scope: WorkloadScope) -> str:
    """The filter for a waypoint, `lua/waypoint.lua` with its settings."""
    settings = {
        "control": installation.proxy.control_cluster,
        "service": scope.service,
        "namespace": scope.namespace,
        "domain": installation.proxy.domain,
        **installation.carriers.settings,
    }
    return lua.source("waypoint", SETTINGS=settings)


def ambient(installation: Installation, scope: WorkloadScope, port: int) -> list[Document]:
    """One service of an ambient mesh, at its waypoint; from Istio 1.30. The proxy keeps its sidecar."""
    own = metadata_of(f"devroute-{scope.service}", scope.namespace)
    target = {"group": "", "kind": "Service", "name": scope.service}
    # Without a phase it runs last, after Istio's authorization.
    extension = {"targetRefs": [target], "lua": {"inlineCode": ambient_lua(installation, scope)}}
    route = {"parentRefs": [{**target, "port": port}], "rules": _rules(installation, scope, port)}
    return [
        manifest("extensions.istio.io/v1alpha1", "TrafficExtension", own, extension),
        manifest("gateway.networking.k8s.io/v1", "HTTPRoute", own, route),
        _reference_grant(installation, scope),
    ]


def _rules(installation: Installation, scope: WorkloadScope, port: int) -> list[Document]:
    proxy = installation.proxy
    matched = {"type": "Exact", "name": MATCHED, "value": scope.service}
    backend = {"name": proxy.name, "namespace": proxy.namespace, "port": proxy.data_port}
    return [
        {
            "matches": [{"headers": [matched]}],
            "backendRefs": [backend],
            "timeouts": {"request": "0s", "backendRequest": "0s"},
        },
        {"backendRefs": [{"name": scope.service, "port": port}]},
    ]


def _reference_grant(installation: Installation, scope: WorkloadScope) -> Document:
    """Lets routes of the service's namespace lead to the proxy's Service."""
    proxy = installation.proxy
    route = {"group": "gateway.networking.k8s.io", "kind": "HTTPRoute", "namespace": scope.namespace}
    spec = {"from": [route], "to": [{"group": "", "kind": "Service", "name": proxy.name}]}
    metadata = metadata_of(f"devroute-{scope.namespace}", proxy.namespace)
    return manifest("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", metadata, spec)


def autoscaler(installation: Installation) -> Document:
    """By CPU, of which a replica uses one core, and by requests in flight, which take memory while they wait.
    Slow to scale down: laptops of a replica that ends connect to another."""
    spec = {
        "scaleTargetRef": {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": installation.proxy.name,
        },
        "minReplicas": max(2, installation.replicas),
        "maxReplicas": max(6, 2 * installation.replicas),
        "metrics": [
            {
                "type": "ContainerResource",
                "containerResource": {
                    "container": "proxy",
                    "name": "cpu",
                    "target": {"type": "AverageValue", "averageValue": "700m"},
                },
            },
            {
                "type": "Pods",
                "pods": {
                    "metric": {"name": IN_FLIGHT.name},
                    "target": {"type": "AverageValue", "averageValue": str(MAX_IN_FLIGHT)},
                },
            },
        ],
        "behavior": {
            "scaleDown": {
                "stabilizationWindowSeconds": 600,
                "policies": [{"type": "Pods", "value": 1, "periodSeconds": 300}],
            }
        },
    }
    return installation.manifest("autoscaling/v2", "HorizontalPodAutoscaler", spec)


def service_monitor(installation: Installation) -> Document:
    """For the Prometheus operator. Plain HTTP, since the admin port is outside of the mesh."""
    spec = {
        "selector": {"matchLabels": installation.selector},
        "namespaceSelector": {"matchNames": [installation.proxy.namespace]},
        "endpoints": [{"port": "http-admin", "path": "/metrics", "scheme": "http", "interval": "30s"}],
    }
    return installation.manifest("monitoring.coreos.com/v1", "ServiceMonitor", spec)


def overlay() -> Document:
    """How to combine the base and examples for a cluster, without a change in either."""
    return {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["../base", "gateway.yaml", *MONITORING],
        "images": [{"name": "devroute", "newName": "images.example/platform/devroute"}],
    }
