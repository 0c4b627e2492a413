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

JWT_FILTER = "envoy.filters.http.jwt_authn"
JWT_TYPE = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"
#: The key of a token's payload in the metadata, as Istio sets it.
PAYLOAD = "payload"

LISTENER = "0.0.0.0_8080"


@dataclass(frozen=True, slots=True)
class JwtRule:
    """A RequestAuthentication: which tokens are valid. `jwks` is a JSON Web Key Set (RFC 7517) as text.

    Istio refuses requests with an invalid token (401); `lenient` treats them like requests without one.
    """

    issuer: str
    audience: str
    jwks: str
    lenient: bool = False
    payload: str = PAYLOAD


@dataclass(frozen=True, slots=True)
class Gateway:
    """An ingress gateway: `hosts` maps host names to where they are served.

    `trusted_proxies` is the mesh's numTrustedProxies: how many hops of X-Forwarded-For are trusted.
    """

    hosts: Mapping[str, Endpoint]
    namespace: str = "istio-system"
    labels: Mapping[str, str] = field(default_factory=lambda: {"istio": "ingressgateway"})
    trusted_proxies: int = 0
    jwt: JwtRule | None = None


def bootstrap(gateway: Gateway) -> Document:
    """The whole configuration of one gateway; the kernel chooses the ports of its listeners."""
    clusters = {_cluster_name(host): endpoint for host, endpoint in gateway.hosts.items()}
    manager = connection_manager(
        f"outbound_{LISTENER}", "http.8080", [_virtual_host(host) for host in gateway.hosts]
    )
    manager["use_remote_address"] = True
    manager["xff_num_trusted_hops"] = gateway.trusted_proxies
    manager["forward_client_cert_details"] = "SANITIZE_SET"
    if gateway.jwt is not None:
        manager["http_filters"].insert(0, _jwt_filter(gateway.jwt))
    return {
        "node": {"id": f"router~127.0.0.1~gateway.{gateway.namespace}", "cluster": "istio-ingressgateway"},
        "admin": {"address": address(ANY_PORT)},
        "static_resources": {
            # Istio counts a gateway's listeners as outbound.
            "listeners": [listener(LISTENER, "OUTBOUND", manager, None)],
            "clusters": [cluster(name, endpoint) for name, endpoint in clusters.items()],
        },
    }


def _cluster_name(host: str) -> str:
    return f"outbound|80||{host}"


def _virtual_host(host: str) -> Document:
    route = {"name": host.partition(".")[0], **route_to(_cluster_name(host), f"{host}:80/*")}
    return {"name": f"{host}:8080", "domains": [host, f"{host}:*"], "routes": [route]}


def _jwt_filter(rule: JwtRule) -> Document:
    invalid = "allow_missing_or_failed" if rule.lenient else "allow_missing"
    provider = {
        "issuer": rule.issuer,
        "audiences": [rule.audience],
        "local_jwks": {"inline_string": rule.jwks},
        "payload_in_metadata": rule.payload,
        "forward": True,
    }
    requirement = {"requires_any": {"requirements": [{"provider_name": "origins-0"}, {invalid: {}}]}}
    return {
        "name": JWT_FILTER,
        "typed_config": {
            "@type": JWT_TYPE,
            "providers": {"origins-0": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": requirement}],
        },
    }
