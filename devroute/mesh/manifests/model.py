"""The values that filters are made from: where the proxy is, and which sidecars get the filter. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: A manifest, or a part of an Envoy configuration, as plain data.
Document = dict[str, Any]

#: The label of everything that belongs to devroute.
PART_OF = {"app.kubernetes.io/part-of": "devroute"}


def manifest(api_version: str, kind: str, metadata: Document, spec: Document) -> Document:
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": spec}


def metadata_of(name: str, namespace: str) -> Document:
    """The metadata of an object that is no part of the installation itself."""
    return {"name": name, "namespace": namespace, "labels": dict(PART_OF)}


@dataclass(frozen=True, slots=True)
class ProxyService:
    """Where the mesh finds `devroute proxy`: a Kubernetes service and its ports. Its service account has the
    same name."""

    name: str = "devroute-proxy"
    namespace: str = "devroute"
    data_port: int = 8080
    control_port: int = 8081
    domain: str = "cluster.local"

    @property
    def principal(self) -> str:
        """Its identity in the mesh, as namespace/serviceaccount."""
        return f"{self.namespace}/{self.name}"

    @property
    def data_cluster(self) -> str:
        """Istio's name of the cluster that takes detoured requests."""
        return self._cluster(self.data_port)

    @property
    def control_cluster(self) -> str:
        """Istio's name of the cluster that the filter asks."""
        return self._cluster(self.control_port)

    def _cluster(self, port: int) -> str:
        return f"outbound|{port}||{self.name}.{self.namespace}.svc.{self.domain}"


@dataclass(frozen=True, slots=True)
class MeshScope:
    """Every sidecar; each finds out its service's name itself."""

    root_namespace: str = "istio-system"


@dataclass(frozen=True, slots=True)
class NamespaceScope:
    """Every sidecar of one namespace."""

    namespace: str


@dataclass(frozen=True, slots=True)
class WorkloadScope:
    """The sidecars of one service, whose name is given. Laptops may get copies of `shadow_share` per cent of
    the requests without a contract; with None there is not even a route for that."""

    namespace: str
    service: str
    labels: Mapping[str, str] = field(default_factory=dict)
    shadow_share: float | None = None

    @property
    def selector(self) -> dict[str, str]:
        return dict(sorted(self.labels.items())) or {"app": self.service}


Scope = MeshScope | NamespaceScope | WorkloadScope
