"""All agents lose their replica at the same moment, and come back to the others."""

import asyncio
from pathlib import Path

from bench.processes import cpu_seconds
from ha.figures import Report
from ha.mesh import mesh
from ha.phases.kill import have_two_links, lose
from ha.scale import Scale
from tests.support.eventually import eventually

NAME = "all dial again"
ONLINE_SECONDS = 120.0
#: Seconds within which all agents are back.
BACK_S = 10.0
#: CPU seconds of the other replicas for each agent: its registration, and that all learn of it.
CPU_S = 0.02


async def run(folder: Path, scale: Scale, report: Report, wanted: list[str]) -> None:
    loop = asyncio.get_running_loop()
    async with mesh(folder, service=True) as ours:
        victim, *others = ours.exposed
        pids = [each.process.pid for each in others]
        ours.set_endpoints([victim])
        async with ours.laptops(scale.herd, ONLINE_SECONDS):
            ours.set_endpoints([victim, *others])
            before = cpu_seconds(pids)
            _, gone = await lose(ours, victim)

            async def are_back() -> bool:
                online = [await ours.metric(each, "devroute_laptops_online") for each in others]
                return sum(online) >= scale.herd

            await eventually(are_back, "all agents", within=3 * BACK_S)
            report.add(NAME, "agents", scale.herd)
            report.at_most(NAME, "all are online again after", loop.time() - gone, BACK_S, "s")
            spent = (cpu_seconds(pids) - before) / scale.herd
            report.at_most(NAME, "CPU of the other replicas, for each", spent * 1e3, CPU_S * 1e3, "ms")
            await have_two_links(ours, scale.herd)
            report.add(NAME, "each has two links again after", loop.time() - gone, "s")
