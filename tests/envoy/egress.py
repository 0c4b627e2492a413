"""The proxy's own sidecar, by which it calls services under the mesh's TLS, and a team's rule about it."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from devroute.mesh.istio.rules import applies
from devroute.mesh.istio.sidecar import Document, Endpoint, Sidecar
from devroute.mesh.manifests.access import by_port
from devroute.mesh.testbed import egress_configuration
from tests.envoy.certificates import MeshCa
from tests.envoy.harness import release

PROXY_IDENTITY = "spiffe://cluster.local/ns/devroute/sa/devroute-proxy"


def obeys_ports() -> bool:
    return all(applies(each, release()) for each in by_port(1))


def egress(
    port: int, services: Mapping[str, Endpoint], called: str, ca: MeshCa, as_client: Collection[str] = ()
) -> Document:
    """It calls `called` by the mesh's TLS, and those in `as_client` by the protocol of the request; all have
    the port of `called`."""
    place = services[called]
    described = Sidecar("devroute-proxy", place, port=place.port, services=services)
    spoken = [f"outbound|{place.port}||{described.host_of(each)}" for each in as_client]
    configuration = egress_configuration(replace(described, as_client=spoken), port, release())
    for cluster in configuration["static_resources"]["clusters"]:
        if cluster["name"] == f"outbound|{place.port}||{described.host_of(called)}":
            sni = f"outbound_.{place.port}_._.{described.host_of(called)}"
            cluster["transport_socket"] = ca.for_calling_sidecar(PROXY_IDENTITY, sni)
    return configuration


def callers_policy() -> Document:
    """As an AuthorizationPolicy that does not list the proxy among the callers of /closed."""
    permission = {"url_path": {"path": {"prefix": "/closed"}}}
    principal = {"authenticated": {"principal_name": {"exact": PROXY_IDENTITY}}}
    policies = {"closed": {"permissions": [permission], "principals": [principal]}}
    rules = {"action": "DENY", "policies": policies}
    name = "envoy.filters.http.rbac"
    kind = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
    value = {"name": name, "typed_config": {"@type": kind, "rules": rules}}
    patch = {"operation": "INSERT_BEFORE", "value": value}
    patches = [{"applyTo": "HTTP_FILTER", "match": {"context": "SIDECAR_INBOUND"}, "patch": patch}]
    return {"metadata": {"name": "team", "namespace": "default"}, "spec": {"configPatches": patches}}
