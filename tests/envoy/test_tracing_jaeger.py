"""One trace of Envoy, proxy, agent and app, as a real Jaeger has it (make test-jaeger)."""

import asyncio
import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from devroute.mesh.envoy import stop
from devroute.mesh.istio.sidecar import Endpoint
from tests.envoy.real import real_mesh
from tests.support import go_programs
from tests.support.eventually import eventually
from tests.support.otel_app import COLLECTOR, ENVOYS_BATCH, otel_app, tracing_filter
from tests.support.ports import free_port

pytestmark = [pytest.mark.jaeger, pytest.mark.mesh]

SECRET, RECORD = new_token("alice")
#: Jaeger's flags for the addresses at which it listens.
OTLP, QUERY = "collector.otlp.http.host-port", "query.http-server.host-port"
OTHERS = (
    "collector.otlp.grpc.host-port",
    "query.grpc-server.host-port",
    "collector.grpc-server.host-port",
    "collector.http-server.host-port",
    "admin.http.host-port",
)


@dataclass
class Jaeger:
    port: int
    api: str
    client: aiohttp.ClientSession

    @property
    def collector(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def trace(self, trace_id: str, count: int) -> dict[str, Any]:
        """Once it has so many spans."""

        async def found() -> dict[str, Any] | None:
            async with self.client.get(f"{self.api}/api/traces/{trace_id}") as response:
                if response.status != 200:
                    return None
                (trace,) = (await response.json())["data"]
            return trace if len(trace["spans"]) >= count else None

        return await eventually(found, f"{count} spans in Jaeger") or {}


@asynccontextmanager
async def jaeger(folder: Path) -> AsyncIterator[Jaeger]:
    if not go_programs.is_built(go_programs.JAEGER):
        pytest.skip("Jaeger is not built: make test-jaeger (needs Go)")
    ports = {name: free_port() for name in (OTLP, QUERY, *OTHERS)}
    program = go_programs.folder_of(go_programs.JAEGER) / "all-in-one"
    with (folder / "jaeger.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program,
            *(f"--{name}=127.0.0.1:{value}" for name, value in ports.items()),
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            async with aiohttp.ClientSession() as client:
                found = Jaeger(ports[OTLP], f"http://127.0.0.1:{ports[QUERY]}", client)

                async def serves() -> bool:
                    assert process.returncode is None, (folder / "jaeger.log").read_text()
                    try:
                        async with client.get(f"{found.api}/api/services") as response:
                            return response.status == 200
                    except aiohttp.ClientError:
                        return False

                await eventually(serves, "Jaeger's query API")
                yield found
        finally:
            await stop(process)


async def test_jaeger_has_one_trace_of_envoy_proxy_agent_and_app(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        it = await stack.enter_async_context(jaeger(tmp_path))
        mesh = await stack.enter_async_context(real_mesh(tmp_path, RECORD, otlp_endpoint=it.collector))
        app = await stack.enter_async_context(otel_app(it.collector, "foo-on-laptop"))
        clusters, teams = {COLLECTOR: Endpoint("127.0.0.1", it.port)}, [tracing_filter("foo-sidecar")]
        foo = await mesh.sidecar("foo", app, clusters=clusters, teams=teams)
        laptop = testbed.laptop(tmp_path, "alice", mesh.proxy.server, SECRET, f"foo={app.port}")
        await stack.enter_async_context(laptop)
        ids = [secrets.token_hex(16) for _ in range(1 + ENVOYS_BATCH)]
        for each in ids:
            headers = {
                "x-devroute": '{"foo": "alice"}',
                "traceparent": f"00-{each}-{secrets.token_hex(8)}-01",
            }
            async with mesh.client.get(f"{foo}/orders", headers=headers) as response:
                assert response.headers["x-devroute-result"] == "laptop", await response.text()
        trace = await it.trace(ids[0], 7)
    services = {key: each["serviceName"] for key, each in trace["processes"].items()}
    parents = {
        span["spanID"]: reference["spanID"] for span in trace["spans"] for reference in span["references"]
    }
    spans = {span["spanID"]: span for span in trace["spans"]}

    def above(span_id: str) -> list[str]:
        """The services of a span and of those above it, as far as Jaeger has them."""
        found = []
        while span_id in spans:
            found.append(services[spans[span_id]["processID"]])
            span_id = parents.get(span_id, "")
        return found

    chains = sorted((above(each) for each in spans), key=len)
    proxies = ["devroute-proxy", "devroute-proxy", "foo-sidecar", "foo-sidecar"]
    assert chains[-1][1:] == chains[-2][1:] == proxies
    assert {chains[-1][0], chains[-2][0]} == {"devroute-agent", "foo-on-laptop"}
    tags = {tag["key"]: tag["value"] for span in spans.values() for tag in span["tags"]}
    assert tags["devroute.laptop"] == "alice"
    # Jaeger warns of clocks that differ, and of a parent that it has not got: that is the client's.
    inside = [span for key, span in spans.items() if parents.get(key) in spans]
    assert len(inside) == len(spans) - 1
    assert [span.get("warnings") or [] for span in inside] == [[]] * len(inside)
