"""The shipped filter on a real Envoy, with a fake proxy: where requests go, and what responses report."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse, web

from devroute.mesh.istio.sidecar import Endpoint
from devroute.mesh.manifests.model import MeshScope, NamespaceScope, WorkloadScope
from devroute.quoting import reason_for_others
from tests.envoy.certificates import MeshCa
from tests.envoy.edge import verdict
from tests.envoy.harness import ATTEMPTS, PROXY, Mesh, sidecar_of_foo
from tests.support.eventually import PATIENCE_S
from tests.support.ports import free_port

pytestmark = pytest.mark.mesh

CONTRACT = '{"foo": "192.0.2.1:8001"}'
#: Fields that Envoy and the client set for each request.
VOLATILE = {"x-request-id", "host"}

Headers = dict[str, str] | list[tuple[str, str]]


async def get(mesh: Mesh, headers: Headers, path: str = "/") -> tuple[ClientResponse, dict[str, Any]]:
    async with mesh.client.get(mesh.url + path, headers=headers) as response:
        return response, json.loads(await response.read())


def fields(seen: dict[str, Any]) -> list[tuple[str, str]]:
    return sorted((key, value) for key, value in seen["headers"] if key.lower() not in VOLATILE)


# --- other requests are unchanged ---------------------------------------------------------------------------


async def test_a_request_without_a_contract_is_unchanged(tmp_path: Path, mesh: Mesh) -> None:
    (tmp_path / "plain").mkdir()
    sent = {"x-devroute-matched": "foo", "x-devroute-result": "laptop", "x-own": "yes"}
    async with sidecar_of_foo(tmp_path / "plain") as plain:
        with_filter, seen = await get(mesh, sent)
        without, expected = await get(plain, sent)
    assert seen["who"] == "app"
    assert fields(seen) == fields(expected)
    assert with_filter.headers.keys() == without.headers.keys()
    assert verdict(with_filter) == (None, None)
    assert await mesh.envoy.lua("executions") == 0


async def test_a_contract_for_others_adds_its_carriers_and_the_result_and_nothing_else(
    tmp_path: Path, mesh: Mesh
) -> None:
    (tmp_path / "plain").mkdir()
    sent = {"x-devroute": '{"bar": "192.0.2.1:80"}', "x-devroute-matched": "foo", "x-devroute-cluster": "x"}
    async with sidecar_of_foo(tmp_path / "plain") as plain:
        with_filter, seen = await get(mesh, sent)
        without, expected = await get(plain, sent)
    assert (seen["who"], verdict(with_filter)) == ("app", ("service", reason_for_others(["bar"])))
    baggage = ("baggage", "devroute=%7B%22bar%22%3A%22192.0.2.1%3A80%22%7D")
    state = ("tracestate", 'devroute={"bar":"192.0.2.1:80"}')
    (parent,) = [each for each in fields(seen) if each[0] == "traceparent"]
    assert fields(seen) == sorted([*fields(expected), baggage, state, parent])
    added = {"x-devroute-result", "x-devroute-reason"}
    assert with_filter.headers.keys() - without.headers.keys() == added
    assert mesh.proxy.asked == []


async def test_a_spoofed_marker_decides_nothing(mesh: Mesh) -> None:
    mesh.proxy.says("service")
    spoofed = {
        "x-devroute": CONTRACT,
        "x-devroute-matched": "foo",
        "x-devroute-cluster": PROXY.data_cluster,
        "x-devroute-shadow": PROXY.data_cluster,
        "devroute": "error",
        "result": "error",
    }
    response, seen = await get(mesh, spoofed)
    assert (seen["who"], verdict(response)) == ("app", ("service", None))


# --- a detour --------------------------------------------------------------------------------------------


async def test_a_detour_reaches_the_proxy_with_contract_and_service(mesh: Mesh) -> None:
    mesh.proxy.says("detour", service="foo", ttl=1000)
    evil = dict.fromkeys(("x-devroute-matched", "x-devroute-cluster", "x-devroute-shadow"), "evil")
    response, seen = await get(mesh, {"x-devroute": CONTRACT} | evil)
    assert (seen["who"], verdict(response)) == ("proxy", ("laptop", None))
    headers = {key.lower(): value for key, value in seen["headers"]}
    assert "evil" not in headers.values()
    assert (headers["x-devroute"], headers["x-devroute-matched"]) == (CONTRACT, "foo")
    assert sum(key.lower() == "x-devroute-matched" for key, _ in seen["headers"]) == 1
    asked = mesh.proxy.asked[0]
    assert (asked.method, asked.path) == ("GET", "/resolve")
    assert asked.headers["x-devroute"] == CONTRACT
    assert asked.headers["x-devroute-candidates"] == "foo"
    assert asked.headers["x-devroute-namespace"] == "default"
    assert "x-devroute-caller" not in asked.headers


async def test_a_detoured_body_streams_both_ways(mesh: Mesh) -> None:
    mesh.proxy.says("detour", service="foo", ttl=1000)
    turn: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while (piece := await turn.get()) is not None:
            yield piece

    turn.put_nowait(b"first")
    request = mesh.client.post(mesh.url + "/stream", headers={"x-devroute": CONTRACT}, data=body())
    async with request as response:
        assert await response.content.readany() == b"first", "the answer has begun before the request's end"
        turn.put_nowait(b"second")
        assert await response.content.readany() == b"second"
        turn.put_nowait(None)
        assert await response.content.read() == b""


@pytest.mark.parametrize(("decision", "who"), [("detour", "proxy"), ("service", "app")])
async def test_an_upgrade_follows_the_decision(mesh: Mesh, decision: str, who: str) -> None:
    mesh.proxy.says(decision, service="foo", ttl=1000)
    async with mesh.client.ws_connect(mesh.url + "/socket", headers={"x-devroute": CONTRACT}) as socket:
        await socket.send_str("hello")
        assert await socket.receive_str(timeout=PATIENCE_S) == f"{who} received hello"


async def test_a_large_body_waits_for_a_slow_decision(mesh: Mesh) -> None:
    decided = asyncio.Event()

    async def slowly(_: web.Request) -> web.Response:
        await decided.wait()
        return web.Response(text="devroute 1\ndecision detour\nservice foo\nttl 0\n")

    mesh.proxy.answer = slowly
    asyncio.get_running_loop().call_later(0.2, decided.set)
    size = 30_000_000
    async with mesh.client.post(mesh.url, headers={"x-devroute": CONTRACT}, data=bytes(size)) as response:
        seen = json.loads(await response.read())
    assert (seen["who"], seen["size"]) == ("proxy", size)


async def test_a_proxy_that_dies_after_its_decision_is_an_error_with_that_reason(tmp_path: Path) -> None:
    async with sidecar_of_foo(tmp_path, MeshScope(), data=closed_port()) as mesh:
        mesh.proxy.says("detour", service="foo", ttl=1000)
        async with mesh.client.get(mesh.url, headers={"x-devroute": CONTRACT}) as response:
            assert response.status == 503
            assert verdict(response)[0] == "error"


# --- the real service, whatever happens ------------------------------------------------------------------


def closed_port() -> Endpoint:
    return Endpoint("127.0.0.1", free_port())


async def test_the_proxys_fallback_is_passed_on(mesh: Mesh) -> None:
    mesh.proxy.says("fallback", reason="alice is offline", ttl=100)
    response, seen = await get(mesh, {"x-devroute": CONTRACT})
    assert (seen["who"], verdict(response)) == ("app", ("fallback", "alice is offline"))


async def test_an_unreachable_proxy_costs_nothing(tmp_path: Path) -> None:
    async with sidecar_of_foo(tmp_path, MeshScope(), control=closed_port()) as mesh:
        response, seen = await get(mesh, {"x-devroute": CONTRACT})
    assert seen["who"] == "app"
    assert verdict(response) == ("fallback", "the devroute proxy cannot be reached")


async def test_a_proxy_that_hangs_costs_half_a_second_once(tmp_path: Path) -> None:
    async def never(_: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with sidecar_of_foo(tmp_path, MeshScope(), hurried=True) as mesh:
        mesh.proxy.answer = never
        began = time.monotonic()
        response, seen = await get(mesh, {"x-devroute": CONTRACT})
        assert time.monotonic() - began >= 0.45
        _, seen_next = await get(mesh, {"x-devroute": CONTRACT})
        assert seen["who"] == "app"
        assert verdict(response) == ("fallback", "the devroute proxy did not respond within 500 ms")
        assert seen_next["who"] == "app"
        assert len(mesh.proxy.asked) <= ATTEMPTS * (1 + time.monotonic() - began)


@pytest.mark.parametrize(
    ("status", "text", "reason"),
    [
        (200, "<html>hello</html>", "the devroute proxy's response was not understood"),
        (200, "", "the devroute proxy's response was not understood"),
        (
            500,
            "devroute 1\ndecision detour\nservice foo\n",
            "the devroute proxy responded to the sidecar with status 500",
        ),
        (
            200,
            "devroute 1\ndecision detour\nservice a\x01b\n",
            "the devroute proxy's response was not understood",
        ),
    ],
)
async def test_an_invalid_response_of_the_proxy_leaves_the_request_to_the_service(
    mesh: Mesh, status: int, text: str, reason: str
) -> None:
    async def nonsense(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text)

    mesh.proxy.answer = nonsense
    response, seen = await get(mesh, {"x-devroute": CONTRACT})
    assert (seen["who"], verdict(response)) == ("app", ("fallback", reason))


async def test_a_sidecar_without_the_proxys_clusters(tmp_path: Path) -> None:
    async with sidecar_of_foo(tmp_path, MeshScope(), clusters=False) as mesh:
        response, seen = await get(mesh, {"x-devroute": CONTRACT})
    assert seen["who"] == "app"
    result, reason = verdict(response)
    assert result == "fallback"
    assert reason is not None
    assert reason.startswith("the sidecar does not know the cluster of the devroute proxy; ")
    assert reason.endswith("devroute/*?")


async def test_a_filter_that_makes_no_decision_leaves_the_request_to_the_service(tmp_path: Path) -> None:
    broken = "function envoy_on_request(handle) error('x') end"
    async with sidecar_of_foo(tmp_path, MeshScope(), code=broken) as mesh:
        response, seen = await get(mesh, {"x-devroute": CONTRACT})
        assert (seen["who"], verdict(response)) == ("app", (None, None))
        assert await mesh.envoy.lua("errors") == 1


async def test_a_first_filter_that_fails_is_an_error_and_no_detour(tmp_path: Path) -> None:
    broken = "function envoy_on_request(handle) error('x') end"
    async with sidecar_of_foo(tmp_path, MeshScope(), front=broken, code="") as mesh:
        async with mesh.client.get(mesh.url, headers={"x-devroute": CONTRACT}) as response:
            assert response.status == 500
            assert response.content_type == "application/json"
            assert (await response.json())["code"] == "internal"
            assert verdict(response)[0] == "error"
        assert await mesh.envoy.lua("errors") == 1


# --- errors ----------------------------------------------------------------------------------------------


async def test_the_proxys_error_is_the_response(mesh: Mesh) -> None:
    mesh.proxy.says(
        "error", status=400, reason="not a contract", body='{"code": "contract-invalid"}', ttl=100
    )
    response, seen = await get(mesh, {"x-devroute": "[1, 2]"})
    assert (response.status, response.content_type, seen) == (
        400,
        "application/json",
        {"code": "contract-invalid"},
    )
    assert verdict(response) == ("error", "not a contract")
    assert response.headers.getall("x-devroute-result") == ["error"]


async def test_a_repeated_contract_is_an_error(mesh: Mesh) -> None:
    response, seen = await get(mesh, [("x-devroute", CONTRACT), ("x-devroute", "{}")])
    assert (response.status, seen.get("code")) == (400, "contract-invalid"), seen
    assert mesh.proxy.asked == []


async def test_a_contract_of_9_kib_is_an_error_and_59_kib_of_other_headers_pass(mesh: Mesh) -> None:
    mesh.proxy.says("detour", service="foo", ttl=1000)
    response, seen = await get(mesh, {"x-devroute": CONTRACT.replace("192", " " * 9000)})
    assert (response.status, seen["code"]) == (400, "contract-invalid")
    many = {f"x-many-{number}": "v" * 980 for number in range(58)}
    response, seen = await get(mesh, {"x-devroute": CONTRACT} | many)
    assert seen["who"] == "proxy"
    assert many.items() <= dict(seen["headers"]).items()


# --- the cache and the name ------------------------------------------------------------------------------


async def test_a_decision_is_requested_once_in_its_lifetime(mesh: Mesh) -> None:
    mesh.proxy.says("detour", service="foo", ttl=1000)
    began = time.monotonic()
    for _ in range(20):
        _, seen = await get(mesh, {"x-devroute": CONTRACT})
        assert seen["who"] == "proxy"
    assert len(mesh.proxy.asked) <= 1 + time.monotonic() - began


async def test_requests_at_once_get_their_own_decisions(mesh: Mesh) -> None:
    async def by_contract(request: web.Request) -> web.Response:
        number = int(json.loads(request.headers["x-devroute"])["foo"])
        text = "detour\nservice foo" if number % 2 else f"fallback\nreason number {number}"
        return web.Response(text=f"devroute 1\ndecision {text}\nttl 500\n")

    mesh.proxy.answer = by_contract
    contracts = [json.dumps({"foo": str(number % 10)}) for number in range(100)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(get(mesh, {"x-devroute": contract})) for contract in contracts]
    for number, task in enumerate(tasks):
        response, seen = task.result()
        expected = ("laptop", None) if number % 2 else ("fallback", f"number {number % 10}")
        assert (seen["who"], verdict(response)) == ("proxy" if number % 2 else "app", expected)


async def test_a_workloads_own_filter_gives_its_name_beside_the_mesh_wide_one(tmp_path: Path) -> None:
    own = WorkloadScope("default", "given", {"app": "foo"})
    async with sidecar_of_foo(tmp_path, MeshScope(), own) as mesh:
        mesh.proxy.says("detour", service="given", ttl=0)
        _, seen = await get(mesh, {"x-devroute": '{"given": "192.0.2.1:80"}'})
        assert seen["who"] == "proxy"
        response, seen = await get(mesh, {"x-devroute": CONTRACT})
        assert (seen["who"], verdict(response)) == ("app", ("service", reason_for_others(["foo"])))
        assert [each.headers["x-devroute-candidates"] for each in mesh.proxy.asked] == ["given"]


async def test_a_namespaces_filter_gives_the_namespace(tmp_path: Path) -> None:
    async with sidecar_of_foo(tmp_path, NamespaceScope("default")) as mesh:
        mesh.proxy.says("detour", service="foo", ttl=0)
        await get(mesh, {"x-devroute": CONTRACT})
        assert mesh.proxy.asked[0].headers["x-devroute-namespace"] == "default"


async def test_under_mtls_the_sni_names_the_service(tmp_path: Path) -> None:
    ca = MeshCa(tmp_path)
    mtls = ca.for_sidecar("spiffe://cluster.local/ns/shop/sa/foo")
    async with sidecar_of_foo(tmp_path, MeshScope(), tls=mtls, environment={}) as mesh:
        mesh.proxy.says("detour", service="foo", ttl=1000)
        context = ca.for_caller("spiffe://cluster.local/ns/shop/sa/web")
        dialled = "outbound_.8080_._.foo.default.svc.cluster.local"
        sent = {"ssl": context, "server_hostname": dialled, "headers": {"x-devroute": CONTRACT}}
        async with mesh.client.get(f"https://{mesh.address}/", **sent) as response:
            assert (await response.json())["who"] == "proxy"
    asked = mesh.proxy.asked[0].headers
    assert asked["x-devroute-candidates"] == "foo"
    assert asked["x-devroute-namespace"] == "default"


async def test_a_sidecar_that_cannot_know_its_name_reports_it(tmp_path: Path) -> None:
    async with sidecar_of_foo(tmp_path, MeshScope(), environment={}) as mesh:
        response, seen = await get(mesh, {"x-devroute": CONTRACT})
    assert (seen["who"], response.headers["x-devroute-result"]) == ("app", "fallback")
    assert "DEVROUTE_SERVICE" in response.headers["x-devroute-reason"]
