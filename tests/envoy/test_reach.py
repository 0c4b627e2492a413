"""What a laptop reaches, for real: a program at a local port of `devroute up --reach`, the tunnel, `devroute
proxy`, an Envoy as its own sidecar, and Envoys in front of the services, under STRICT mTLS.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from grpc import aio
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from devroute.auth.tokens import new_token
from devroute.contract.destination import parse_destination
from devroute.errors import MeshTlsRequired
from devroute.mesh import testbed
from devroute.mesh.envoy import running
from devroute.mesh.istio.sidecar import Endpoint
from devroute.proxy.egress.tcp import MeshTcpStream
from devroute.upstream.tcp import TcpConnection
from tests.envoy.certificates import MeshCa
from tests.envoy.egress import PROXY_IDENTITY, callers_policy, egress, obeys_ports
from tests.envoy.harness import serving
from tests.envoy.real import Mesh, real_mesh
from tests.support import grpc_app
from tests.support.eventually import eventually
from tests.support.loopback import Client
from tests.support.ports import free_port

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

NOWHERE = Endpoint("", 0)
BOTH = '{"b": "alice", "c": "bob"}'
TRACE_CONTEXT = TraceContextTextMapPropagator()
TRACER = TracerProvider().get_tracer("a")
C_IDENTITY = "spiffe://cluster.local/ns/default/sa/c"
POLICY = """
reach:
- {subjects: [alice], services: [c, g, gone, nowhere], namespaces: [default]}
"""


@dataclass
class Party:
    """`urls` of the local ports, by service; `seen`: the headers of c's newest request. `entry` is a, which
    calls b, which calls c: a with a tracer, b as alice's app, with no more than the header `passed_on`."""

    mesh: Mesh
    urls: dict[str, str] = field(default_factory=dict)
    c: Endpoint = NOWHERE
    seen: list[tuple[str, str]] = field(default_factory=list)
    entry: str = ""
    secret: str = ""
    passed_on: str = ""

    async def alices(self, request: web.Request) -> web.Response:
        headers = {self.passed_on: request.headers[self.passed_on]} if self.passed_on else {}
        async with self.mesh.client.get(self.urls["c"], headers=headers) as response:
            return web.json_response(await response.json(), status=response.status)

    def traced(self, url: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        """A service whose tracer knows trace context alone, and which knows of nothing else."""

        async def app(request: web.Request) -> web.Response:
            context = TRACE_CONTEXT.extract({key.lower(): value for key, value in request.headers.items()})
            headers: dict[str, str] = {}
            TRACE_CONTEXT.inject(headers, set_span_in_context(TRACER.start_span("onwards", context), context))
            async with self.mesh.client.get(url, headers=headers) as response:
                return web.json_response(await response.json(), status=response.status)

        return app

    async def fails(self, service: str, path: str = "/") -> tuple[int, dict[str, Any]]:
        async with self.mesh.client.get(self.urls[service] + path) as response:
            return response.status, await response.json()

    def audit(self, event: str) -> list[dict[str, Any]]:
        return [each for each in self.mesh.proxy.command.events() if each.get("event") == event]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def party(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Party]:
    folder, port = tmp_path_factory.mktemp("reach"), free_port()
    tokens = {name: new_token(name, created="2026-01-01") for name in ("alice", "bob")}
    records = [record for _, record in tokens.values()]
    async with real_mesh(folder, *records, policy=POLICY, mesh_egress=f"http://127.0.0.1:{port}") as mesh:
        found = Party(mesh)
        enter = mesh.stack.enter_async_context

        async def service(request: web.Request) -> web.StreamResponse:
            found.seen[:] = [(name.lower(), value) for name, value in request.headers.items()]
            if request.path == "/socket":
                socket = web.WebSocketResponse()
                await socket.prepare(request)
                async for message in socket:
                    await socket.send_str(f"c received {message.data}")
                return socket
            if request.path == "/events":
                response = web.StreamResponse(headers={"content-type": "text/event-stream"})
                await response.prepare(request)
                async for piece in request.content.iter_any():
                    await response.write(b"data: " + piece + b"\n\n")
                return response
            size = len(await request.read())
            return web.json_response({"who": "c", "size": size}, status=int(request.query.get("status", 200)))

        async def bobs(request: web.Request) -> web.Response:
            return web.json_response({"who": "bob"})

        ca = MeshCa(folder)
        app = await enter(serving(service))
        url = await mesh.sidecar(
            "c", app, knows_itself=True, tls=ca.for_sidecar(C_IDENTITY), teams=[callers_policy()]
        )
        found.c = Endpoint("127.0.0.1", int(url.rpartition(":")[2]))
        server, number = await grpc_app.start()
        mesh.stack.push_async_callback(server.stop, None)
        g = await mesh.sidecar("g", Endpoint("127.0.0.1", number), as_client=True)
        inside = Endpoint("127.0.0.1", int(g.rpartition(":")[2]))
        services = {"c": found.c, "g": inside, "gone": Endpoint("127.0.0.1", free_port())}
        await enter(running(egress(port, services, "c", ca, as_client=["g"]), folder, "egress", {}))
        local = {name: free_port() for name in (*services, "nowhere", "denied", "c:1")}
        found.urls = {name: f"http://127.0.0.1:{each}" for name, each in local.items()}
        options = [
            f"{each}={name if ':' in name else f'{name}:{found.c.port}'}" for name, each in local.items()
        ]
        alices = await enter(serving(found.alices))
        b = await mesh.sidecar("b", app)
        found.entry = await mesh.sidecar("a", await enter(serving(found.traced(b))))
        found.secret = tokens["alice"][0]
        await enter(
            testbed.laptop(
                folder, "alice", mesh.proxy.server, found.secret, f"b={alices.port}",
                *(word for each in options for word in ("--reach", each)),
            )
        )  # fmt: skip
        other = await enter(serving(bobs))
        await enter(testbed.laptop(folder, "bob", mesh.proxy.server, tokens["bob"][0], f"c={other.port}"))
        yield found


async def test_a_request_arrives_by_the_mesh_s_name_with_the_proxy_s_identity_and_the_laptop_s_subject(
    party: Party,
) -> None:
    forged = {
        "x-devroute-subject": "mallory",
        "x-forwarded-client-cert": "By=x;URI=spiffe://cluster.local/ns/default/sa/admin",
        "x-devroute-caller": "spiffe://cluster.local/ns/default/sa/admin",
    }
    order = party.mesh.client.post(party.urls["c"] + "/orders", data=bytes(1_000_000), headers=forged)
    async with order as response:
        assert (response.status, await response.json()) == (200, {"who": "c", "size": 1_000_000})
    seen = dict(party.seen)
    assert seen["host"] == f"c.default.svc.cluster.local:{party.c.port}"
    assert [value for name, value in party.seen if name == "x-devroute-subject"] == ["alice"]
    assert f"URI={PROXY_IDENTITY}" in seen["x-forwarded-client-cert"]
    assert "admin" not in json.dumps(party.seen)
    await eventually(lambda: party.audit("reach"))
    event = party.audit("reach")[0]
    assert (event["subject"], event["service"], event["status"], event["code"]) == (
        "alice", f"c.default:{party.c.port}", 200, None,
    )  # fmt: skip


async def test_events_arrive_as_they_are_sent_and_a_socket_works(party: Party) -> None:
    async def numbers() -> AsyncIterator[bytes]:
        for number in range(3):
            yield b"%d" % number
            await arrived.wait()
            arrived.clear()

    arrived = asyncio.Event()
    async with party.mesh.client.post(party.urls["c"] + "/events", data=numbers()) as response:
        for number in range(3):
            assert await response.content.readuntil(b"\n\n") == b"data: %d\n\n" % number
            arrived.set()
    async with party.mesh.client.ws_connect(party.urls["c"] + "/socket") as socket:
        await socket.send_str("hello")
        assert await socket.receive_str() == "c received hello"


async def test_grpc_passes_with_its_streams_and_trailers(party: Party) -> None:
    async with aio.insecure_channel(party.urls["g"].removeprefix("http://")) as channel:
        call = channel.unary_unary("/t/Unary")(b"hello", metadata=[("x-echo-a", "1")])
        assert await call == b"hello"
        assert ("x-echo-a", "1") in list(await call.trailing_metadata())
        echo = channel.stream_stream("/t/Echo")()
        for piece in (b"1", b"2"):
            await echo.write(piece)
            assert await echo.read() == piece
        await echo.done_writing()


async def test_a_contract_goes_on_to_a_colleague_s_laptop(party: Party) -> None:
    headers = {"x-devroute": '{"c": "bob"}'}
    async with party.mesh.client.get(party.urls["c"], headers=headers) as response:
        assert await response.json() == {"who": "bob"}
        assert response.headers["x-devroute-result"] == "laptop"


async def test_apps_that_pass_on_headers_of_traces_alone_lead_to_two_laptops(party: Party) -> None:
    party.passed_on = "traceparent"
    expected = ("--expect", "a=service", "--expect", "b=alice", "--expect", "c=bob")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devroute", "curl", *expected, "-s", party.entry),
        env={"HOME": str(party.mesh.folder), "PATH": "/usr/bin:/bin"}
        | {"DEVROUTE_SERVER": party.mesh.proxy.server, "DEVROUTE_TOKEN": party.secret}
        | {"DEVROUTE_CONTRACT": BOTH},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, hops = (each.decode() for each in await process.communicate())
    assert (process.returncode, json.loads(output)) == (0, {"who": "bob"}), hops
    assert hops.splitlines()[-1] == "devroute: alice's laptop answered at 'b'; bob's laptop answered at 'c'"


@pytest.mark.parametrize(("passed_on", "who"), [("tracestate", "bob"), ("x-request-id", "bob"), ("", "c")])
async def test_what_the_laptop_s_app_passes_on_decides_who_answers_behind_it(
    party: Party, passed_on: str, who: str
) -> None:
    party.passed_on = passed_on
    async with party.mesh.client.get(party.entry, headers={"x-devroute": BOTH}) as response:
        assert (await response.json())["who"] == who


@pytest.mark.parametrize(
    ("service", "path", "status", "code", "text"),
    [
        ("denied", "/", 403, "reach-denied", "services: [denied], namespaces: [default]"),
        ("c", "/closed", 403, "reach-refused", "an AuthorizationPolicy does not admit"),
        ("nowhere", "/", 502, "service-unknown", "kubectl get service -n default"),
        ("gone", "/", 502, "target-unreachable", "cannot reach gone.default"),
    ],
)
async def test_each_error_says_what_to_do(
    party: Party, service: str, path: str, status: int, code: str, text: str
) -> None:
    got, body = await party.fails(service, path)
    assert (got, body["code"]) == (status, code), body
    assert text in body["message"] + body["hint"]


async def test_a_port_that_the_service_does_not_have_is_an_error(party: Party) -> None:
    if not obeys_ports():
        pytest.skip("this Envoy knows no vhost_header")
    status, body = await party.fails("c:1")
    assert (status, body["code"]) == (502, "service-unknown"), body


async def test_a_502_of_the_service_itself_is_passed_on(party: Party) -> None:
    status, body = await party.fails("c", "/?status=502")
    assert (status, body) == (502, {"who": "c", "size": 0})


async def test_metrics_count_what_laptops_reach(party: Party) -> None:
    await party.fails("denied")
    url = "http://{}:{}/metrics".format(*party.mesh.proxy.admin)

    async def none_open() -> str:
        async with party.mesh.client.get(url) as response:
            text = await response.text()
        return text if "\ndevroute_reach_open 0.0\n" in text else ""

    assert 'devroute_reach_total{code="reach-denied",protocol="http"}' in await eventually(none_open)


async def test_tcp_to_a_service_under_strict_mtls_says_so(party: Party) -> None:
    destination = parse_destination(f"tcp://c:{party.c.port}")
    client = Client()
    stream = MeshTcpStream(destination, client)
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: TcpConnection(stream, loop), *party.c)
    stream.connected(connection)
    stream.send_data(b"GET / HTTP/1.1\r\nhost: c\r\n\r\n")
    await asyncio.wait_for(client.done.wait(), 20)
    assert isinstance(client.error, MeshTlsRequired)
