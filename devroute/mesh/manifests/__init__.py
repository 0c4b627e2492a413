"""What a platform team applies to its mesh, generated from typed values. Pure.

The output has a stable order and no timestamps, so that it can be kept in a GitOps repository.
"""

from devroute.mesh.manifests.installation import (
    IMAGE,
    POD_NETWORKS,
    SERVICE_NETWORKS,
    IngressGateway,
    Installation,
)
from devroute.mesh.manifests.model import (
    Document,
    MeshScope,
    NamespaceScope,
    ProxyService,
    Scope,
    WorkloadScope,
)
from devroute.mesh.manifests.render import to_yaml
from devroute.mesh.manifests.sidecar_filter import FILTER, envoy_filter

__all__ = [
    "FILTER",
    "IMAGE",
    "POD_NETWORKS",
    "SERVICE_NETWORKS",
    "Document",
    "IngressGateway",
    "Installation",
    "MeshScope",
    "NamespaceScope",
    "ProxyService",
    "Scope",
    "WorkloadScope",
    "envoy_filter",
    "render",
    "to_yaml",
]


def render(scope: Scope, proxy: ProxyService | None = None) -> str:
    """The manifests of a scope as YAML, ready for `kubectl apply -f -`."""
    return to_yaml(envoy_filter(scope, proxy))
