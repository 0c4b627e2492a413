"""The EnvoyFilter that keeps laptops' errors out of callers' outlier detection. Pure.

A caller with outlier detection ejects a pod that responds with errors, for all requests. A laptop's error
comes by the pod's sidecar, so without this one laptop can take a pod from all callers. Envoy's
`error_matcher` says which responses count: here errors that are not marked as a laptop's.

It names services and what they speak, and is never mesh-wide: istiod replaces, and does not merge, a
cluster's HttpProtocolOptions, which also say whether the cluster speaks HTTP/2.
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from devroute import headers
from devroute.contract.target import Malformed, check_label
from devroute.errors import ConfigInvalid
from devroute.mesh.manifests.model import Document, metadata_of
from devroute.mesh.manifests.patches import envoy_filter_of, patch
from devroute.quoting import quote

OPTIONS_KEY = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
#: What a cluster speaks, as Istio configures it: by the name of the port, or by `useClientProtocol`.
PROTOCOLS: Final[dict[str, Document]] = {
    "http": {"explicit_http_config": {"http_protocol_options": {}}},
    "http2": {"explicit_http_config": {"http2_protocol_options": {}}},
    "client": {"use_downstream_protocol_config": {"http_protocol_options": {}, "http2_protocol_options": {}}},
}
#: Callers' sidecars, and gateways.
CONTEXTS = ("SIDECAR_OUTBOUND", "GATEWAY")
#: The statuses of gRPC that Envoy counts as 5xx: unknown, deadline exceeded, unimplemented, internal,
#: unavailable, data loss.
GRPC_ERRORS = "2|4|12|13|14|15"
#: Of responses that are not the pod's own: a laptop's, or devroute's.
NOT_THE_PODS = ("laptop", "error")
_GIVEN: Final = re.compile(r"([^.:=]+)\.([^.:=]+):(\d{1,5})(?:=(\w+))?")


class Protected(NamedTuple):
    """A port of a service, and what its callers' clusters speak."""

    service: str
    namespace: str
    port: int
    protocol: str


def read_protected(text: str) -> Protected:
    """Of "b.shop:8080" or "b.shop:8080=http2". Raises ConfigInvalid."""
    found = _GIVEN.fullmatch(text)
    protocol = found[4] or "http" if found else ""
    if found is None or protocol not in PROTOCOLS or not 0 < int(found[3]) < 65536:
        hint = (
            f"write SERVICE.NAMESPACE:PORT or SERVICE.NAMESPACE:PORT=PROTOCOL, one of {', '.join(PROTOCOLS)}"
        )
        raise ConfigInvalid(f"outlier detection: {quote(text)} is not a port of a service", hint=hint)
    try:
        check_label(found[1], "a service's name")
        check_label(found[2], "a namespace")
    except Malformed as problem:
        raise ConfigInvalid(f"outlier detection: {problem}") from None
    return Protected(found[1], found[2], int(found[3]), protocol)


def outlier_filter(protected: Iterable[Protected], root_namespace: str, domain: str) -> Document:
    """The EnvoyFilter for all callers of these services. Only clusters with outlier detection, which is a
    DestinationRule's, are affected, but each gets the options. Raises ConfigInvalid for a port that is given
    two protocols."""
    protected = list(dict.fromkeys(protected))
    ports = Counter((each.service, each.namespace, each.port) for each in protected)
    for (service, namespace, port), count in ports.items():
        if count > 1:
            problem = f"outlier detection: {service}.{namespace}:{port} is given with {count} protocols"
            raise ConfigInvalid(problem, hint="write it once, with what its callers speak to it")
    patches = [_patch(each, context, domain) for each in protected for context in CONTEXTS]
    return envoy_filter_of(metadata_of("devroute-outlier-detection", root_namespace), patches)


def _patch(protected: Protected, context: str, domain: str) -> Document:
    host = f"{protected.service}.{protected.namespace}.svc.{domain}"
    options = {
        "@type": f"type.googleapis.com/{OPTIONS_KEY}",
        **PROTOCOLS[protected.protocol],
        "outlier_detection": {"error_matcher": _errors()},
    }
    merged = patch(context, "CLUSTER", "MERGE", {"typed_extension_protocol_options": {OPTIONS_KEY: options}})
    merged["match"]["cluster"] = {"service": host, "portNumber": protected.port}
    return merged


def _errors() -> Document:
    """Errors by status, HTTP's or gRPC's, that no laptop sent."""
    status = _header(":status", {"prefix": "5"})
    grpc = _header("grpc-status", {"safe_regex": {"regex": GRPC_ERRORS}})
    foreign = [_header(headers.RESULT, {"exact": each}) for each in NOT_THE_PODS]
    own = {"not_match": {"or_match": {"rules": foreign}}}
    return {"and_match": {"rules": [{"or_match": {"rules": [status, grpc]}}, own]}}


def _header(name: str, match: Document) -> Document:
    headers_match: dict[str, Any] = {"headers": [{"name": name, "string_match": match}]}
    return {"http_response_headers_match": headers_match}
