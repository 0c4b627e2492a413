"""The EnvoyFilter that puts `lua/edge.lua` into ingress gateways: which contracts enter the mesh. Pure.

Routes in front of all others turn the filter on for requests that carry something of devroute's; all other
requests bypass it. Headers that only the mesh sets are removed without it.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from devroute import headers
from devroute.errors import ConfigInvalid
from devroute.mesh.manifests import lua
from devroute.mesh.manifests.lua import EDGE_DONE
from devroute.mesh.manifests.model import Document, metadata_of
from devroute.mesh.manifests.patches import (
    LUA_ROUTE_TYPE,
    LUA_TYPE,
    disabled_filter,
    envoy_filter_of,
    patch,
    turned_on,
    undecided,
)

CONTEXT = "GATEWAY"
#: Name of the HTTP filter, and of the metadata with its settings and its mark.
FILTER = headers.EDGE_METADATA

#: Headers that only the mesh sets, and a contract under the name that CGI-like servers take for x-devroute.
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

#: Longer than a working day is not "short".
MAX_COOKIE_SECONDS = 12 * 3600

#: Which address is the caller's: the one that the gateway trusts, or its direct peer's. The first is the
#: peer's too, unless numTrustedProxies says how many load balancers are trusted; it relies on
#: use_remote_address, which Istio sets at gateways.
ClientAddress = Literal["trusted", "direct"]


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """Who may send contracts from outside. Raises ConfigInvalid for what is not a network, a claim or a time.

    `claim` is the path to a claim in the token's payload, which has to be true or, with `claim_value`, to be
    that text or hold it in a list. `payload` is the key under which jwt_authn leaves a token's payload in its
    metadata: "payload" with current releases of Istio, the issuer with older ones. `networks` are CIDRs.
    `signed` admits signed contracts of all callers, since the proxy verifies them. `cookie_seconds` is how
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


def edge_filter(settings: EdgeSettings | None = None) -> Document:
    """The EnvoyFilter (networking.istio.io/v1alpha3) for the gateways that the settings select."""
    settings = settings or EdgeSettings()
    code = {"@type": LUA_TYPE, "default_source_code": {"inline_string": lua.source("edge")}}
    patches = [
        # Behind the filters that authenticate, and before `fault`, the first one that routes configure: that
        # one and all behind it have to see the route that is chosen in the end.
        disabled_filter(CONTEXT, "envoy.filters.http.fault", FILTER, code),
        *(patch(CONTEXT, "HTTP_ROUTE", "INSERT_FIRST", route) for route in _routes(settings)),
        patch(CONTEXT, "VIRTUAL_HOST", "MERGE", {"request_headers_to_remove": list(NEVER_FROM_OUTSIDE)}),
    ]
    metadata = metadata_of("devroute-edge", settings.namespace)
    return envoy_filter_of(metadata, patches, dict(sorted(settings.selector.items())))


def _routes(settings: EdgeSettings) -> list[Document]:
    """One for each way in which a contract may come.

    Baggage: any spelling of the key that some library may take for ours. `:path`: cheaper than a match by
    query parameter, for which Envoy would parse the query of every request.
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
    """Its own response appears only if the filter dies before it has marked the request as done."""
    done = {"filter": FILTER, "path": [{"key": EDGE_DONE}], "value": {"present_match": True}, "invert": True}
    return {
        "name": f"devroute-edge-{name}",
        "match": {"prefix": "/", "headers": [header], "dynamic_metadata": [done]},
        "direct_response": undecided(
            "the devroute filter at the gateway failed", "see the log of the gateway"
        ),
        "metadata": {"filter_metadata": {FILTER: _metadata(settings)}},
        "typed_per_filter_config": {FILTER: turned_on({"@type": LUA_ROUTE_TYPE, "filter_context": {}})},
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
