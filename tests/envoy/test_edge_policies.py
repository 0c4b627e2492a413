"""A contract, however it comes and whether or not it is admitted, changes nothing about which policies of a
gateway's routes a request meets."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest
from aiohttp import web

from devroute.mesh.istio.sidecar import Document
from devroute.mesh.manifests.gateway_filter import EdgeSettings
from tests.envoy.edge import AUDIENCE, CONTRACT, EVERYBODY, ISSUER, SIGNED, Edge, Fields, Issuer, gateway
from tests.envoy.harness import serving
from tests.support.istio_security import JwtRule, jwt_filter

pytestmark = pytest.mark.mesh

HTTP = "type.googleapis.com/envoy.extensions.filters.http"
HUNDRED = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}


@dataclass(frozen=True)
class Policy:
    """A filter as others configure it, and what the app's own route configures there.

    `host` is what the virtual host configures.
    `verdict`: what a plain request gets: its status, and the header of the response that `shows` names.
    """

    verdict: tuple[int, str | None]
    route: Document
    filters: Callable[[Issuer], list[Document]] = lambda issuer: []
    host: Document = field(default_factory=dict)
    sent: Fields = ()
    method: str = "GET"
    shows: str = "x-nothing"


def limited(tokens: int) -> Document:
    bucket = {"max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": "600s"}
    return {
        "envoy.filters.http.local_ratelimit": {
            "@type": f"{HTTP}.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "route",
            "token_bucket": bucket,
            "filter_enabled": HUNDRED,
            "filter_enforced": HUNDRED,
        }
    }


def rate_limiter(_: Issuer) -> list[Document]:
    config = {"@type": f"{HTTP}.local_ratelimit.v3.LocalRateLimit", "stat_prefix": "all"}
    return [{"name": "envoy.filters.http.local_ratelimit", "typed_config": config}]


def denying_authz(_: Issuer) -> list[Document]:
    uri = {"uri": "http://authz", "cluster": "authz", "timeout": "5s"}
    config = {"@type": f"{HTTP}.ext_authz.v3.ExtAuthz", "http_service": {"server_uri": uri}}
    return [{"name": "envoy.filters.http.ext_authz", "typed_config": config}]


def rbac(_: Issuer) -> list[Document]:
    return [{"name": "envoy.filters.http.rbac", "typed_config": {"@type": f"{HTTP}.rbac.v3.RBAC"}}]


def jwt_on_some_routes(issuer: Issuer) -> list[Document]:
    found = jwt_filter(JwtRule(ISSUER, AUDIENCE, issuer.jwks))
    found["typed_config"]["requirement_map"] = {"token": {"provider_name": "origins-0"}}
    del found["typed_config"]["rules"]
    return [found]


CORS = {
    "envoy.filters.http.cors": {
        "@type": f"{HTTP}.cors.v3.CorsPolicy",
        "allow_origin_string_match": [{"exact": "https://web.example"}],
        "allow_methods": "GET",
    }
}
ORIGIN = ("origin", "https://web.example")
REFUSE_ALL = {
    "action": "DENY",
    "policies": {"all": {"permissions": [{"any": True}], "principals": [{"any": True}]}},
}
POLICIES = {
    "rate limit on the route": Policy((429, None), limited(1), rate_limiter),
    "CORS": Policy((200, ORIGIN[1]), CORS, sent=[ORIGIN], shows="access-control-allow-origin"),
    "CORS preflight": Policy(
        (200, "GET"),
        CORS,
        sent=[ORIGIN, ("access-control-request-method", "GET")],
        method="OPTIONS",
        shows="access-control-allow-methods",
    ),
    "ext_authz off on the route": Policy(
        (200, None),
        {
            "envoy.filters.http.ext_authz": {
                "@type": f"{HTTP}.ext_authz.v3.ExtAuthzPerRoute",
                "disabled": True,
            }
        },
        denying_authz,
    ),
    "ext_authz": Policy((403, None), {}, denying_authz),
    "JWT on the route": Policy(
        (401, None),
        {
            "envoy.filters.http.jwt_authn": {
                "@type": f"{HTTP}.jwt_authn.v3.PerRouteConfig",
                "requirement_name": "token",
            }
        },
        jwt_on_some_routes,
    ),
    "RBAC on the route": Policy(
        (403, None),
        {
            "envoy.filters.http.rbac": {
                "@type": f"{HTTP}.rbac.v3.RBACPerRoute",
                "rbac": {"rules": REFUSE_ALL},
            }
        },
        rbac,
    ),
    "RBAC that the virtual host turns on": Policy(
        (403, None),
        {},
        lambda issuer: [each | {"disabled": True} for each in rbac(issuer)],
        {
            "envoy.filters.http.rbac": {
                "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig",
                "config": {"@type": f"{HTTP}.rbac.v3.RBACPerRoute", "rbac": {"rules": REFUSE_ALL}},
            }
        },
    ),
    "fault on the route": Policy(
        (418, None),
        {
            "envoy.filters.http.fault": {
                "@type": f"{HTTP}.fault.v3.HTTPFault",
                "abort": {"http_status": 418, "percentage": {"numerator": 100}},
            }
        },
    ),
}
CONTRACTS = {"a contract": CONTRACT, "no service": "{}", "signed": SIGNED, "not a contract": "{"}


@dataclass(frozen=True)
class Way:
    """How a contract comes."""

    fields: Callable[[str], Fields] = lambda contract: []
    path: Callable[[str], str] = lambda contract: "/"


WAYS = {
    "header": Way(lambda contract: [("x-devroute", contract)]),
    "baggage": Way(lambda contract: [("baggage", f"a=b,devroute={quote(contract, safe='')}")]),
    "cookie": Way(lambda contract: [("cookie", f"a=b; devroute={quote(contract, safe='')}")]),
    "parameter": Way(path=lambda contract: f"/?devroute={quote(contract, safe='')}"),
}


@asynccontextmanager
async def guarded(
    folder: Path, issuer: Issuer, policy: Policy, settings: EdgeSettings, name: str = "gateway"
) -> AsyncIterator[Edge]:
    """A gateway with this policy on the app's own route, and where the policy asks an authority, one that
    refuses everything."""

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=403)

    def change(manager: Document) -> None:
        (host,) = manager["route_config"]["virtual_hosts"]
        host["typed_per_filter_config"] = policy.host
        (route,) = host["routes"]
        route["typed_per_filter_config"] = policy.route
        manager["http_filters"][:0] = policy.filters(issuer)

    async with (
        serving(refuse) as authority,
        gateway(folder, settings, change=change, clusters={"authz": authority}, name=name) as edge,
    ):
        yield edge


async def verdict(edge: Edge, policy: Policy, way: Way, contract: str) -> tuple[int, str | None]:
    fields = [*policy.sent, *way.fields(contract)]
    response, _ = await edge.get(fields, way.path(contract), policy.method)
    return response.status, response.headers.get(policy.shows)


PLAIN = Way()


@pytest.mark.parametrize("kind", POLICIES)
async def test_every_way_in_gets_what_a_plain_request_gets(tmp_path: Path, issuer: Issuer, kind: str) -> None:
    policy = POLICIES[kind]
    for networks in ((), EVERYBODY):  # not admitted, and admitted
        settings = EdgeSettings(networks=networks)
        async with guarded(tmp_path, issuer, policy, settings, name=f"edge-{len(networks)}") as edge:
            await verdict(edge, policy, PLAIN, "")  # which takes the only token of a rate limit
            assert await verdict(edge, policy, PLAIN, "") == policy.verdict
            for name, way in WAYS.items():
                for what, contract in CONTRACTS.items():
                    status, shown = await verdict(edge, policy, way, contract)
                    if way is not WAYS["cookie"] and policy.verdict[0] == 200 and status == 400:
                        status = 200  # the gateway's own error, once the policy let it pass
                    assert (status, shown) == policy.verdict, f"{what} by {name}, {networks}"


async def test_requests_with_a_contract_count_for_the_limit_of_the_others(
    tmp_path: Path, issuer: Issuer
) -> None:
    policy = Policy((200, None), limited(len(WAYS)), rate_limiter)
    async with guarded(tmp_path, issuer, policy, EdgeSettings(networks=EVERYBODY)) as edge:
        for way in WAYS.values():
            assert await verdict(edge, policy, way, CONTRACT) == (200, None)
        assert await verdict(edge, policy, PLAIN, "") == (429, None)
