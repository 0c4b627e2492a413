"""Policy on callers, through real Envoy with mTLS and the real proxy."""

import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from devroute.mesh import testbed
from devroute.mesh.manifests.model import MeshScope
from tests.envoy.certificates import MeshCa
from tests.envoy.harness import Mesh, serving, sidecar_of_foo
from tests.envoy.resumption import VERSIONS, get_resumed

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

POLICY = """\
direct: {networks: [127.0.0.0/8]}
callers:
- {from: [qa/*], services: [foo], targets: [127.0.0.1]}
"""
QA, WEB = "spiffe://cluster.local/ns/qa/sa/runner", "spiffe://cluster.local/ns/shop/sa/web"


async def laptop(request: web.Request) -> web.Response:
    return web.json_response({"who": "laptop", "caller": request.headers.get("x-devroute-caller")})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Mesh, MeshCa, testbed.RunningProxy, dict[str, str]]]:
    folder = tmp_path_factory.mktemp("callers")
    ca = MeshCa(folder)
    mtls = ca.for_sidecar("spiffe://cluster.local/ns/shop/sa/foo")
    async with (
        serving(laptop) as there,
        testbed.proxy(folder, [], POLICY) as proxy,
        sidecar_of_foo(
            folder, MeshScope(), control=proxy.control, data=proxy.data, tls=mtls, permissive=True
        ) as mesh,
    ):
        contract = {"foo": f"{there.host}:{there.port}"}
        yield mesh, ca, proxy, {"x-devroute": json.dumps(contract)}


async def ask(mesh: Mesh, ca: MeshCa, caller: str, headers: dict[str, str]) -> tuple[Any, Any]:
    async with (
        aiohttp.ClientSession() as client,  # a new connection: the identity is the connection's
        client.get(f"https://{mesh.address}/", ssl=ca.for_caller(caller), headers=headers) as response,
    ):
        return await response.json(), response


async def test_only_permitted_callers_reach_the_target(world: Any) -> None:
    mesh, ca, _, headers = world
    for _ in range(2):
        body, response = await ask(mesh, ca, QA, headers | {"x-devroute-caller": WEB})
        assert (body, response.headers["x-devroute-result"]) == ({"who": "laptop", "caller": QA}, "laptop")
        body, response = await ask(mesh, ca, WEB, headers | {"x-devroute-caller": QA})
        assert (body["who"], response.headers["x-devroute-result"]) == ("app", "fallback")
        assert f"no rule of callers lets '{WEB}' use this target" in response.headers["x-devroute-reason"]


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
async def test_callers_are_known_on_resumed_sessions_too(world: Any, version: ssl.TLSVersion) -> None:
    mesh, ca, _, headers = world
    target = json.loads(headers["x-devroute"])["foo"]
    by_contract = {"x-devroute": json.dumps({"foo": {"to": target, "from": ["qa/runner"]}})}
    for sent in (headers, by_contract):
        for identity, who in ((QA, "laptop"), (WEB, "app")):
            responses = await get_resumed(mesh.address, ca.for_caller(identity, version), sent)
            assert [each.resumed for each in responses] == [False, True, True]
            assert [each.body["who"] for each in responses] == [who] * 3
            if who == "laptop":
                assert [each.body["caller"] for each in responses] == [QA] * 3


async def test_a_plaintext_caller_of_a_permissive_listener_has_no_identity(world: Any) -> None:
    mesh, _, _, headers = world
    forged = {"x-devroute-caller": QA, "x-forwarded-client-cert": f"By={WEB};Hash=0;URI={QA}"}
    async with mesh.client.get(mesh.url, headers=headers | forged) as response:
        assert (await response.json())["who"] == "app"
        assert "a caller without a mesh identity" in response.headers["x-devroute-reason"]


async def test_a_certificate_of_another_authority_is_no_identity(world: Any, tmp_path: Path) -> None:
    mesh, ca, _, headers = world
    context = ca.for_caller(WEB)
    context.load_cert_chain(*MeshCa(tmp_path).workload(QA))
    async with aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.ClientError):
            await client.get(f"https://{mesh.address}/", ssl=context, headers=headers)


async def test_a_caller_that_policy_refuses_gets_an_error_with_fallback_fail(world: Any) -> None:
    mesh, ca, _, headers = world
    target = json.loads(headers["x-devroute"])["foo"]
    strict = {"x-devroute": json.dumps({"foo": {"to": target, "fallback": "fail"}})}
    body, response = await ask(mesh, ca, WEB, strict)
    assert (response.status, body["code"], body["service"]) == (403, "caller-denied", "foo")
    body, response = await ask(mesh, ca, QA, {"x-devroute": '{"foo": "alice"}'})
    assert "policy lists no caller that may use this target" in response.headers["x-devroute-reason"]


async def test_requests_of_a_sidecar_that_sends_no_caller_are_denied(world: Any) -> None:
    mesh, _, proxy, headers = world
    url = f"http://{proxy.data.host}:{proxy.data.port}/"
    async with mesh.client.get(url, headers=headers | {"x-devroute-matched": "foo"}) as response:
        assert (response.status, (await response.json())["code"]) == (403, "caller-denied")
