"""A rolling restart of all replicas, as a Deployment does it: one more, then one less. It waits for no laptop
to have two links again."""

import asyncio

from ha.figures import Report
from ha.ledger import Kind, count, examples, longest
from ha.load import Load
from ha.mesh import Mesh
from ha.scale import Scale

NAME = "rolling restart"
#: Seconds from the moment that a replica is no endpoint any more to SIGTERM: `preStop` of the manifests waits
#: longer, for nodes that learn of it late.
PRE_STOP_S = 1.0


async def run(ours: Mesh, load: Load, scale: Scale, report: Report) -> None:
    loop = asyncio.get_running_loop()
    since = loop.time()
    stopping = 0.0
    for old in list(ours.exposed):
        ours.expose(await ours.start())
        await asyncio.sleep(scale.settle)
        ours.withdraw(old)
        await asyncio.sleep(PRE_STOP_S)
        before = loop.time()
        await old.terminate()
        stopping = max(stopping, loop.time() - before)
        await asyncio.sleep(scale.settle)
    until = loop.time()
    await load.ended(until)
    outcomes = load.since(since, until)
    report.add(NAME, "requests", len(outcomes))
    report.at_most(NAME, "failed", count(outcomes, Kind.FAILED) + count(outcomes, Kind.UNSENT), 0)
    report.at_most(NAME, "wrong", count(outcomes, Kind.WRONG), 0)
    report.at_most(NAME, "fallbacks", count(outcomes, Kind.FALLBACK), 0)
    report.add(NAME, "longest request", longest(outcomes), "s")
    report.add(NAME, "a replica stops within", stopping, "s")
    report.note(NAME, examples(outcomes))
