"""One trace across a real Envoy's spans, the proxy's, the agent's and those of an app with the OpenTelemetry
SDK, by a strict receiver of OTLP.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import pytest_asyncio

from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from devroute.mesh.istio.sidecar import Endpoint
from tests.envoy.real import Mesh, real_mesh
from tests.support.eventually import eventually
from tests.support.otel_app import COLLECTOR, ENVOYS_BATCH, otel_app, tracing_filter
from tests.support.otlp import Received, Receiver, receiver

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

SECRET, RECORD = new_token("alice")


@dataclass
class Party:
    mesh: Mesh
    collector: Receiver
    foo: str

    async def send(self, flags: str, contract: str = '{"foo": "alice"}') -> tuple[str, str, dict[str, str]]:
        """A trace's id, the caller's span, and the headers that the app got."""
        trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
        headers = {
            "x-devroute": contract,
            "traceparent": f"00-{trace_id}-{caller}-{flags}",
            "tracestate": "vendor=kept",
        }
        async with self.mesh.client.get(f"{self.foo}/orders?q=1", headers=headers) as response:
            assert response.headers["x-devroute-result"] == "laptop", await response.text()
            got: dict[str, str] = await response.json()
            return trace_id, caller, got


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def party(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Party]:
    folder = tmp_path_factory.mktemp("tracing")
    async with AsyncExitStack() as stack:
        collector = await stack.enter_async_context(receiver())
        mesh = await stack.enter_async_context(real_mesh(folder, RECORD, otlp_endpoint=collector.url))
        app = await stack.enter_async_context(otel_app(collector.url, "foo-on-laptop"))
        host, _, port = collector.url.removeprefix("http://").rpartition(":")
        foo = await mesh.sidecar(
            "foo", app, clusters={COLLECTOR: Endpoint(host, int(port))}, teams=[tracing_filter("foo-sidecar")]
        )
        laptop = testbed.laptop(folder, "alice", mesh.proxy.server, SECRET, f"foo={app.port}")
        await mesh.stack.enter_async_context(laptop)
        yield Party(mesh, collector, foo)


async def test_one_trace_joins_envoy_proxy_agent_and_app(party: Party) -> None:
    trace_id, caller, got = await party.send("01")
    for _ in range(ENVOYS_BATCH):
        await party.send("01")
    spans = await party.collector.trace(trace_id, 7)
    by_id = {each.span_id: each for each in spans}
    (app,) = (each for each in spans if each.service == "foo-on-laptop")
    chain = [app]
    while (above := by_id.get(chain[-1].parent_id)) is not None:
        chain.append(above)
    assert [(each.service, each.kind) for each in reversed(chain)] == [
        ("foo-sidecar", "server"),
        ("foo-sidecar", "client"),
        ("devroute-proxy", "server"),
        ("devroute-proxy", "client"),
        ("foo-on-laptop", "server"),
    ]
    assert chain[-1].parent_id == caller
    client, server, sidecar = chain[1], chain[2], chain[4]
    agent, resolve = (each for each in spans if each not in chain)
    if agent.service == "foo-sidecar":
        agent, resolve = resolve, agent
    assert resolve.parent_id == sidecar.span_id, "Envoy's span of the filter's own request to /resolve"
    assert agent.parent_id == app.parent_id == client.span_id
    assert client.start <= agent.start <= agent.end <= client.end
    assert {"devroute.laptop": "alice", "devroute.service": "foo"}.items() <= client.attributes.items()
    assert server.attributes["url.path"] == "/orders"
    assert got["traceparent"] == f"00-{trace_id}-{client.span_id}-01"
    assert got["tracestate"] == "vendor=kept", "Envoy's tracer writes it as it came, over the member of ours"


async def test_a_trace_that_is_not_sampled_has_no_span_and_passes_as_envoy_sent_it(party: Party) -> None:
    trace_id, _, got = await party.send("00")
    sampled, _, _ = await party.send("01")
    await party.collector.trace(sampled, 4)
    assert [each for each in party.collector.spans if each.trace_id == trace_id] == []
    assert got["traceparent"].startswith(f"00-{trace_id}-")
    assert got["traceparent"].endswith("-00")


async def test_a_request_that_the_proxy_refuses_has_a_span_with_the_reason(party: Party) -> None:
    """As a sidecar sends it that did not ask first."""
    trace_id, caller = secrets.token_hex(16), secrets.token_hex(8)
    data = party.mesh.proxy.data
    headers = {
        "x-devroute": '{"foo": "nobody"}',
        "x-devroute-matched": "foo",
        "traceparent": f"00-{trace_id}-{caller}-01",
    }
    async with party.mesh.client.get(f"http://{data.host}:{data.port}/", headers=headers) as response:
        assert response.status == 503
    (span,) = await party.collector.trace(trace_id, 1)
    assert (span.kind, span.parent_id, span.failed) == ("server", caller, True)
    assert span.attributes["error.type"] == span.attributes["devroute.reason"] == "laptop-offline"


async def test_the_metrics_count_what_was_exported(party: Party) -> None:
    admin = party.mesh.proxy.admin

    async def exported() -> float:
        async with party.mesh.client.get(f"http://{admin.host}:{admin.port}/metrics") as response:
            lines = (await response.text()).splitlines()
        assert 'devroute_spans_dropped_total{reason="unreachable"} 0.0' in lines
        return next(
            float(line.split()[1]) for line in lines if line.startswith("devroute_spans_exported_total")
        )

    def ours(span: Received) -> bool:
        return span.service.startswith("devroute-")

    trace_id, _, _ = await party.send("01")
    await party.collector.trace(trace_id, 4)
    await eventually(exported)
    assert await exported() <= sum(map(ours, party.collector.spans))
