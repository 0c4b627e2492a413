"""What a mesh's own tracing leaves of a contract: Envoy's tracers write their headers after all filters."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from aiohttp import web

from devroute.mesh.istio.sidecar import Document, Endpoint
from tests.envoy.harness import serving
from tests.envoy.real import Mesh, real_mesh
from tests.support.otel_app import COLLECTOR, filter_with_tracer, tracing_filter
from tests.tracers.test_survival import carriers_in

pytestmark = [pytest.mark.mesh, pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]

CONTRACT = '{"b":"alice"}'
#: No collector listens, and none is needed to write headers.
NOWHERE = {COLLECTOR: Endpoint("127.0.0.1", 9)}
TRACERS = {
    "opentelemetry": tracing_filter("middle"),
    "datadog": filter_with_tracer("datadog", "Datadog", collector_cluster=COLLECTOR, service_name="middle"),
    "zipkin": filter_with_tracer(
        "zipkin",
        "Zipkin",
        collector_cluster=COLLECTOR,
        collector_endpoint="/api/v2/spans",
        collector_endpoint_version="HTTP_JSON",
        trace_id_128bit=True,
    ),
}


@dataclass
class Apps:
    mesh: Mesh
    app: Endpoint

    async def got(self, name: str, teams: list[Document], headers: dict[str, str]) -> dict[str, str]:
        """What the app gets behind a sidecar with these EnvoyFilters."""
        url = await self.mesh.sidecar("middle", self.app, name, NOWHERE, teams=teams)
        async with self.mesh.client.get(url, headers=headers) as response:
            return {key.lower(): value for key, value in (await response.json()).items()}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def apps(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Apps]:
    async def echo(request: web.Request) -> web.Response:
        return web.json_response(dict(request.headers))

    async with real_mesh(tmp_path_factory.mktemp("tracers")) as mesh, serving(echo) as app:
        yield Apps(mesh, app)


@pytest.mark.parametrize(
    ("tracer", "kept"),
    [
        ("zipkin", {"x-devroute", "baggage", "tracestate"}),
        ("opentelemetry", {"x-devroute", "baggage"}),
        ("datadog", {"x-devroute", "baggage"}),
    ],
)
async def test_a_sidecar_s_own_tracer_decides_whether_tracestate_has_the_contract(
    apps: Apps, tracer: str, kept: set[str]
) -> None:
    headers = await apps.got(tracer, [TRACERS[tracer]], {"x-devroute": CONTRACT})
    assert carriers_in(headers) == kept
    assert headers["traceparent"]


async def test_a_contract_that_comes_in_tracestate_passes_a_sidecar_s_tracer(apps: Apps) -> None:
    sent = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01", "tracestate": f"devroute={CONTRACT},v=1"}
    headers = await apps.got("again", [TRACERS["opentelemetry"]], sent)
    assert headers["tracestate"] == sent["tracestate"]
