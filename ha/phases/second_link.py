"""Every agent has a link at each of two replicas, and one of three is killed: no laptop goes offline, and all
have two links again soon, without a herd.
"""

import asyncio
import json
from pathlib import Path

from bench.processes import cpu_seconds
from ha.figures import Report
from ha.mesh import mesh
from ha.phases.herd import BACK_S, CPU_S, ONLINE_SECONDS
from ha.phases.kill import lose
from ha.scale import Scale
from tests.support.eventually import eventually

NAME = "second links"
#: Seconds for all agents to have two links at first.
LINKED_SECONDS = 60.0


async def run(folder: Path, scale: Scale, report: Report, wanted: list[str]) -> None:
    loop = asyncio.get_running_loop()
    async with mesh(folder, service=True) as ours:
        victim, *others = ours.exposed
        pids = [each.process.pid for each in others]
        async with ours.laptops(scale.herd, ONLINE_SECONDS) as laptops:

            async def have_two() -> bool:
                return (
                    sum([await ours.metric(each, "devroute_links") for each in ours.exposed])
                    == 2 * scale.herd
                )

            await eventually(have_two, "two links each", within=LINKED_SECONDS)
            before = cpu_seconds(pids)
            _, gone = await lose(ours, victim)
            await eventually(have_two, "two links each again", within=3 * BACK_S)
            back, spent = loop.time() - gone, (cpu_seconds(pids) - before) / scale.herd
            assert set(await ours.links_of_each(others[0])) == {2}
            report.add(NAME, "agents", scale.herd)
            report.at_most(NAME, "all have two links again after", back, BACK_S, "s")
            report.at_most(NAME, "CPU of the other replicas, for each", spent * 1e3, CPU_S * 1e3, "ms")
            assert laptops.stdin is not None
            laptops.stdin.write(b"\n")
            events = json.loads(await ours.line(laptops, ONLINE_SECONDS))
            report.at_most(NAME, "laptops that were offline meanwhile", events.get("offline", 0), 0)
