"""The options of a contract, through real Envoy and, where it takes part, the real proxy."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from devroute.contract.grammar import parse
from devroute.errors import ContractInvalid
from devroute.mesh.istio.sidecar import Endpoint
from devroute.mesh.manifests.model import MeshScope
from tests.envoy.certificates import MeshCa
from tests.envoy.harness import Mesh, serving, sidecar_of_foo
from tests.envoy.real import Mesh as RealMesh
from tests.envoy.real import real_mesh
from tests.support.paths import VECTORS

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

CONTRACT = '{"foo": "192.0.2.1:8001"}'


async def verdict_of(asked: Any) -> tuple[int, str | None, str | None, dict[str, Any]]:
    """Status, result, reason and body."""
    async with asked as response:
        body = await response.json()
        headers = response.headers
        return response.status, headers.get("x-devroute-result"), headers.get("x-devroute-reason"), body


def answering(who: str) -> Any:
    async def answer(request: web.Request) -> web.Response:
        size = len(await request.read())
        return web.json_response({"who": who, "size": size, "via": request.headers.get("x-devroute-via")})

    return answer


async def slowly(_: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def begins(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-length": "100"})
    await response.prepare(request)
    await response.write(b"half")
    await asyncio.Event().wait()
    raise AssertionError


# --- conditions --------------------------------------------------------------------------------------------


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with sidecar_of_foo(tmp_path, MeshScope()) as found:
        yield found


@pytest.mark.parametrize(
    ("condition", "method", "path", "unmet"),
    [
        ({"methods": "POST,PUT"}, "POST", "/", None),
        ({"methods": "POST,PUT"}, "GET", "/", "its method"),
        ({"path": "/api/"}, "GET", "/api/x?y=z", None),
        ({"path": "/api/"}, "GET", "/app/../apix", "its path"),
        ({"percent": 100, "methods": "GET", "path": "/"}, "GET", "/", None),
        ({"percent": 0}, "GET", "/", "its percentage"),
    ],
)
@pytest.mark.asyncio(loop_scope="function")
async def test_methods_path_and_percent(
    mesh: Mesh, condition: dict[str, object], method: str, path: str, unmet: str | None
) -> None:
    mesh.proxy.says("detour", service="foo", ttl=1000, **condition)
    asked = mesh.client.request(method, mesh.url + path, headers={"x-devroute": CONTRACT})
    _, result, reason, body = await verdict_of(asked)
    if unmet is None:
        assert (body["who"], result) == ("proxy", "laptop")
    else:
        expected = f"the contract leaves this request to the service: {unmet}"
        assert (body["who"], result, reason) == ("app", "service", expected)


@pytest.mark.asyncio(loop_scope="function")
async def test_percent_is_a_share_of_requests(mesh: Mesh) -> None:
    mesh.proxy.says("detour", service="foo", ttl=1000, percent=50)
    seen = [
        (await verdict_of(mesh.client.get(mesh.url, headers={"x-devroute": CONTRACT})))[3]["who"]
        for _ in range(200)
    ]
    assert 55 < seen.count("proxy") < 145  # 100 ± 6 sigma


WEB, BOSS = "spiffe://cluster.local/ns/shop/sa/web", "spiffe://cluster.local/ns/shop/sa/boss"


@pytest.mark.parametrize("callers", ["shop/web", f"other/x,{WEB}"])
@pytest.mark.asyncio(loop_scope="function")
async def test_from_is_the_callers_certificate_and_no_header(tmp_path: Path, callers: str) -> None:
    ca = MeshCa(tmp_path)
    mtls = ca.for_sidecar("spiffe://cluster.local/ns/shop/sa/foo")
    claims = {
        "x-devroute": CONTRACT,
        "x-devroute-caller": WEB,
        "x-forwarded-client-cert": f"By=spiffe://x;Hash=0;URI={WEB}",
    }
    async with sidecar_of_foo(tmp_path, MeshScope(), tls=mtls) as mesh:
        mesh.proxy.says("detour", service="foo", ttl=1000, **{"from": callers})
        began = time.monotonic()
        for identity, who, result in [(WEB, "proxy", "laptop"), (BOSS, "app", "service")]:
            context = ca.for_caller(identity)
            # On a new connection: the identity is the connection's.
            async with aiohttp.ClientSession() as client:
                url = f"https://{mesh.address}/"
                verdict = await verdict_of(client.get(url, ssl=context, headers=claims))
            assert (verdict[3]["who"], verdict[1]) == (who, result)
        assert len(mesh.proxy.asked) <= 1 + time.monotonic() - began, "one answer serves all callers"


@pytest.mark.asyncio(loop_scope="function")
async def test_without_mtls_no_caller_matches(mesh: Mesh) -> None:
    mesh.proxy.says("detour", service="foo", ttl=1000, **{"from": "shop/web"})
    claims = {"x-devroute": CONTRACT, "x-forwarded-client-cert": f"URI={WEB}"}
    _, result, _, body = await verdict_of(mesh.client.get(mesh.url, headers=claims))
    assert (body["who"], result) == ("app", "service")


# --- by the real proxy -------------------------------------------------------------------------------------


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def real(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RealMesh]:
    async with real_mesh(tmp_path_factory.mktemp("real")) as mesh:
        yield mesh


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def foo(real: RealMesh) -> str:
    """The URL of the service foo."""
    return await real.sidecar("foo", await real.stack.enter_async_context(serving(answering("app"))))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def laptop(real: RealMesh) -> str:
    """The address of an app that responds."""
    return "{}:{}".format(*await real.stack.enter_async_context(serving(answering("laptop"))))


def asking(contract: object) -> dict[str, str]:
    return {"x-devroute": json.dumps(contract)}


async def test_the_proxy_checks_conditions_too(real: RealMesh, foo: str, laptop: str) -> None:
    headers = asking({"foo": {"to": laptop, "methods": ["POST"], "path": "/api"}})
    for method, path, who in [("POST", "/api/x", "laptop"), ("GET", "/api/x", "app"), ("POST", "/x", "app")]:
        asked = real.client.request(method, foo + path, headers=headers)
        assert (await verdict_of(asked))[3]["who"] == who
        # The data port trusts no sidecar.
        direct = f"http://{real.proxy.data.host}:{real.proxy.data.port}{path}"
        asked = real.client.request(method, direct, headers=headers | {"x-devroute-matched": "foo"})
        status, _, _, body = await verdict_of(asked)
        assert (status, body.get("code")) == ((200, None) if who == "laptop" else (400, "condition-unmet"))


async def test_a_typo_is_an_error_with_its_correction_at_any_service(real: RealMesh, foo: str) -> None:
    """None of these contracts names foo."""
    cases = json.loads((VECTORS / "contracts.json").read_text())["invalid"]
    for case in cases:
        if "corrected" not in case:
            continue
        with pytest.raises(ContractInvalid) as caught:
            parse(case["contract"])
        asked = real.client.get(foo, headers={"x-devroute": case["contract"]})
        status, result, _, body = await verdict_of(asked)
        assert (status, result, body) == (400, "error", caught.value.as_dict()), case
    asked = real.client.get(foo, headers={"x-devroute": '{"bar": {"to": "[fd00::1]:80", "percent": 1e1}}'})
    assert (await verdict_of(asked))[3]["who"] == "app"


async def test_delay(real: RealMesh, foo: str, laptop: str) -> None:
    began = time.monotonic()
    size = 300_000
    asked = real.client.post(foo, headers=asking({"foo": {"to": laptop, "delay": "300ms"}}), data=bytes(size))
    status, result, _, body = await verdict_of(asked)
    assert (status, result, body["who"], body["size"]) == (200, "laptop", "laptop", size)
    assert time.monotonic() - began >= 0.3


@pytest.mark.parametrize("more", [{}, {"delay": "200ms"}])
async def test_abort_sends_no_request(real: RealMesh, foo: str, more: dict[str, str]) -> None:
    began = time.monotonic()
    asked = real.client.post(foo, headers=asking({"foo": {"to": "nobody", "abort": 418, **more}}), data=b"x")
    status, result, reason, body = await verdict_of(asked)
    assert (status, result, body["code"], body["service"]) == (418, "error", "fault-injected", "foo")
    assert reason == "responded with 418, as the contract asks"
    assert time.monotonic() - began >= (0.2 if more else 0)


@pytest.mark.parametrize("more", [{}, {"delay": "10s"}])
async def test_timeout_is_the_whole_time(real: RealMesh, foo: str, more: dict[str, str]) -> None:
    async with serving(slowly) as hung:
        contract = {"foo": {"to": f"{hung.host}:{hung.port}", "timeout": "200ms", **more}}
        status, result, _, body = await verdict_of(real.client.get(foo, headers=asking(contract)))
    assert (status, result, body["code"]) == (504, "error", "upstream-timeout")
    assert "took longer than 0.2 s" in body["message"]


async def test_a_response_that_times_out_in_the_middle_never_looks_complete(real: RealMesh, foo: str) -> None:
    async with serving(begins) as hung:
        for timeout in ("300ms", "3s", "12s"):  # a slow machine may not have begun to respond in time
            contract = {"foo": {"to": f"{hung.host}:{hung.port}", "timeout": timeout}}
            async with real.client.get(foo, headers=asking(contract)) as response:
                if response.status == 504:
                    continue
                assert response.status == 200
                with pytest.raises(aiohttp.ClientError):
                    await response.read()
                break
        else:
            pytest.fail("it never began to respond in time")


@pytest.mark.parametrize(
    ("contract", "reason", "code"),
    [
        ({"to": "nobody"}, "laptop 'nobody' is not online", "laptop-offline"),
        ({"to": "127.0.0.1:1025"}, "127.0.0.1:1025", "target-unreachable"),
        ({"to": "8.8.8.8:8001"}, "denied by policy", "target-denied"),
        ({"to": "version:v9"}, "version-missing: ", "version-missing"),
    ],
)
async def test_a_fallback_or_an_error_for_a_body_of_any_size(
    real: RealMesh, foo: str, contract: dict[str, str], reason: str, code: str
) -> None:
    size = 20_000_000
    asked = real.client.post(foo, headers=asking({"foo": contract}), data=bytes(size))
    _, result, said, body = await verdict_of(asked)
    assert (result, body["who"], body["size"]) == ("fallback", "app", size)
    assert reason in (said or "")
    asked = real.client.post(foo, headers=asking({"foo": contract | {"fallback": "fail"}}), data=b"x")
    _, result, _, body = await verdict_of(asked)
    assert (result, body["code"]) == ("error", code)


# --- versions ----------------------------------------------------------------------------------------------


async def test_a_version_is_served_by_its_subset_and_reported_once(real: RealMesh) -> None:
    async with serving(answering("v1")) as one, serving(answering("v2")) as two:
        there = await real.sidecar("foo", two, "foo-v2")  # it has the filter as well, and sees the contract
        host, port = there.removeprefix("http://").split(":")
        subset = "outbound|80|v2|foo.default.svc.cluster.local"
        here = await real.sidecar("foo", one, "foo-v1", {subset: Endpoint(host, int(port))})
        asked = asking({"foo": {"to": "version:v2", "percent": 99.999}}) | {"host": "foo"}
        async with real.client.get(here, headers=asked) as response:
            assert await response.json() == {"who": "v2", "size": 0, "via": "foo"}
            assert response.headers.getall("x-devroute-result") == ["version"]
            assert response.headers["x-devroute-reason"] == f"foo answered by {subset}"
        asked = asking({"foo": "version:v3"}) | {"host": "foo"}
        _, result, reason, body = await verdict_of(real.client.get(here, headers=asked))
        assert (result, body["who"]) == ("fallback", "v1")
        assert reason == "version-missing: the sidecar knows no version 'v3' of service 'foo'"


async def test_a_versions_timeout(real: RealMesh) -> None:
    async with serving(answering("v1")) as one, serving(slowly) as two:
        subset = "outbound|80|v2|foo.default.svc.cluster.local"
        here = await real.sidecar("foo", one, "foo-slow", {subset: two})
        asked = asking({"foo": {"to": "version:v2", "timeout": "200ms"}}) | {"host": "foo"}
        async with real.client.get(here, headers=asked) as response:
            assert (response.status, response.headers["x-devroute-result"]) == (504, "version")


# --- loops -------------------------------------------------------------------------------------------------


async def test_a_contract_that_leads_back_to_itself_ends(real: RealMesh, foo: str) -> None:
    itself = foo.removeprefix("http://")
    status, _, _, body = await verdict_of(real.client.get(foo, headers=asking({"foo": itself})))
    assert (status, body) == (200, {"who": "app", "size": 0, "via": "foo"})
    strict = asking({"foo": {"to": itself, "fallback": "fail"}})
    status, _, _, body = await verdict_of(real.client.get(foo, headers=strict))
    assert (status, body["code"], body["service"]) == (508, "loop", "foo")


async def test_a_proxy_that_receives_a_request_again_reports_a_loop(real: RealMesh, laptop: str) -> None:
    headers = asking({"foo": laptop}) | {"x-devroute-matched": "foo", "x-devroute-via": "foo, bar, foo"}
    direct = f"http://{real.proxy.data.host}:{real.proxy.data.port}/"
    status, result, _, body = await verdict_of(real.client.get(direct, headers=headers))
    assert (status, result, body["code"]) == (508, "error", "loop")
