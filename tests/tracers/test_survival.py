"""A contract that passes services with nothing but a tracer: what leaves each one, and whether the next is
detoured (make test-tracers; Python and Node.js in make test-slow).

caller ─► middle's sidecar ─► middle (its tracer) ─► recorder ─► b's sidecar ─► b, or its replacement
                                                        └─► middle's sidecar, outbound ─┘
"""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from multidict import CIMultiDict

from devroute.http import carriers
from devroute.mesh.istio.sidecar import OUTBOUND, Endpoint
from devroute.mesh.manifests.model import Carriers, WorkloadScope
from tests.envoy.harness import Handler, serving
from tests.envoy.real import Mesh, real_mesh
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.tracers import packages
from tests.tracers.middles import MIDDLES, Middle

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

#: What the sidecars write without being asked to, and what a platform team may have them write.
WRITTEN = {"x-devroute", *carriers.DEFAULT}
ALL = Carriers(carriers.KNOWN)
#: Of one connection, or of a body that is sent as another one.
NOT_PASSED = {"connection", "content-length", "host", "transfer-encoding"}
#: Headers by whose trace a sidecar finds a contract, where it is asked to.
BY_TRACE = {"traceparent", "b3", "x-b3-traceid", "uber-trace-id", "x-datadog-trace-id", "x-request-id"}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
#: As a mesh with tracing, by whatever protocol, has them.
TRACED = {
    "traceparent": f"00-{TRACE}-{SPAN}-01",
    "x-b3-traceid": TRACE,
    "x-b3-spanid": SPAN,
    "x-b3-sampled": "1",
    "uber-trace-id": f"{TRACE}:{SPAN}:0:1",
    "x-datadog-trace-id": str(int(TRACE[16:], 16)),
    "x-datadog-parent-id": str(int(SPAN, 16)),
    "x-datadog-sampling-priority": "1",
    "x-datadog-tags": f"_dd.p.tid={TRACE[:16]}",
    "x-request-id": f"{TRACE[:8]}-{TRACE[8:12]}-{TRACE[12:16]}-{TRACE[16:20]}-{TRACE[20:]}",
}
#: In Datadog's own header, the lower half in decimal.
SPELLINGS = (TRACE, TRACED["x-request-id"], TRACED["x-datadog-trace-id"])
#: A JVM that an agent instruments takes its time where all cores are in use.
START_S = 180.0


def carriers_in(headers: Mapping[str, str]) -> set[str]:
    """Those headers that a contract is in."""

    def carries(name: str, value: str) -> bool:
        return name.endswith("devroute") or any(
            member.strip().startswith("devroute=") for member in value.split(",")
        )

    return {name.lower() for name, value in headers.items() if carries(name.lower(), value)}


def trace_in(headers: Mapping[str, str]) -> set[str]:
    """Those headers that the id of the request's trace is in."""
    return {name.lower() for name, value in headers.items() if any(each in value for each in SPELLINGS)}


@dataclass
class Chain:
    """`middle` is the service's port, `entry` the URL of its sidecar, `generous` that of one that writes all
    carriers, `recorder` what the service calls. The recorder has the last request's headers in `seen`, and
    sends it to `b`, or by the sidecar's outbound side, which finds contracts by the trace (`outbound`)."""

    mesh: Mesh
    middle: Endpoint
    laptop: Endpoint
    entry: str = ""
    generous: str = ""
    recorder: str = ""
    b: str = ""
    outbound: str = ""
    onward: str = ""
    seen: CIMultiDict[str] = field(default_factory=CIMultiDict)

    @property
    def contract(self) -> str:
        return f'{{"b":"{self.laptop.host}:{self.laptop.port}","c":"bob"}}'

    async def record(self, request: web.Request) -> web.Response:
        self.seen = request.headers.copy()
        headers = [(name, value) for name, value in self.seen.items() if name.lower() not in NOT_PASSED]
        headers.append(("host", "b"))
        async with self.mesh.client.get(self.onward, headers=headers) as response:
            return web.Response(text=await response.text())

    async def call(self, url: str, headers: Mapping[str, str] = {}, onward: str = "") -> str:
        """Who has answered in place of b."""
        self.onward = onward or self.b
        headers = {"x-devroute": self.contract, **headers}
        async with self.mesh.client.get(url, headers=headers) as response:
            assert response.status == 200, await response.text()
            return await response.text()

    @asynccontextmanager
    async def running(self, middle: Middle) -> AsyncIterator[None]:
        log = self.mesh.folder / "middle.log"
        port = str(self.middle.port)
        here = {"PORT": port, "SERVER_PORT": port, "DOWNSTREAM": self.recorder}
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *middle.arguments(),
                cwd=self.mesh.folder,
                env={
                    "HOME": str(self.mesh.folder),
                    "PATH": os.environ["PATH"],
                    **middle.environment(),
                    **here,
                },
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

        async def listens() -> bool:
            assert process.returncode is None, log.read_text(errors="replace")
            with suppress(OSError):
                _, writer = await asyncio.open_connection(*self.middle)
                writer.close()
                return True
            return False

        try:
            await eventually(listens, f"{middle.tracer} listens", within=START_S)
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chain]:
    def answering(who: str) -> Handler:
        async def answer(_: web.Request) -> web.Response:
            return web.Response(text=who)

        return answer

    folder: Path = tmp_path_factory.mktemp("tracers")
    async with (
        real_mesh(folder) as mesh,
        serving(answering("b")) as service,
        serving(answering("laptop")) as laptop,
    ):
        found = Chain(mesh, Endpoint("127.0.0.1", free_port()), laptop)
        found.b = await mesh.sidecar("b", service, carriers=ALL)
        (folder / "traces").mkdir()
        async with serving(found.record) as recorder:
            found.recorder = f"http://{recorder.host}:{recorder.port}/"
            found.entry = await mesh.sidecar(
                "middle",
                found.middle,
                scopes=[WorkloadScope("default", "middle", trace_folder=str(folder / "traces"))],
                services={"b": Endpoint("127.0.0.1", int(found.b.rpartition(":")[2]))},
            )
            found.outbound = "http://{}:{}".format(*mesh.envoys["middle"].listeners[OUTBOUND])
            found.generous = await mesh.sidecar("middle", found.middle, "generous", carriers=ALL)
            yield found


#: What .ci/run can afford to install is part of `make test-slow`.
MARKS = {"python": pytest.mark.slow, "node": pytest.mark.slow}


@pytest.mark.parametrize(
    "middle",
    [
        pytest.param(
            each,
            marks=MARKS.get(each.runtime, pytest.mark.tracers),
            id=f"{each.language} {each.tracer} {each.propagators}".replace("`", ""),
        )
        for each in MIDDLES
    ],
)
async def test_what_a_tracer_passes_on(chain: Chain, middle: Middle) -> None:
    if (reason := packages.missing(middle.runtime)) is not None:
        pytest.skip(reason)
    async with chain.running(middle):
        who = await chain.call(chain.generous, TRACED)
        assert carriers_in(chain.seen) == set(middle.passes_on)
        assert trace_in(chain.seen) == set(middle.trace)
        assert who == ("laptop" if middle.passes_on else "b")

        who = await chain.call(chain.entry)
        survived = WRITTEN.intersection(middle.passes_on)
        assert survived <= carriers_in(chain.seen)
        assert who == ("laptop" if survived else "b")

        known = set(middle.trace) & BY_TRACE
        who = await chain.call(chain.entry, TRACED, chain.outbound)
        assert who == ("laptop" if survived or known else "b")
