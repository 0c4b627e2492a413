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
#: Seconds for all laptops to have two links.
LINKS_SECONDS = 60.0
#: Seconds that a later request may take, its app's own time included.
MAX_WAIT_S = 1.0


async def run(ours: Mesh, load: Load, scale: Scale, report: Report) -> None:
    loop = asyncio.get_running_loop()
    lost, bad, waits, requests, back = 0, 0, [0.0], 0, 0.0
    await have_two_links(ours, scale.laptops)
    for _ in range(scale.kills):
        victim = ours.exposed[0]
        killed, gone = await lose(ours, victim)
        ours.expose(await ours.start())
        await have_two_links(ours, scale.laptops)
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
    report.at_most(NAME, "failed, wrong or fallback later", bad, scale.later_bad)
    report.at_most(NAME, "wrong", count(load.outcomes, Kind.WRONG), 0)
    report.at_most(NAME, "longest later request", max(waits), MAX_WAIT_S, "s")
    report.add(NAME, "a new replica is there, and each laptop has two links, after", back, "s")


async def lose(ours: Mesh, victim: Replica) -> tuple[float, float]:
    """Kill a replica, and take it from the endpoints once that is noticed. When it was killed, and when it
    was gone."""
    killed, gone = await victim.kill()
    await asyncio.sleep(NOTICED_S)
    ours.withdraw(victim)
    return killed, gone


async def have_two_links(ours: Mesh, laptops: int) -> None:
    """Wait until each laptop has, as all replicas know."""

    async def have() -> bool:
        return min([await ours.links(each) for each in ours.exposed]) >= 2 * laptops

    await eventually(have, "two links of each laptop", within=LINKS_SECONDS)
