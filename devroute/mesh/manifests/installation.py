"""One installation of `devroute proxy` in a cluster: the values that the manifests are made from. Pure.

Ports and times are taken from the proxy's own settings.
"""

from dataclasses import dataclass, field

from devroute import __version__
from devroute.contract.entry_urls import read_entry_urls
from devroute.contract.target import Malformed, parse_host
from devroute.errors import ConfigInvalid
from devroute.mesh.manifests.model import (
    PART_OF,
    Carriers,
    Document,
    MeshScope,
    ProxyService,
    Scope,
    check_named,
    manifest,
)
from devroute.mesh.manifests.outlier_detection import Protected
from devroute.mesh.manifests.reach import Reachable, check_reach
from devroute.mesh.manifests.registry import Registry
from devroute.policy.policy import Policy
from devroute.proxy.settings import ProxySettings, read_collector_url
from devroute.quoting import quote

#: Ports that the proxy's container listens on: the defaults of `devroute proxy`.
DATA_PORT, CONTROL_PORT, ADMIN_PORT, PEER_PORT = (
    ProxySettings.model_fields[f"{name}_port"].default for name in ("data", "control", "admin", "peer")
)
#: Where the proxy's sidecar takes requests for services of the mesh: on loopback, so from the proxy alone.
EGRESS_PORT = 15080
#: The user in the image (Dockerfile): not 0, and outside of the range that distributions give to people.
USER_ID = 65532
#: What the profile `restricted` of Pod Security demands of a pod and of a container, and a file system that
#: cannot be written to.
POD_SECURITY: Document = {
    "runAsNonRoot": True,
    "runAsUser": USER_ID,
    "runAsGroup": USER_ID,
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Document = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "capabilities": {"drop": ["ALL"]},
}
#: The name of the Dockerfile's image until it is in a registry.
IMAGE = f"devroute:{__version__}"
#: The ranges of kubeadm and kind. A cluster's own have to be given, so that they are no targets.
POD_NETWORKS = ("10.244.0.0/16",)
SERVICE_NETWORKS = ("10.96.0.0/12",)
#: More replicas than that are taken for a typing error.
MAX_REPLICAS = 100


@dataclass(frozen=True, slots=True)
class IngressGateway:
    """The Istio gateway through which laptops connect; its service account proves that a request came by
    it."""

    namespace: str = "istio-system"
    service_account: str = "istio-ingressgateway-service-account"
    selector: str = "ingressgateway"
    host: str = "devroute.qa.example"
    credential: str = "devroute-tls"

    @property
    def principal(self) -> str:
        """Istio reads the trust domain `cluster.local` as the mesh's own, whatever that is called."""
        return f"cluster.local/ns/{self.namespace}/sa/{self.service_account}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """What may differ between clusters. Raises ConfigInvalid naming the field.

    `networks` and `ports` are where laptops are reached without a tunnel (none: by tunnels only), `services`
    those that may be detoured. Several replicas need a registry that they share: `registry`, or a `valkey` of
    their own.
    """

    proxy: ProxyService = field(default_factory=ProxyService)
    scope: Scope = field(default_factory=MeshScope)
    ingress: IngressGateway = field(default_factory=IngressGateway)
    image: str = IMAGE
    replicas: int = 1
    registry: Registry | None = None
    valkey: bool = False
    #: Istio's revision (`istio.io/rev`); None is the default revision (`istio-injection: enabled`).
    revision: str | None = None
    #: The namespace of istiod, which every sidecar needs to reach.
    istio_namespace: str = "istio-system"
    #: The namespace of the cluster's DNS.
    dns_namespace: str = "kube-system"
    #: The namespace whose pods may read /metrics.
    monitoring_namespace: str = "monitoring"
    tokens_secret: str = "devroute-tokens"
    networks: tuple[str, ...] = ()
    ports: tuple[str, ...] = ("1024-65535",)
    services: tuple[str, ...] = ("*",)
    #: The way into the mesh, for failover (`devroute up --except-status`) and for what laptops reach: the
    #: proxy may call every service.
    mesh_egress: bool = True
    #: What all laptops may reach, the networks of those hosts that are outside of the cluster, the namespace
    #: of names without one (None: the proxy's default), and further namespaces that none may reach.
    reach: tuple[Reachable, ...] = ()
    reach_networks: tuple[str, ...] = ()
    reach_namespace: str | None = None
    reach_denied: tuple[str, ...] = ()
    #: Where people outside send requests into the mesh, each as URL or NAME=URL, and whether the edge's
    #: filter is there.
    entry_urls: tuple[str, ...] = ()
    entry_links: bool = False
    #: What sidecars write contracts to.
    carriers: Carriers = field(default_factory=Carriers)
    #: The collector of traces; the proxy's setting of this name.
    otlp_endpoint: str | None = None
    #: Ports of services whose callers have outlier detection.
    outlier_detection: tuple[Protected, ...] = ()
    #: The cluster's own ranges, which are no targets.
    pod_networks: tuple[str, ...] = POD_NETWORKS
    service_networks: tuple[str, ...] = SERVICE_NETWORKS

    def __post_init__(self) -> None:
        check_named("istio_namespace", self.istio_namespace, "a namespace")
        check_named("dns_namespace", self.dns_namespace, "a namespace")
        check_named("monitoring_namespace", self.monitoring_namespace, "a namespace")
        check_named("ingress.namespace", self.ingress.namespace, "a namespace")
        try:
            parse_host(self.ingress.host)
        except Malformed as problem:
            raise ConfigInvalid(f"ingress.host: {problem}") from None
        try:
            read_entry_urls(self.entry_urls)
        except Malformed as problem:
            raise ConfigInvalid(f"entry_urls: {problem}") from None
        if self.otlp_endpoint is not None:
            try:
                read_collector_url(self.otlp_endpoint)
            except ValueError as problem:
                raise ConfigInvalid(f"otlp_endpoint: {problem}") from None
        if not self.image or self.image != "".join(self.image.split()):
            raise ConfigInvalid(f"image: {quote(self.image)} is not the name of an image")
        if not 1 <= self.replicas <= MAX_REPLICAS:
            raise ConfigInvalid(f"replicas: {self.replicas} is not a number from 1 to {MAX_REPLICAS}")
        if self.registry is not None and self.valkey:
            raise ConfigInvalid("valkey: there is a registry already", hint="write --registry or --valkey")
        if self.replicas > 1 and not self.is_shared:
            raise ConfigInvalid(
                f"replicas: without a registry that they share, each of {self.replicas} would know only the"
                " laptops connected to it",
                hint="add --registry redis://HOST:6379/0, or --valkey for a small one of their own",
            )
        for each in (self.reach_namespace, *self.reach_denied):
            if each is not None:
                check_named("reach", each, "a namespace")
        check_reach(self.reach, self.reach_networks, self.denied_namespaces, mesh_egress=self.mesh_egress)
        Policy.from_mapping(self.policy_file, "policy")

    @property
    def policy_file(self) -> Document:
        """The content of the proxy's policy file."""
        direct = {"networks": list(self.networks), "ports": list(self.ports)}
        cluster = {"pods": list(self.pod_networks), "services": list(self.service_networks)}
        reach = {"reach": [each.rule for each in self.reach]} if self.reach else {}
        return {"direct": direct, "cluster": cluster, "services": list(self.services), **reach}

    @property
    def policy(self) -> Policy:
        return Policy.from_mapping(self.policy_file, "policy")

    @property
    def denied_namespaces(self) -> tuple[str, ...]:
        """Those that no laptop reaches, whatever the policy lists."""
        return (self.proxy.namespace, self.istio_namespace, self.dns_namespace, *self.reach_denied)

    @property
    def is_shared(self) -> bool:
        """Whether there may be several replicas, which share a registry."""
        return self.valkey or self.registry is not None

    @property
    def host(self) -> str:
        """The proxy's full name in the cluster."""
        return f"{self.proxy.name}.{self.proxy.namespace}.svc.{self.proxy.domain}"

    @property
    def selector(self) -> dict[str, str]:
        """The labels of the proxy's pods. They never change, since a Deployment's selector cannot."""
        return {"app.kubernetes.io/name": self.proxy.name}

    def metadata(self, name: str | None = None) -> Document:
        """The metadata of an object of the installation, in the proxy's namespace."""
        labels = {**self.selector, **PART_OF}
        return {"name": name or self.proxy.name, "namespace": self.proxy.namespace, "labels": labels}

    def manifest(self, api_version: str, kind: str, spec: Document, name: str | None = None) -> Document:
        """An object of the installation, by default named like the proxy."""
        return manifest(api_version, kind, self.metadata(name), spec)
