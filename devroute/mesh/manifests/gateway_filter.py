"""The EnvoyFilter that puts `lua/edge.lua` into ingress gateways: which contracts enter the mesh. Pure.

Routes in front of everybody's own turn the filter on for requests that carry something of ours, so that all
others pass it by. Markers, which never come from outside, are taken off without it.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Literal

from devroute import headers
from devroute.errors import ConfigInvalid
from devroute.mesh.manifests.model import Document

#: Name of the HTTP filter, and of the metadata for its settings and for what it did.
FILTER = headers.EDGE_METADATA
#: Present once the filter has looked at a request.
DONE = "done"

#: Fields that the mesh gives itself, and a contract under the name that CGI-like servers take for x-devroute.
NEVER_FROM_OUTSIDE = (
    headers.MATCHED,
    headers.VIA,
    headers.CLUSTER,
    headers.SHADOW,
    headers.COMPARE,
    headers.COPY,
    headers.ORIGIN,
    headers.HOST,
    headers.FAILOVER,
    headers.CONTRACT.replace("-", "_"),
)

LUA_TYPE = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
ROUTE_FILTER_TYPE = "type.googleapis.com/envoy.config.route.v3.FilterConfig"

#: Longer than a working day is not "short".
MAX_COOKIE_SECONDS = 12 * 3600

#: Which address stands for the caller: the one that the gateway trusts, or that of its very peer. The first
#: is the peer's too, unless numTrustedProxies says how many load balancers' word counts; it relies on
#: use_remote_address, which Istio sets at gateways.
ClientAddress = Literal["trusted", "direct"]


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """Who may send contracts from outside. Raises ConfigInvalid for what is not a network, a claim or a time.

    `claim` is the path to a claim in the token's payload, which has to be true or, with `claim_value`, to be
    that text or hold it in a list. `payload` is the key under which jwt_authn leaves a token's payload in its
    metadata: "payload" with current releases of Istio, the issuer with older ones. `networks` are CIDRs.
    `signed` lets signed contracts in from everybody, since the proxy verifies them. `cookie_seconds` is how
    long a browser sends a contract.
    """

    namespace: str = "istio-system"
    selector: Mapping[str, str] = field(default_factory=lambda: {"istio": "ingressgateway"})
    claim: tuple[str, ...] = ("devroute",)
    claim_value: str | None = None
    payload: str = "payload"
    networks: tuple[str, ...] = ()
    address: ClientAddress = "trusted"
    signed: bool = True
    cookie_seconds: int = 3600

    def __post_init__(self) -> None:
        if not self.claim or not all(key.isascii() and key.isprintable() and key for key in self.claim):
            # In ASCII: refused callers read its name in a header.
            raise ConfigInvalid("a claim's name is a text in ASCII", hint='e.g. ("devroute",)')
        if not 0 < self.cookie_seconds <= MAX_COOKIE_SECONDS:
            raise ConfigInvalid(
                f"a cookie's life of {self.cookie_seconds} s is not in 1 to {MAX_COOKIE_SECONDS}"
            )
        for text in self.networks:
            try:
                network = ipaddress.ip_network(text)
            except ValueError as error:
                raise ConfigInvalid(f"network {text!r}: {error}", hint="e.g. 192.168.0.0/16") from None
            if str(network) != text:
                raise ConfigInvalid(f"network {text!r} is usually written {network}")


def edge_source() -> str:
    """The filter, `lua/edge.lua`."""
    return resources.files("devroute.lua").joinpath("edge.lua").read_text(encoding="utf-8")


def edge_filter(settings: EdgeSettings | None = None) -> Document:
    """The EnvoyFilter (networking.istio.io/v1alpha3) for the gateways that the settings select."""
    settings = settings or EdgeSettings()
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {
            "name": "devroute-edge",
            "namespace": settings.namespace,
            "labels": {"app.kubernetes.io/part-of": "devroute"},
        },
        "spec": {
            "workloadSelector": {"labels": dict(sorted(settings.selector.items()))},
            "configPatches": [
                _filter_patch(),
                *(_patch("HTTP_ROUTE", "INSERT_FIRST", route) for route in _routes(settings)),
                _patch("VIRTUAL_HOST", "MERGE", {"request_headers_to_remove": list(NEVER_FROM_OUTSIDE)}),
            ],
        },
    }


def _patch(apply_to: str, operation: str, value: Document) -> Document:
    return {
        "applyTo": apply_to,
        "match": {"context": "GATEWAY"},
        "patch": {"operation": operation, "value": value},
    }


def _filter_patch() -> Document:
    """Off unless a route turns it on. After the filters that authenticate, and before `fault`, the first one
    that is configured by routes: it and those behind it have to see the route that is chosen in the end.
    """
    fault = {"name": "envoy.filters.http.fault"}
    connection_manager = {"name": "envoy.filters.network.http_connection_manager", "subFilter": fault}
    code = {"@type": LUA_TYPE, "default_source_code": {"inline_string": edge_source()}}
    patch = _patch("HTTP_FILTER", "INSERT_BEFORE", {"name": FILTER, "disabled": True, "typed_config": code})
    patch["match"]["listener"] = {"filterChain": {"filter": connection_manager}}
    return patch


def _routes(settings: EdgeSettings) -> list[Document]:
    """One for each way in which a contract may come; the filter tells them apart again.

    Baggage: any spelling of the key that some library may take for ours. `:path`: cheaper than a match by
    query parameter, for which Envoy would parse everybody's query.
    """
    baggage = {"safe_regex": {"regex": "(?is).*(devroute|(^|,)[^=,;]*%).*"}}
    cookie = {"contains": f"{headers.COOKIE}="}
    parameter = {"contains": f"{headers.PARAMETER}="}
    return [
        _route("header", {"name": headers.CONTRACT, "present_match": True}, settings),
        _route("baggage", {"name": "baggage", "string_match": baggage}, settings),
        _route("cookie", {"name": "cookie", "string_match": cookie}, settings),
        _route("parameter", {"name": ":path", "string_match": parameter}, settings),
    ]


def _route(name: str, header: Document, settings: EdgeSettings) -> Document:
    """Its own answer is seen only if the filter dies before it has marked the request as done."""
    body = (
        '{"code": "internal", "message": "the devroute filter at the edge failed", '
        '"hint": "see the log of the gateway", "service": null, "target": null, "request_id": null}\n'
    )
    done = {"filter": FILTER, "path": [{"key": DONE}], "value": {"present_match": True}, "invert": True}
    return {
        "name": f"devroute-edge-{name}",
        "match": {"prefix": "/", "headers": [header], "dynamic_metadata": [done]},
        "direct_response": {"status": 500, "body": {"inline_string": body}},
        "metadata": {"filter_metadata": {FILTER: _metadata(settings)}},
        "typed_per_filter_config": {FILTER: {"@type": ROUTE_FILTER_TYPE, "config": {}}},
    }


def _metadata(settings: EdgeSettings) -> Document:
    value = {} if settings.claim_value is None else {"claim_value": settings.claim_value}
    return {
        "claim": list(settings.claim),
        **value,
        "payload": settings.payload,
        "networks": list(settings.networks),
        "address": settings.address,
        "signed": settings.signed,
        "cookie_seconds": settings.cookie_seconds,
    }
