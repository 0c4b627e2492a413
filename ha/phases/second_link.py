"""Every agent has a link at each of two replicas, and one of three is killed: no laptop goes offline, and all
have two links again soon, without a herd.
"""

import asyncio
import json
from pathlib import Path

from bench.processes import cpu_seconds
from devroute.mesh.istio.sidecar import Endpoint
from ha import apps
from ha.figures import Report
from ha.mesh import Mesh, Replica, mesh
from ha.phases.herd import BACK_S, CPU_S, ONLINE_SECONDS
from ha.phases.kill import NOTICED_S
from ha.scale import Scale
from tests.support.eventually import eventually

NAME = "second links"
#: Seconds for all agents to have two links at first.
SETTLED_SECONDS = 60.0


async def run(folder: Path, scale: Scale, report: Report, wanted: list[str]) -> None:
    loop = asyncio.get_running_loop()
    service = await apps.serve("the service")
    async with service, mesh(folder, app=Endpoint("127.0.0.1", apps.port_of(service))) as ours:
        victim, *others = ours.exposed
        pids = [each.process.pid for each in others]
        async with ours.program("laptops", ours.server, str(scale.herd)) as laptops:
            await ours.line(laptops, ONLINE_SECONDS)

            async def have_two() -> bool:
                return (
                    sum([await ours.metric(each, "devroute_links") for each in ours.exposed])
                    == 2 * scale.herd
                )

            await eventually(have_two, "two links each", within=SETTLED_SECONDS)
            before = cpu_seconds(pids)
            _, gone = await victim.kill()
            await asyncio.sleep(NOTICED_S)
            ours.withdraw(victim)
            await eventually(have_two, "two links each again", within=3 * BACK_S)
            back, spent = loop.time() - gone, (cpu_seconds(pids) - before) / scale.herd
            assert await _listed(ours, others[0]) == {2}
            report.add(NAME, "agents", scale.herd)
            report.at_most(NAME, "all have two links again after", back, BACK_S, "s")
            report.at_most(NAME, "CPU of the other replicas, for each", spent * 1e3, CPU_S * 1e3, "ms")
            assert laptops.stdin is not None
            laptops.stdin.write(b"\n")
            events = json.loads(await ours.line(laptops, ONLINE_SECONDS))
            report.at_most(NAME, "laptops that were offline meanwhile", events.get("offline", 0), 0)


async def _listed(ours: Mesh, replica: Replica) -> set[int]:
    """How many links laptops have, as this replica knows them."""
    headers = {"authorization": f"Bearer {ours.secret}"}
    async with ours.session.get(f"{replica.proxy.server}/api/laptops", headers=headers) as response:
        return {each["links"] for each in (await response.json())["laptops"]}
