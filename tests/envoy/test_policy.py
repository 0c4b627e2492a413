"""A contract changes nothing about which policy a request meets: what teams merge onto routes, as Istio's
documentation shows it, holds for requests with and without one, at the service and on a detour; with either
kind of the first filter, whichever the release has."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from devroute.mesh.istio.rules import RELEASES
from devroute.mesh.istio.sidecar import HCM, Document, Endpoint, cluster
from devroute.mesh.manifests.model import MeshScope, Scope, WorkloadScope
from tests.envoy import harness
from tests.envoy.harness import Mesh, serving, sidecar_of_foo
from tests.envoy.teams import patch_of, team
from tests.support.issuer import SigningKey, jwks

pytestmark = pytest.mark.mesh

TYPE = "type.googleapis.com/envoy.extensions.filters.http."
ALL = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
FOO = '{"foo": "192.0.2.1:8001"}'
#: Contracts, and what the proxy decides about them; None: no contract.
KINDS: dict[str, tuple[str | None, Document]] = {
    "plain": (None, {}),
    "empty": ("{}", {}),
    "others": ('{"bar": "192.0.2.1:8001"}', {}),
    "not ours": (FOO, {"decision": "service"}),
    "refused": (FOO, {"decision": "error", "status": 400, "reason": "no", "body": "{}"}),
    "unusable": ("x" * 9000, {}),
    "fallback": (FOO, {"decision": "fallback", "reason": "offline"}),
    "detour": (FOO, {"decision": "detour", "service": "foo"}),
}
SCOPES: dict[str, tuple[Scope, ...]] = {
    "mesh": (MeshScope(),),
    "both": (MeshScope(), WorkloadScope("default", "foo", {"app": "foo"}, shadow_share=100.0)),
}


@pytest.fixture(autouse=True, params=["Lua", "Envoy's own"])
def first_filter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The patches of an old release suit each Envoy."""
    if request.param == "Lua":
        monkeypatch.setattr(harness, "release", lambda: RELEASES[0])
    elif harness.filters_in_lua() > 1:
        pytest.skip("this Envoy has none")


@asynccontextmanager
async def guarded(folder: Path, *teams: Document, scope: str = "mesh") -> AsyncIterator[Mesh]:
    async with sidecar_of_foo(folder, *SCOPES[scope], teams=teams) as mesh:
        yield mesh


async def statuses(mesh: Mesh, method: str = "GET", **headers: str) -> dict[str, int]:
    """The status of a request of each kind."""
    return {kind: response.status for kind, response in (await responses(mesh, method, **headers)).items()}


async def responses(mesh: Mesh, method: str = "GET", **headers: str) -> dict[str, Any]:
    found = {}
    for kind, (contract, decision) in KINDS.items():
        mesh.proxy.says(**({"decision": "service"} | decision))
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        sent |= {"x-devroute": contract} if contract is not None else {}
        async with mesh.client.request(method, mesh.url, headers=sent) as response:
            await response.read()
        found[kind] = response
    return found


#: What comes of each kind where policy lets it pass.
PERMITTED = dict.fromkeys(KINDS, 200) | {"refused": 400, "unusable": 400}


@pytest.mark.parametrize("action", ["ANY", "ROUTE"])
@pytest.mark.parametrize("scope", SCOPES)
async def test_a_rate_limit_counts_every_request(tmp_path: Path, action: str, scope: str) -> None:
    """Istio's own example; the limiter is the first filter of the chain but for devroute's."""
    kind = f"{TYPE}local_ratelimit.v3.LocalRateLimit"
    tokens = len(KINDS)
    bucket = {"max_tokens": tokens, "tokens_per_fill": tokens, "fill_interval": "3600s"}
    limit = {"@type": kind, "stat_prefix": "team", "token_bucket": bucket, "filter_enabled": ALL}
    limit["filter_enforced"] = ALL
    name = "envoy.filters.http.local_ratelimit"
    document = team(name, {"@type": kind, "stat_prefix": "team"}, limit, action)
    async with guarded(tmp_path, document, scope=scope) as mesh:
        assert await statuses(mesh) == PERMITTED
        assert await statuses(mesh) == dict.fromkeys(KINDS, 429)


@pytest.mark.parametrize("scope", SCOPES)
async def test_authorization_holds_and_the_proxy_is_not_asked_for_those_it_refuses(
    tmp_path: Path, scope: str
) -> None:
    policies = {"all": {"permissions": [{"any": True}], "principals": [{"any": True}]}}
    denied = {"rbac": {"rules": {"action": "DENY", "policies": policies}}}
    name, kind = "envoy.filters.http.rbac", f"{TYPE}rbac.v3.RBAC"
    document = team(name, {"@type": kind}, {"@type": f"{kind}PerRoute", **denied})
    async with guarded(tmp_path, document, scope=scope) as mesh:
        found = await responses(mesh)
        assert {kind: each.status for kind, each in found.items()} == dict.fromkeys(KINDS, 403)
        assert not any("x-devroute-result" in each.headers for each in found.values())
        assert mesh.proxy.asked == []


async def test_authentication_holds(tmp_path: Path) -> None:
    name, kind = "envoy.filters.http.jwt_authn", f"{TYPE}jwt_authn.v3."
    provider = {"issuer": "https://id.example", "local_jwks": {"inline_string": jwks(SigningKey())}}
    config = {
        "@type": f"{kind}JwtAuthentication",
        "providers": {"id": provider},
        "requirement_map": {"token": {"provider_name": "id"}},
    }
    document = team(name, config, {"@type": f"{kind}PerRouteConfig", "requirement_name": "token"})
    async with guarded(tmp_path, document) as mesh:
        assert await statuses(mesh) == dict.fromkeys(KINDS, 401)
        assert mesh.proxy.asked == []


async def test_what_a_route_exempts_from_authorization_is_exempt_with_a_contract(tmp_path: Path) -> None:
    async def refuses(_: web.Request) -> web.Response:
        return web.Response(status=403)

    async with serving(refuses) as endpoint:
        name, kind = "envoy.filters.http.ext_authz", f"{TYPE}ext_authz.v3.ExtAuthz"
        server = {"uri": "http://authz.example", "cluster": "authz", "timeout": "10s"}
        config = {"@type": kind, "http_service": {"server_uri": server}}
        for exempt in (False, True):
            per_route: Document = {"@type": f"{kind}PerRoute"}
            per_route |= {"disabled": True} if exempt else {"check_settings": {}}
            document = team(name, config, per_route)
            document["spec"]["configPatches"].append(_authz(endpoint))
            folder = tmp_path / str(exempt)
            folder.mkdir()
            async with guarded(folder, document) as mesh:
                expected = PERMITTED if exempt else dict.fromkeys(KINDS, 403)
                assert await statuses(mesh) == expected


def _authz(endpoint: Endpoint) -> Document:
    return patch_of("CLUSTER", "ADD", cluster("authz", endpoint))


async def test_a_fault_hits_every_request(tmp_path: Path) -> None:
    kind = f"{TYPE}fault.v3.HTTPFault"
    abort = {"http_status": 418, "percentage": {"numerator": 100, "denominator": "HUNDRED"}}
    document = team("envoy.filters.http.fault", {"@type": kind}, {"@type": kind, "abort": abort})
    del document["spec"]["configPatches"][0]  # Istio's chain has the filter
    async with guarded(tmp_path, document) as mesh:
        assert await statuses(mesh) == dict.fromkeys(KINDS, 418)


async def test_cors_is_that_of_the_services_route(tmp_path: Path) -> None:
    kind, origin = f"{TYPE}cors.v3.Cors", "https://shop.example"
    cors = {"allow_origin_string_match": [{"exact": origin}], "allow_methods": "GET"}
    document = team("envoy.filters.http.cors", {"@type": kind}, {"@type": f"{kind}Policy", **cors})
    del document["spec"]["configPatches"][0]
    async with guarded(tmp_path, document) as mesh:
        for method in ("OPTIONS", "GET"):
            found = await responses(mesh, method, origin=origin, access_control_request_method="GET")
            allowed = {kind: each.headers.get("access-control-allow-origin") for kind, each in found.items()}
            assert allowed == dict.fromkeys(KINDS, origin), method


async def test_a_filter_that_a_team_inserts_before_the_router_is_passed_by_no_one(tmp_path: Path) -> None:
    """Though its EnvoyFilter is newer than ours."""
    kind = f"{TYPE}fault.v3.HTTPFault"
    abort = {"http_status": 418, "percentage": {"numerator": 100, "denominator": "HUNDRED"}}
    document = team("team.fault", {"@type": kind}, {"@type": kind, "abort": abort})
    router = {"name": HCM, "subFilter": {"name": "envoy.filters.http.router"}}
    document["spec"]["configPatches"][0]["match"]["listener"] = {"filterChain": {"filter": router}}
    async with guarded(tmp_path, document, scope="both") as mesh:
        assert await statuses(mesh) == dict.fromkeys(KINDS, 418)


async def test_a_filter_that_a_route_turns_off_is_met_with_a_contract(tmp_path: Path) -> None:
    """Which filters a request meets is fixed by its first route: `devroute manifests check` warns of it."""
    policies = {"all": {"permissions": [{"any": True}], "principals": [{"any": True}]}}
    name, kind = "envoy.filters.http.rbac", f"{TYPE}rbac.v3.RBAC"
    off = {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": True}
    document = team(name, {"@type": kind, "rules": {"action": "DENY", "policies": policies}}, off)
    async with guarded(tmp_path, document) as mesh:
        assert await statuses(mesh) == dict.fromkeys(KINDS, 403) | {"plain": 200}
