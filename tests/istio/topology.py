"""What is in the cluster of the rig: pods, Services, laptops, and who has which address. Pure.

web → a → b (v1 and v2) → c, and the headless h; devroute's proxy; an ingress gateway. Two laptops outside.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.istio.control_plane import ISTIOD, ROOT_NAMESPACE
from tests.istio.kubernetes import Document

CONTROL = "10.244.0.2"
#: Networks that are reached over the bridge: pods, laptops, and the virtual addresses of Services.
ROUTES = ("10.244.0.0/16", "192.168.77.0/24", "10.96.0.0/12")
HOST = "devroute.qa.example"
#: Names of the apps at the gateway.
PUBLIC = {"a.qa.example": "a", "b.qa.example": "b"}
LAPTOPS = {"alice": "192.168.77.12", "bob": "192.168.77.13"}
HTTP, GRPC, APP_PORT = 8080, 9000, 8001
#: A host outside of the mesh, and what laptops may reach.
DATABASE, DATABASE_PORT = "db.vendor.example", 5432
REACHED = ("*.shop", f"tcp://h.shop:{HTTP}", f"tcp://*.{DATABASE.partition('.')[2]}:{DATABASE_PORT}")


@dataclass(frozen=True)
class Pod:
    """A pod; `name` is also the network namespace's.

    `includes` and `excludes` are the outbound addresses and the inbound ports that Istio's annotations name.
    """

    name: str
    app: str
    version: str
    address: str
    namespace: str = "shop"
    labels: Mapping[str, str] = field(default_factory=dict)
    role: str = "sidecar"
    ports: tuple[tuple[str, int], ...] = (("http", HTTP),)
    includes: str = "*"
    excludes: str = ""
    next_hop: str = ""

    @property
    def account(self) -> str:
        return "istio-ingressgateway-service-account" if self.role == "router" else self.app

    @property
    def all_labels(self) -> dict[str, str]:
        canonical = "service.istio.io/canonical"
        own = {"version": self.version, f"{canonical}-name": self.app, f"{canonical}-revision": self.version}
        return {"app": self.app, **self.labels, **own}


APPS = (
    Pod("web", "web", "v1", "10.244.1.5", next_hop="http://a/"),
    Pod("a", "a", "v1", "10.244.1.1", next_hop="http://b/"),
    Pod("b1", "b", "v1", "10.244.1.2", next_hop="http://c/"),
    Pod("b2", "b", "v2", "10.244.1.3", next_hop="http://c/"),
    Pod("c", "c", "v1", "10.244.1.4"),
    Pod("h", "h", "v1", "10.244.1.6"),
)
GATEWAY = Pod(
    "gw",
    "istio-ingressgateway",
    "v1",
    "10.244.3.1",
    ROOT_NAMESPACE,
    {"istio": "ingressgateway"},
    "router",
    (),
)
PROXY_ADDRESS = "10.244.2.1"


def proxy(deployment: Document) -> Pod:
    """The pod that the Deployment would make."""
    template = deployment["spec"]["template"]
    metadata, container = template["metadata"], template["spec"]["containers"][0]
    traffic = {name.partition("/")[2]: value for name, value in metadata["annotations"].items()}
    return Pod(
        "proxy",
        template["spec"]["serviceAccountName"],
        "v1",
        PROXY_ADDRESS,
        deployment["metadata"]["namespace"],
        metadata["labels"],
        ports=tuple((port["name"], port["containerPort"]) for port in container["ports"]),
        includes=traffic.get("includeOutboundIPRanges", "*"),
        excludes=traffic.get("excludeInboundPorts", ""),
    )


class Port(NamedTuple):
    name: str
    port: int
    target: int
    application: str = ""


_HTTP = Port("http", 80, HTTP)
#: Virtual addresses and ports. The port of web has no name: Istio detects its protocol.
SERVICES: dict[str, tuple[str, tuple[Port, ...]]] = {
    "a": ("10.96.1.1", (_HTTP,)),
    "b": ("10.96.1.2", (_HTTP, Port("grpc", GRPC, GRPC))),
    "c": ("10.96.1.4", (_HTTP,)),
    "web": ("10.96.1.5", (Port("", 80, HTTP),)),
    "h": ("None", (Port("http", HTTP, HTTP),)),
}


def hosts() -> str:
    """/etc/hosts of all pods and laptops."""
    addresses = {name: address for name, (address, _) in SERVICES.items()} | {"h": "10.244.1.6"}
    lines = ["127.0.0.1 localhost", f"{CONTROL} {ISTIOD}", f"{GATEWAY.address} {' '.join([HOST, *PUBLIC])}"]
    lines += [
        f"{address} {name} {name}.shop {name}.shop.svc.cluster.local" for name, address in addresses.items()
    ]
    # Absolute, as the proxy looks them up: nothing adds a search domain.
    lines += [f"{LAPTOPS['bob']} {DATABASE}.", f"{addresses['h']} h.shop.svc.cluster.local."]
    return "\n".join([*lines, ""])


def addresses() -> dict[str, str]:
    """The address of each network namespace."""
    pods = {pod.name: f"{pod.address}/16" for pod in (*APPS, GATEWAY)}
    laptops = {name: f"{address}/24" for name, address in LAPTOPS.items()}
    return {"control": f"{CONTROL}/16", "proxy": f"{PROXY_ADDRESS}/16", **pods, **laptops}


def services() -> Iterator[Document]:
    """Namespaces, Services and what a controller would make of them: EndpointSlices."""
    yield _manifest("v1", "Namespace", "shop", "", metadata={"labels": {"istio-injection": "enabled"}})
    for name, (address, ports) in SERVICES.items():
        yield service(name, "shop", {"app": name}, ports, address)
        yield slice_of(name, "shop", ports, [pod for pod in APPS if pod.app == name])
    # The gateway's Envoy binds the Service's own ports: no container has to be unprivileged here.
    ports = (Port("http2", 80, 80), Port("https", 443, 443))
    yield service(GATEWAY.app, ROOT_NAMESPACE, {"istio": "ingressgateway"}, ports, "10.96.3.1")
    yield slice_of(GATEWAY.app, ROOT_NAMESPACE, ports, [GATEWAY])


def service(
    name: str, namespace: str, selector: Mapping[str, str], ports: tuple[Port, ...], address: str
) -> Document:
    described = [
        {
            "port": each.port,
            "targetPort": each.target,
            "protocol": "TCP",
            **({"name": each.name} if each.name else {}),
        }
        for each in ports
    ]
    spec = {"clusterIP": address, "selector": dict(selector), "ports": described}
    return _manifest("v1", "Service", name, namespace, spec=spec)


def slice_of(name: str, namespace: str, ports: tuple[Port, ...], pods: list[Pod]) -> Document:
    described = [
        {
            "name": each.name,
            "port": each.target,
            "protocol": "TCP",
            **({"appProtocol": each.application} if each.application else {}),
        }
        for each in ports
    ]
    endpoints = [
        {
            "addresses": [pod.address],
            "conditions": {"ready": True, "serving": True},
            "nodeName": "node1",
            "targetRef": {"kind": "Pod", "name": pod_name(pod), "namespace": namespace},
        }
        for pod in pods
    ]
    headless = {"service.kubernetes.io/headless": ""} if SERVICES.get(name, ("",))[0] == "None" else {}
    return _manifest(
        "discovery.k8s.io/v1",
        "EndpointSlice",
        f"{name}-1",
        namespace,
        metadata={"labels": {"kubernetes.io/service-name": name, **headless}},
        addressType="IPv4",
        ports=described,
        endpoints=endpoints,
    )


def slice_of_proxy(service: Document, pod: Pod) -> Document:
    """The EndpointSlice of devroute's own Service: its target ports are names of the container's."""
    named = dict(pod.ports)
    ports = tuple(
        Port(each["name"], each["port"], named[each["targetPort"]], each.get("appProtocol", ""))
        for each in service["spec"]["ports"]
    )
    return slice_of(service["metadata"]["name"], service["metadata"]["namespace"], ports, [pod])


def policies() -> Iterator[Document]:
    """STRICT mTLS everywhere, and the apps at the gateway, on plain HTTP."""
    spec: Document = {"mtls": {"mode": "STRICT"}}
    yield _manifest("security.istio.io/v1", "PeerAuthentication", "default", ROOT_NAMESPACE, spec=spec)
    port = {"number": 80, "name": "http", "protocol": "HTTP"}
    spec = {"selector": {"istio": "ingressgateway"}, "servers": [{"port": port, "hosts": list(PUBLIC)}]}
    yield _manifest("networking.istio.io/v1", "Gateway", "public", "shop", spec=spec)
    for host, name in PUBLIC.items():
        route = {"destination": {"host": name, "port": {"number": 80}}}
        spec = {"hosts": [host], "gateways": ["public"], "http": [{"route": [route]}]}
        yield _manifest("networking.istio.io/v1", "VirtualService", f"public-{name}", "shop", spec=spec)
    # What Istio's charts permit the gateway, so that it gets its certificate.
    secrets = {"apiGroups": [""], "resources": ["secrets"], "verbs": ["get", "watch", "list"]}
    rbac = "rbac.authorization.k8s.io"
    yield _manifest(f"{rbac}/v1", "ClusterRole", "gateway-secrets", "", rules=[secrets])
    yield _manifest(
        f"{rbac}/v1",
        "ClusterRoleBinding",
        "gateway-secrets",
        "",
        roleRef={"apiGroup": rbac, "kind": "ClusterRole", "name": "gateway-secrets"},
        subjects=[{"kind": "ServiceAccount", "name": GATEWAY.account, "namespace": ROOT_NAMESPACE}],
    )


def pod_name(pod: Pod) -> str:
    return f"{pod.app}-{pod.version}"


def registration(pod: Pod) -> tuple[list[Document], Document]:
    """What the API server knows of a pod, and its status, as a kubelet reports it."""
    account = _manifest("v1", "ServiceAccount", pod.account, pod.namespace)
    ports = [{"name": name, "containerPort": port} for name, port in pod.ports]
    containers = [
        {"name": "app", "image": "app", "ports": ports},
        {"name": "istio-proxy", "image": "proxyv2"},
    ]
    metadata = {
        "labels": {**pod.all_labels, "security.istio.io/tlsMode": "istio"},
        "annotations": {"sidecar.istio.io/status": '{"revision":"default"}'},
    }
    spec = {"serviceAccountName": pod.account, "nodeName": "node1", "containers": containers}
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    status = {
        "phase": "Running",
        "podIP": pod.address,
        "podIPs": [{"ip": pod.address}],
        "hostIP": CONTROL,
        "conditions": [ready],
    }
    return [
        account,
        _manifest("v1", "Pod", pod_name(pod), pod.namespace, metadata=metadata, spec=spec),
    ], status


def _manifest(
    version: str, kind: str, name: str, namespace: str, *, metadata: Document | None = None, **rest: object
) -> Document:
    own = {"name": name, **({"namespace": namespace} if namespace else {}), **(metadata or {})}
    return {"apiVersion": version, "kind": kind, "metadata": own, **rest}
