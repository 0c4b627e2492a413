"""Laptops that take some paths only, or decline requests: through real Envoy, with another Envoy as the
proxy's mesh egress."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from devroute.mesh.envoy import running
from devroute.mesh.istio.sidecar import Document, Endpoint
from tests.envoy.certificates import MeshCa
from tests.envoy.egress import callers_policy, egress
from tests.envoy.harness import serving
from tests.envoy.real import Mesh, real_mesh
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.paths import VECTORS
from tests.support.ports import free_port

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

BIG = 200_000
FOO_IDENTITY = "spiffe://cluster.local/ns/default/sa/foo"


@dataclass
class Party:
    """A service foo, and laptops with a foo of their own that respond with the status of the query; `seen`:
    the methods of the requests that reached a laptop, by path."""

    mesh: Mesh
    foo: str
    ca: MeshCa
    seen: dict[str, list[str]] = field(default_factory=dict)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)  # a request at the service

    async def ask(
        self, person: str, path: str, method: str = "GET", option: Document | None = None, **more: Any
    ) -> tuple[int, str, str, dict[str, Any]]:
        """Status, result, reason and body."""
        contract = json.dumps({"foo": {"to": person, **(option or {})}})
        headers = {"x-devroute": contract, "host": "shop.example", **more.pop("headers", {})}
        async with self.mesh.client.request(method, self.foo + path, headers=headers, **more) as response:
            body = await response.json()
            said = response.headers
            return response.status, said["x-devroute-result"], said.get("x-devroute-reason", ""), body


async def real_service(request: web.Request) -> web.Response:
    body = await request.read()
    headers = {name.lower(): value for name, value in request.headers.items()}
    return web.json_response(
        {"who": "service", "host": request.host, "size": len(body), "headers": headers, "path": request.path}
    )


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def party(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Party]:
    folder, port = tmp_path_factory.mktemp("failover"), free_port()
    people = {
        "alice": ["--except-status", "404,503"],
        "bob": ["--only-path", "/api/", "--only-path", "/v2/"],
        "carol": ["--except-status", "404", "--except-methods", "GET,POST"],
    }
    tokens = {name: new_token(name, created="2026-01-01") for name in people}
    records = [record for _, record in tokens.values()]
    async with real_mesh(folder, *records, mesh_egress=f"http://127.0.0.1:{port}") as mesh:
        found = Party(mesh, "", MeshCa(folder))

        async def laptop(request: web.Request) -> web.StreamResponse:
            found.seen.setdefault(request.path_qs, []).append(request.method)
            if request.path == "/events":
                response = web.StreamResponse()
                await response.prepare(request)
                async for piece in request.content.iter_any():
                    await response.write(piece)
                return response
            if "early" not in request.query:
                await request.read()
            status = int(request.query.get("status", "200"))
            return web.json_response({"who": "laptop"}, status=status)

        app = await mesh.stack.enter_async_context(serving(laptop))

        async def service_told(request: web.Request) -> web.Response:
            found.arrived.set()
            return await real_service(request)

        service = await mesh.stack.enter_async_context(serving(service_told))
        ca = found.ca
        tls = ca.for_sidecar(FOO_IDENTITY)
        found.foo = await mesh.sidecar(
            "foo", service, knows_itself=True, tls=tls, permissive=True, teams=[callers_policy()]
        )
        inside = Endpoint("127.0.0.1", int(found.foo.rpartition(":")[2]))
        await mesh.stack.enter_async_context(
            running(egress(port, {"foo": inside}, "foo", ca), folder, "egress", {})
        )
        for name, options in people.items():
            secret, _ = tokens[name]
            started = testbed.laptop(folder, name, mesh.proxy.server, secret, f"foo={app.port}", *options)
            await mesh.stack.enter_async_context(started)
        yield found


# --- some paths only ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "who"),
    [
        ("/api/a?b=c", "laptop"),
        ("/v2/", "laptop"),
        ("/", "service"),
        ("/api", "service"),
        ("/x/api/", "service"),
    ],
)
async def test_a_laptop_takes_only_the_paths_that_it_offers(party: Party, path: str, who: str) -> None:
    before = list(party.seen.get(path, []))
    status, result, reason, body = await party.ask("bob", path)
    assert (status, result, body["who"]) == (200, who, who)
    if who == "service":
        assert reason == "the laptop leaves this request to the service: its path"
        assert party.seen.get(path, []) == before


async def test_the_contracts_own_path_holds_as_well(party: Party) -> None:
    assert (await party.ask("bob", "/v2/x", option={"path": "/api/"}))[1] == "service"
    assert (await party.ask("bob", "/api/x", option={"path": "/api/"}))[1] == "laptop"


async def test_no_spelling_of_a_path_reaches_a_laptop_that_does_not_take_it(party: Party) -> None:
    """As Envoy leaves it, sidecar and proxy read each path alike."""
    table = json.loads((VECTORS / "sidecar" / "path.json").read_text())["cases"]
    host, _, port = party.foo.removeprefix("http://").rpartition(":")
    head = f"host: foo\r\nconnection: close\r\nx-devroute: {json.dumps({'foo': 'bob'})}\r\n\r\n"
    taken = set()
    for path in [case["path"] for case in table if case["prefix"] == "/api/" and len(case["path"]) < 4000]:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\n{head}".encode())
        response = (await reader.read()).decode()
        writer.close()
        assert "path-not-offered" not in response, path
        if '"who": "laptop"' in response:
            taken.add(path)
    certain = {case["path"] for case in table if case["prefix"] == "/api/" and case["under"]}
    assert {each for each in certain if len(each) < 4000} <= taken
    assert all(unquote(each.partition("?")[0]).startswith("/api/") for each in certain)
    resolved = {"/api/./a", "/api/.", "/api/.;/a", "http://foo/api/"}  # by Envoy, to what is under the prefix
    assert taken - certain <= resolved


async def test_the_proxy_refuses_requests_that_the_filter_should_have_left_to_the_service(
    party: Party,
) -> None:
    url = "http://{}:{}/other".format(*party.mesh.proxy.data)
    headers = {"x-devroute": '{"foo": "bob"}', "x-devroute-matched": "foo"}
    async with party.mesh.client.get(url, headers=headers) as response:
        assert (response.status, (await response.json())["code"]) == (400, "path-not-offered")


# --- failover -----------------------------------------------------------------------------------------------


def failovers_of_alice(party: Party) -> list[dict[str, object]]:
    """Those in the audit log."""
    events = party.mesh.proxy.command.events()
    told = [each for each in events if "audit" in each and "failover from" in str(each.get("reason"))]
    return [each for each in told if each["target"] == "alice"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_the_service_responds_to_what_the_laptop_declines(party: Party, method: str) -> None:
    path = f"/thing-{method}?status=404"
    contract = '{"foo": "alice"}'
    headers = {"x-devroute": contract, "host": "shop.example"}
    data = b"x" * 1000 if method == "PUT" else None
    before = len(failovers_of_alice(party))
    request = party.mesh.client.request(method, party.foo + path, headers=headers, data=data)
    async with request as response:
        assert (response.status, response.headers["x-devroute-result"]) == (200, "service")
        assert response.headers["x-devroute-reason"] == "foo: failover from laptop alice (404)"
        body = {} if method == "HEAD" else await response.json()
    assert party.seen[path] == [method]  # the laptop was asked first, and once
    told = await eventually(lambda: failovers_of_alice(party)[before:])  # the audit log is written in batches
    assert {each["decision"] for each in told} == {"service"}
    if body:
        assert (body["who"], body["size"], body["host"]) == ("service", len(data or b""), "shop.example")
        seen = body["headers"]
        assert seen["x-devroute"] == contract  # requests of the service to others may be detoured
        ours = {name for name in seen if name.startswith("x-devroute-")}
        assert ours <= {"x-devroute-via"}


@pytest.mark.parametrize("identity", [None, "spiffe://cluster.local/ns/shop/sa/web", FOO_IDENTITY])
async def test_only_the_proxy_s_certificate_lets_a_request_fail_over(
    party: Party, identity: str | None
) -> None:
    """Otherwise a workload could pass an AuthorizationPolicy by host, which the sidecar tests before."""
    headers = {"x-devroute": '{"foo": "alice"}', "host": "shop.example"}
    forged = {"x-devroute-failover": "foo", "x-devroute-host": "admin.example"}
    url = party.foo if identity is None else party.foo.replace("http:", "https:")
    context = identity is not None and party.ca.for_caller(identity)
    async with aiohttp.ClientSession() as client:
        for contract, who in (
            ('{"foo": "alice"}', "laptop"),
            ('{"foo": "nobody"}', "service"),
            ('{"bar": "alice"}', "service"),
        ):
            sent = headers | forged | {"x-devroute": contract}
            async with client.get(url, headers=sent, ssl=context or True) as response:
                body = await response.json()
            assert body["who"] == who
            if who == "service":
                assert body["host"] == "shop.example"
                assert not {"x-devroute-failover", "x-devroute-host"} & body["headers"].keys()


async def test_the_proxy_passes_on_no_failover_of_others(party: Party) -> None:
    """A workload may reach the data port without a sidecar's filter, and ask for a target in the mesh."""
    url = "http://{}:{}/".format(*party.mesh.proxy.data)
    async with serving(real_service) as target:
        contract = json.dumps({"foo": f"{target.host}:{target.port}"})
        forged = {
            "x-devroute-failover": "foo",
            "X-Devroute-Host": "admin.example",
            "X-Devroute-Subject": "alice",
        }
        headers = {
            "x-devroute": contract,
            "x-devroute-matched": "foo",
            "connection": "x-devroute-host",
            **forged,
        }
        async with party.mesh.client.get(url, headers=headers) as response:
            seen = (await response.json())["headers"]
    assert "x-devroute" in seen
    assert not {"x-devroute-failover", "x-devroute-host", "x-devroute-subject"} & seen.keys()


async def test_a_response_that_is_not_declined_is_the_laptops(party: Party) -> None:
    for status in (200, 400, 500):
        answered = await party.ask("alice", f"/?status={status}")
        assert answered[:3] == (status, "laptop", "foo answered by alice (tunnel)")


async def test_unsafe_requests_do_not_fail_over(party: Party) -> None:
    status, result, reason, body = await party.ask("alice", "/?status=404", "POST", data=b"order")
    assert (status, result, body["who"]) == (404, "laptop", "laptop")
    assert "no failover for 404: POST may have been acted upon" in reason


async def test_other_methods_fail_over_where_the_engineer_says_so(party: Party) -> None:
    status, result, _, body = await party.ask("carol", "/?status=404", "POST", data=b"x" * 60_000)
    assert (status, result, body["who"], body["size"]) == (200, "service", "service", 60_000)
    assert (await party.ask("carol", "/?status=404", "PUT", data=b"x"))[1] == "laptop"


async def test_a_body_that_is_not_kept_cannot_fail_over(party: Party) -> None:
    status, result, reason, _ = await party.ask("carol", "/?status=404", "POST", data=b"x" * BIG)
    assert (status, result) == (404, "laptop")
    assert "no failover for 404: its body is longer than 65536 bytes" in reason


async def test_a_request_fails_over_while_its_body_is_still_arriving(party: Party) -> None:
    """The laptop responds early; the service gets what the laptop was sent, and the rest."""
    party.arrived.clear()

    async def body() -> AsyncIterator[bytes]:
        yield b"a" * 1000
        await party.arrived.wait()
        yield b"b" * BIG

    status, result, _, seen = await party.ask("carol", "/?status=404&early", "POST", data=body())
    assert (status, result, seen["who"], seen["size"]) == (200, "service", "service", 1000 + BIG)


async def test_an_upgrade_does_not_fail_over(party: Party) -> None:
    headers = {"x-devroute": '{"foo": "alice"}'}
    with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
        await party.mesh.client.ws_connect(party.foo + "/?status=404", headers=headers)
    assert caught.value.status == 404
    assert caught.value.headers is not None
    assert "it asked for an upgrade" in caught.value.headers["x-devroute-reason"]


async def test_a_contract_with_fallback_fail_fails_over_too(party: Party) -> None:
    answered = await party.ask("alice", "/?status=503", option={"fallback": "fail"})
    assert (answered[0], answered[1], answered[3]["who"]) == (200, "service", "service")


async def test_what_is_not_declined_still_streams_both_ways(party: Party) -> None:
    pieces: asyncio.Queue[bytes] = asyncio.Queue()

    async def body() -> AsyncIterator[bytes]:
        while piece := await pieces.get():
            yield piece

    headers = {"x-devroute": '{"foo": "carol"}'}
    pieces.put_nowait(b"first")
    async with party.mesh.client.post(party.foo + "/events", headers=headers, data=body()) as response:
        assert await response.content.readexactly(5) == b"first"
        for _ in range(3):
            pieces.put_nowait(b"x" * 100_000)
            assert len(await response.content.readexactly(100_000)) == 100_000
        pieces.put_nowait(b"")
        assert await response.read() == b""


# --- where failover is impossible ---------------------------------------------------------------------------


async def test_where_the_services_policy_refuses_the_proxy_the_laptops_response_stands(party: Party) -> None:
    status, result, reason, body = await party.ask("alice", "/closed?status=404")
    assert (status, result, body) == (404, "laptop", {"who": "laptop"})
    assert reason == "foo answered by alice (tunnel); no failover for 404: the mesh refused it (403)"


async def test_a_proxy_without_mesh_egress_refuses_with_the_reason(tmp_path: Path) -> None:
    secret, record = new_token("alice", created="2026-01-01")
    async with testbed.proxy(tmp_path, [record]) as proxy:
        environment = {"DEVROUTE_SERVER": proxy.server, "DEVROUTE_TOKEN": secret}
        arguments = ("up", "foo=8001", "--except-status", "404")
        async with testbed.command(tmp_path, "up", arguments, environment) as up:
            async with asyncio.timeout(PATIENCE_S):
                assert await up.process.wait() != 0
            said = up.log.read_text()
    assert "failover is not possible: the proxy has no mesh egress" in said
    assert "leave out --except-status" in said


async def test_an_unreachable_egress_is_the_reason(tmp_path: Path) -> None:
    secret, record = new_token("alice", created="2026-01-01")
    nowhere = f"http://127.0.0.1:{free_port()}"

    async def declines(_: web.Request) -> web.Response:
        return web.Response(status=404)

    async with real_mesh(tmp_path, record, mesh_egress=nowhere) as mesh, serving(declines) as app:
        service = await mesh.stack.enter_async_context(serving(real_service))
        foo = await mesh.sidecar("foo", service, knows_itself=True)
        options = (f"foo={app.port}", "--except-status", "404")
        online = testbed.laptop(tmp_path, "alice", mesh.proxy.server, secret, *options)
        asked = mesh.client.get(foo, headers={"x-devroute": '{"foo": "alice"}'})
        async with online, asked as response:
            assert (response.status, response.headers["x-devroute-result"]) == (404, "laptop")
            reason = response.headers["x-devroute-reason"]
            assert "no failover for 404: the service cannot be reached: " in reason
