"""`kill -9` of a replica. The requests that are open then may fail; no later one."""

import asyncio

from ha.figures import Report
from ha.ledger import Kind, count, examples, longest, overlaps, unexcused
from ha.load import PATIENCE_S, Load
from ha.mesh import Mesh, Replica
from ha.scale import Scale
from tests.support.eventually import eventually

NAME = "kill -9"
#: Seconds until it is no endpoint any more: the kubelet and two controllers have to notice.
NOTICED_S = 1.0
#: Seconds for all links to be there again.
LINKS_SECONDS = 30.0
#: Seconds that a later request may take, its app's own time included.
MAX_WAIT_S = 1.0


async def run(ours: Mesh, load: Load, scale: Scale, report: Report) -> None:
    loop = asyncio.get_running_loop()
    lost, bad, waits, requests, back = 0, 0, [0.0], 0, 0.0
    for _ in range(scale.kills):
        before = await links(ours, ours.exposed)
        victim = ours.exposed[0]
        killed, gone = await victim.kill()
        await asyncio.sleep(NOTICED_S)
        ours.withdraw(victim)
        ours.expose(await ours.start())
        await eventually(lambda before=before: _are_back(ours, before), "all links", within=LINKS_SECONDS)  # type: ignore[misc]
        back = max(back, loop.time() - gone)
        await asyncio.sleep(scale.settle)
        until = loop.time()
        await load.ended(until)
        outcomes = [each for each in load.since(killed - PATIENCE_S, until) if each.ended >= killed]
        later = [each for each in outcomes if each.due > gone]
        unexplained = unexcused(outcomes, killed, gone)
        requests += len(outcomes)
        bad += len(unexplained)
        lost += sum(each.kind is not Kind.GOOD for each in outcomes) - len(unexplained)
        waits.append(longest(each for each in later if not overlaps(each, load.stalls)))
        report.note(NAME, examples(unexplained))
    report.add(NAME, "requests", requests)
    report.add(NAME, "failed that were open then", lost)
    report.at_most(NAME, "failed, wrong or fallback later", bad, 0)
    report.at_most(NAME, "wrong", count(load.outcomes, Kind.WRONG), 0)
    report.at_most(NAME, "longest later request", max(waits), MAX_WAIT_S, "s")
    report.add(NAME, "all links are back, and a new replica is there, after", back, "s")


async def links(ours: Mesh, replicas: list[Replica]) -> float:
    """That end at these replicas."""
    return sum([await ours.metric(each, "devroute_laptops_online") for each in replicas])


async def _are_back(ours: Mesh, before: float) -> bool:
    return await links(ours, ours.exposed) >= before
