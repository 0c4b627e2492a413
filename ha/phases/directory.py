"""Thousands of laptops over three replicas: what they cost, and how soon each replica knows a new one; then
names that two laptops want at the same moment.
"""

import asyncio
from pathlib import Path

from bench.processes import cpu_seconds, resident_kib
from ha.figures import Report
from ha.ledger import quantile
from ha.links import online
from ha.mesh import Mesh, Replica, mesh
from ha.phases import contest
from ha.scale import Scale
from tests.support.eventually import eventually

NAME = "many laptops"
#: Registrations a second at the least, for the time that all of them may take.
SLOWEST = 50
#: Seconds within which all replicas know a new laptop, 99 of 100 times.
SEEN_S = 0.2
#: Percent of a core that a replica may use while no request comes.
IDLE_PERCENT = 10.0
#: Of the names of laptops that come later.
NEWCOMER = "ha--new-{}"


async def run(folder: Path, scale: Scale, report: Report, wanted: list[str]) -> None:
    count = scale.registrations
    async with mesh(folder) as ours:
        pids = [each.process.pid for each in ours.exposed]
        empty = [resident_kib(pid) for pid in pids]
        servers = [each.proxy.server for each in ours.exposed]
        loop = asyncio.get_running_loop()
        since = loop.time()
        async with ours.program("links", str(count), *servers) as links:
            await ours.line(links, 30 + count / SLOWEST)
            for each in ours.exposed:
                await eventually(lambda each=each: _knows(ours, each, count), "all laptops", within=60)  # type: ignore[misc]
            took = loop.time() - since
            if NAME in wanted:
                report.add(NAME, f"{count:,} laptops are known everywhere after", took, "s")
                grown = [resident_kib(pid) - before for pid, before in zip(pids, empty, strict=True)]
                for number, (more, before) in enumerate(zip(grown, empty, strict=True), 1):
                    report.add(NAME, f"memory of replica {number}", (before + more) / 1024, "MiB")
                report.add(NAME, "of it for each of all laptops", max(grown) / count, "KiB")
                await _idle(ours, pids, scale, report)
                await _newcomers(ours, scale, report)
            if contest.NAME in wanted:
                await contest.run(ours, scale, report)


async def _knows(ours: Mesh, replica: Replica, count: int) -> bool:
    return await ours.count(replica) >= count


async def _idle(ours: Mesh, pids: list[int], scale: Scale, report: Report) -> None:
    before = [cpu_seconds([pid]) for pid in pids]
    await asyncio.sleep(scale.idle)
    shares = [(cpu_seconds([pid]) - b) / scale.idle * 100 for pid, b in zip(pids, before, strict=True)]
    report.at_most(NAME, "CPU of the busiest replica, idle", max(shares), IDLE_PERCENT, "% of a core")


async def _newcomers(ours: Mesh, scale: Scale, report: Report) -> None:
    """From the moment that a laptop is online until each replica knows it that has not registered it."""
    loop = asyncio.get_running_loop()

    async def seen(replica: Replica, name: str, since: float) -> float:
        await eventually(lambda: ours.knows(replica, name), "the laptop is known")
        return loop.time() - since

    async def one(number: int) -> list[float]:
        await asyncio.sleep(number / scale.newcomers_rate)
        owner, *others = ours.exposed[number % 3 :] + ours.exposed[: number % 3]
        name = NEWCOMER.format(number)
        link = await online(owner.proxy.server, ours.secret, name)
        since = loop.time()
        links.append(link)
        return await asyncio.gather(*(seen(each, name, since) for each in others))

    links = []
    async with asyncio.timeout(60 + scale.newcomers / scale.newcomers_rate):
        took = [each for pair in await asyncio.gather(*map(one, range(scale.newcomers))) for each in pair]
    report.add(NAME, "a new one is known everywhere, p50", quantile(took, 0.5) * 1e3, "ms")
    report.at_most(NAME, "a new one is known everywhere, p99", quantile(took, 0.99) * 1e3, SEEN_S * 1e3, "ms")
