"""What Istio's PeerAuthentication and RequestAuthentication add to the configuration of an Envoy."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass

from devroute.mesh.istio.sidecar import Document

JWT_TYPE = "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication"


@dataclass(frozen=True, slots=True)
class JwtRule:
    """A RequestAuthentication: which tokens are valid. `jwks` is a JSON Web Key Set (RFC 7517) as text.

    `payload` is the key of a token's payload in the metadata, by default as Istio sets it. `from_headers` are
    names and prefixes, by default Authorization with "Bearer "; `forward` leaves the token on the request.

    Istio refuses requests with an invalid token (401); `lenient` treats them like requests without one.
    """

    issuer: str
    audience: str
    jwks: str
    lenient: bool = False
    payload: str = "payload"
    from_headers: Sequence[tuple[str, str]] = ()
    forward: bool = True

    @classmethod
    def of(cls, request_authentication: Document, jwks: str) -> "JwtRule":
        """The only rule of a RequestAuthentication; the keys that its jwksUri would have."""
        (rule,) = request_authentication["spec"]["jwtRules"]
        known = {"issuer", "audiences", "jwksUri", "forwardOriginalToken", "fromHeaders"}
        assert rule.keys() <= known, rule.keys() - known
        (audience,) = rule["audiences"]
        places = [(each["name"], each["prefix"]) for each in rule.get("fromHeaders", [])]
        forward = rule.get("forwardOriginalToken", False)
        return cls(rule["issuer"], audience, jwks, from_headers=places, forward=forward)


def jwt_filter(rule: JwtRule) -> Document:
    invalid = "allow_missing_or_failed" if rule.lenient else "allow_missing"
    provider = {
        "issuer": rule.issuer,
        "audiences": [rule.audience],
        "local_jwks": {"inline_string": rule.jwks},
        "payload_in_metadata": rule.payload,
        "forward": rule.forward,
        "from_headers": [{"name": name, "value_prefix": prefix} for name, prefix in rule.from_headers],
    }
    requirement = {"requires_any": {"requirements": [{"provider_name": "origins-0"}, {invalid: {}}]}}
    return {
        "name": "envoy.filters.http.jwt_authn",
        "typed_config": {
            "@type": JWT_TYPE,
            "providers": {"origins-0": provider},
            "rules": [{"match": {"prefix": "/"}, "requires": requirement}],
            "bypass_cors_preflight": True,
        },
    }


def with_tls(configuration: Document, tls: Document | None, permissive: bool = False) -> Document:
    """A sidecar's configuration whose inbound listener has this DownstreamTlsContext, if any; `permissive`:
    beside plaintext."""
    if tls is not None:
        inbound = configuration["static_resources"]["listeners"][0]
        (chain,) = inbound["filter_chains"]
        socket = {"name": "envoy.transport_sockets.tls", "typed_config": tls}
        inbound["filter_chains"] = [chain | {"transport_socket": socket}]
        if permissive:
            kinds = zip(("tls", "raw_buffer"), [*inbound["filter_chains"], deepcopy(chain)], strict=True)
            inbound["filter_chains"] = [
                each | {"name": kind, "filter_chain_match": {"transport_protocol": kind}}
                for kind, each in kinds
            ]
    return configuration
