"""The ambient example on a real Envoy, shaped as istiod shapes a waypoint: the TrafficExtension is a Lua
filter for all requests of the service, the HTTPRoute is its routes."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession, ClientTimeout

from devroute.mesh.envoy import running
from devroute.mesh.istio.sidecar import Document, Endpoint, Sidecar, bootstrap
from devroute.mesh.manifests.examples import ambient
from devroute.mesh.manifests.installation import Installation
from devroute.mesh.manifests.model import WorkloadScope
from tests.envoy.harness import PROXY, FakeProxy, Mesh, from_app, from_proxy, serving

pytestmark = pytest.mark.mesh

CONTRACT = {"x-devroute": '{"foo": "alice"}'}
DESTINATIONS = {"foo": "inbound|8080||", PROXY.name: PROXY.data_cluster}


def waypoint(documents: list[Document], app: Endpoint, clusters: dict[str, Endpoint]) -> Document:
    """The configuration that istiod generates from the example's documents for this service."""
    extension, route, grant = documents
    configuration = bootstrap(Sidecar("foo", app, namespace="shop", clusters=clusters))
    listener = configuration["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    lua = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua",
        "default_source_code": {"inline_string": extension["spec"]["lua"]["inlineCode"]},
    }
    manager["http_filters"].insert(-1, {"name": "extensions.istio.io/lua/devroute", "typed_config": lua})
    manager["route_config"]["virtual_hosts"][0]["routes"] = [_route(rule) for rule in route["spec"]["rules"]]
    granted = {each["name"] for each in grant["spec"]["to"]}
    crossing = {b["name"] for rule in route["spec"]["rules"] for b in rule["backendRefs"] if "namespace" in b}
    assert crossing == granted
    return configuration


def _route(rule: Document) -> Document:
    (backend,) = rule["backendRefs"]
    headers = [
        {"name": each["name"], "string_match": {"exact": each["value"]}}
        for match in rule.get("matches", [])
        for each in match["headers"]
    ]
    route = {"cluster": DESTINATIONS[backend["name"]], "timeout": "0s"}
    return {"match": {"prefix": "/", "headers": headers}, "route": route}


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    proxy = FakeProxy()
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(serving(from_app))
        data = await stack.enter_async_context(serving(from_proxy))
        control = await stack.enter_async_context(serving(proxy.resolve))
        documents = ambient(Installation(), WorkloadScope("shop", "foo"), 8080)
        clusters = {PROXY.data_cluster: data, PROXY.control_cluster: control}
        configuration = waypoint(documents, app, clusters)
        envoy = await stack.enter_async_context(running(configuration, tmp_path, "waypoint", {}))
        client = await stack.enter_async_context(ClientSession(timeout=ClientTimeout(total=20)))
        yield Mesh(envoy, client, proxy)


async def get(mesh: Mesh, headers: dict[str, str]) -> tuple[ClientResponse, Any]:
    async with mesh.client.get(mesh.url, headers=headers) as response:
        return response, json.loads(await response.read())


async def test_a_detour_goes_to_the_proxy_and_names_the_service(mesh: Mesh) -> None:
    mesh.proxy.says("detour", service="foo", ttl=1000)
    _, seen = await get(mesh, {**CONTRACT, "x-devroute-matched": "bar"})
    assert seen["who"] == "proxy"
    assert [value for key, value in seen["headers"] if key.lower() == "x-devroute-matched"] == ["foo"]
    asked = mesh.proxy.asked[0].headers
    assert (asked["x-devroute-candidates"], asked["x-devroute-namespace"]) == ("foo", "shop")


async def test_a_contract_in_the_baggage_alone_is_found(mesh: Mesh) -> None:
    mesh.proxy.says("detour", service="foo", ttl=1000)
    _, seen = await get(mesh, {"baggage": "a=b,devroute=%7B%22foo%22%3A%22alice%22%7D"})
    assert seen["who"] == "proxy"


async def test_a_fallback_has_its_reason(mesh: Mesh) -> None:
    mesh.proxy.says("fallback", reason="laptop alice is offline", ttl=1000)
    response, seen = await get(mesh, CONTRACT)
    assert seen["who"] == "app"
    assert response.headers["x-devroute-result"] == "fallback"
    assert response.headers["x-devroute-reason"] == "laptop alice is offline"


async def test_an_error_is_returned_at_once(mesh: Mesh) -> None:
    mesh.proxy.says("error", status=400, reason="bad", body='{"code": "contract-invalid"}')
    response, seen = await get(mesh, {"x-devroute": "{"})
    assert (response.status, seen["code"]) == (400, "contract-invalid")
    assert response.headers["x-devroute-result"] == "error"


@pytest.mark.parametrize("decision", [{"decision": "version", "version": "v2"}, {"decision": "mirror"}])
async def test_the_service_responds_to_decisions_that_a_waypoint_cannot_follow(
    mesh: Mesh, decision: dict[str, str]
) -> None:
    mesh.proxy.says(decision.pop("decision"), service="foo", ttl=1000, **decision)
    response, seen = await get(mesh, CONTRACT)
    assert (seen["who"], response.headers["x-devroute-result"]) == ("app", "fallback")


@pytest.mark.parametrize("contract", [{}, {"x-devroute": '{"bar": "alice"}'}])
async def test_a_spoofed_marker_is_removed(mesh: Mesh, contract: dict[str, str]) -> None:
    _, seen = await get(mesh, {**contract, "x-devroute-matched": "foo"})
    assert seen["who"] == "app"
    assert "x-devroute-matched" not in {key.lower() for key, _ in seen["headers"]}
    assert mesh.proxy.asked == []


async def test_other_requests_are_unchanged(mesh: Mesh) -> None:
    response, seen = await get(mesh, {})
    assert seen["who"] == "app"
    assert not {key for key in response.headers if key.lower().startswith("x-devroute")}
