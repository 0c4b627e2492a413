"""The EnvoyFilter that puts `lua/edge_front.lua` and `lua/edge.lua` into ingress gateways: which contracts
enter the mesh. Pure.

Routes in front of all others turn the filters on for requests that carry something of devroute's; all other
requests bypass them. Headers that only the mesh sets are removed without it.
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from devroute import headers
from devroute.errors import ConfigInvalid
from devroute.http import carriers
from devroute.mesh.manifests import lua
from devroute.mesh.manifests.lua import EDGE_DONE
from devroute.mesh.manifests.model import Document, ProxyService, check_named, manifest, metadata_of
from devroute.mesh.manifests.patches import (
    LUA_ROUTE_TYPE,
    LUA_TYPE,
    PRIORITY,
    discovered_filter,
    envoy_filter_of,
    patch,
    turned_on,
    undecided,
)

CONTEXT = "GATEWAY"
#: Name of the HTTP filter that admits contracts, and of the metadata of both.
FILTER = headers.EDGE_METADATA
#: Name of the one in front of all others.
FRONT = f"{FILTER}.front"

#: Headers that only the mesh sets, a token that is for the gateway alone, and a contract under the name that
#: CGI-like servers take for x-devroute.
NEVER_FROM_OUTSIDE = (
    headers.MATCHED,
    headers.VIA,
    headers.CALLER,
    headers.CLUSTER,
    headers.SHADOW,
    headers.COMPARE,
    headers.COPY,
    headers.ORIGIN,
    headers.HOST,
    headers.FAILOVER,
    headers.SUBJECT,
    headers.AUTHORIZATION,
    headers.CONTRACT.replace("-", "_"),
    *(carriers.header_of(each, "via") for each in carriers.KNOWN if not carriers.is_list(each)),
)

#: Longer than a working day is not "short".
MAX_COOKIE_SECONDS = 12 * 3600

#: Which address is the caller's: the one that the gateway trusts, or its direct peer's. The first is the
#: peer's too, unless numTrustedProxies says how many load balancers are trusted; it relies on
#: use_remote_address, which Istio sets at gateways.
ClientAddress = Literal["trusted", "direct"]
#: "None" sends the cookie with other sites' forms too, as OpenID Connect's form_post needs it.
SameSite = Literal["Lax", "None"]

_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+")


@dataclass(frozen=True, slots=True)
class EdgeSettings:
    """Who may send contracts from outside. Raises ConfigInvalid for what is not a network, a claim or a time.

    `claim` is the path to a claim in the token's payload, which has to be true or, with `claim_value`, to be
    that text or hold it in a list. `payload` is the key under which jwt_authn leaves a token's payload in its
    metadata: "payload" with current releases of Istio, the issuer with older ones. `networks` are CIDRs.
    `signed` admits signed contracts of all callers, since the proxy verifies them. `cookie_seconds` is how
    long a browser sends a contract; with a `cookie_domain` it sends the contract to all hosts of that domain,
    and to one host otherwise. `control` is the cluster of the proxy's control port, which reads contracts for
    browsers. `carriers` are headers of the mesh's own that sidecars read contracts from: those that all
    sidecars read (`devroute.http.carriers.KNOWN`) need not be named.
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
    cookie_domain: str | None = None
    cookie_same_site: SameSite = "Lax"
    control: str = ProxyService().control_cluster
    carriers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_named("namespace", self.namespace, "a namespace")
        if not self.claim or not all(key.isascii() and key.isprintable() and key for key in self.claim):
            # In ASCII: refused callers read its name in a header.
            raise ConfigInvalid("a claim's name is a text in ASCII", hint='e.g. ("devroute",)')
        if not 0 < self.cookie_seconds <= MAX_COOKIE_SECONDS:
            raise ConfigInvalid(
                f"a cookie's life of {self.cookie_seconds} s is not in 1 to {MAX_COOKIE_SECONDS}"
            )
        if self.cookie_domain is not None and not _DOMAIN.fullmatch(self.cookie_domain):
            raise ConfigInvalid(
                f"a cookie's domain {self.cookie_domain!r} is not a domain", hint="e.g. qa.example"
            )
        for text in self.networks:
            try:
                network = ipaddress.ip_network(text)
            except ValueError as error:
                raise ConfigInvalid(f"network {text!r}: {error}", hint="e.g. 192.168.0.0/16") from None
            if str(network) != text:
                raise ConfigInvalid(f"network {text!r} is usually written {network}")


def edge_filter(settings: EdgeSettings | None = None) -> Document:
    """The EnvoyFilter (networking.istio.io/v1alpha3) for the gateways that the settings select.

    The front filter is before all others, so that they obey the route that counts. The other one is behind
    them, before the router, so that a contract enters only with a request that they let pass.
    """
    settings = settings or EdgeSettings()
    patches = [
        *discovered_filter(CONTEXT, FRONT, _code(front_source(settings))),
        # It does not have the route chosen again: the one that the others obeyed is the one that counts.
        *discovered_filter(
            CONTEXT,
            FILTER,
            {**_code(edge_source(settings)), "clear_route_cache": False},
            before="envoy.filters.http.router",
        ),
        *(patch(CONTEXT, "HTTP_ROUTE", "INSERT_FIRST", route) for route in _routes(settings)),
        patch(CONTEXT, "VIRTUAL_HOST", "MERGE", {"request_headers_to_remove": _removed(settings)}),
    ]
    metadata = metadata_of("devroute-edge", settings.namespace)
    return envoy_filter_of(metadata, patches, _labels(settings), PRIORITY)


def request_authentication(settings: EdgeSettings, issuer: str, audience: str, jwks_uri: str) -> Document:
    """The RequestAuthentication (security.istio.io/v1) for the tokens by which callers may send contracts.

    They come in a header of their own: istiod makes of a rule without `fromHeaders` one that refuses every
    bearer token in Authorization that is not of its issuer, those of laptops too.
    """
    rule = {
        "issuer": issuer,
        "audiences": [audience],
        "jwksUri": jwks_uri,
        "fromHeaders": [{"name": headers.AUTHORIZATION, "prefix": "Bearer "}],
    }
    spec = {"selector": {"matchLabels": _labels(settings)}, "jwtRules": [rule]}
    metadata = metadata_of("devroute-edge", settings.namespace)
    return manifest("security.istio.io/v1", "RequestAuthentication", metadata, spec)


def _removed(settings: EdgeSettings) -> list[str]:
    return [*NEVER_FROM_OUTSIDE, *(carriers.header_of(each, "via") for each in settings.carriers)]


def _labels(settings: EdgeSettings) -> Document:
    return dict(sorted(settings.selector.items()))


def front_source(settings: EdgeSettings) -> str:
    """The Lua that takes contracts off requests, with these settings."""
    return lua.source("edge_front", SETTINGS={"carriers": settings.carriers})


def edge_source(settings: EdgeSettings) -> str:
    """The Lua that admits contracts, with these settings."""
    optional = {"claim_value": settings.claim_value, "domain": settings.cookie_domain}
    given: dict[str, lua.Constant] = {key: value for key, value in optional.items() if value is not None}
    return lua.source(
        "edge",
        SETTINGS={
            "control": settings.control,
            "claim": settings.claim,
            "payload": settings.payload,
            "networks": settings.networks,
            "address": settings.address,
            "signed": settings.signed,
            "cookie_seconds": settings.cookie_seconds,
            "same_site": settings.cookie_same_site,
            **given,
        },
    )


def _code(source: str) -> Document:
    return {"@type": LUA_TYPE, "default_source_code": {"inline_string": source}}


def _routes(settings: EdgeSettings) -> list[Document]:
    """One for each way in which a contract may come.

    Lists like baggage: any spelling of the key that some library may take for ours, beside any bytes.
    `:path`: cheaper than a match by query parameter, for which Envoy would parse the query of every request.
    """
    member = {"safe_regex": {"regex": r"(?i)\C*(devroute|%[0-9a-f]{2}[^=,;]*=)\C*"}}
    cookie = {"contains": f"{headers.COOKIE}="}
    parameter = {"contains": f"{headers.PARAMETER}="}
    return [
        _route("header", {"name": headers.CONTRACT, "present_match": True}),
        *(_route(each, _carried_by(each, member)) for each in (*carriers.KNOWN, *settings.carriers)),
        _route("cookie", {"name": "cookie", "string_match": cookie}),
        _route("parameter", {"name": ":path", "string_match": parameter}),
    ]


def _carried_by(carrier: str, member: Document) -> Document:
    """`member` is what lists of members match that libraries may decode; tracestate is read as it is."""
    if not carriers.is_list(carrier):
        return {"name": carrier, "present_match": True}
    if carrier == headers.TRACESTATE:
        return {
            "name": carrier,
            "string_match": {"contains": headers.BAGGAGE_CONTRACT, "ignore_case": True},
        }
    return {"name": carrier, "string_match": member}


def _route(name: str, header: Document) -> Document:
    """Its own response appears only if the front filter dies before it has marked the request as done. The
    code is the filters' own, since the route chosen again names none."""
    done = {"filter": FILTER, "path": [{"key": EDGE_DONE}], "value": {"present_match": True}, "invert": True}
    on = turned_on({"@type": LUA_ROUTE_TYPE, "filter_context": {}})
    return {
        "name": f"devroute-edge-{name}",
        "match": {"prefix": "/", "headers": [header], "dynamic_metadata": [done]},
        "direct_response": undecided(
            "the devroute filter at the gateway failed", "see the log of the gateway"
        ),
        "typed_per_filter_config": {FRONT: on, FILTER: on},
    }
