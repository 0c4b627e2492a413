"""Requests a second at the owner's data port and at another replica's, against a replica that shares
nothing.
"""

import json
import statistics
from contextlib import AsyncExitStack
from pathlib import Path

from bench.processes import cpu_seconds
from devroute.mesh import testbed
from devroute.mesh.istio.sidecar import Endpoint
from ha import apps
from ha.figures import Report
from ha.laptops import SERVICE, SUBJECT
from ha.mesh import Mesh, Replica, mesh
from ha.scale import Scale
from tests.support.eventually import eventually

NAME = "throughput"
CONNECTIONS = 32
#: Bytes of a response.
SIZE = 1024
ALONE, PINNED, FORWARDED = "one replica", "pinned", "forwarded"


async def run(folder: Path, scale: Scale, report: Report, wanted: list[str]) -> None:
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(mesh(folder))
        alone = await ours.start(memory=True)
        app = await stack.enter_async_context(await apps.serve(SUBJECT, SIZE))
        offer = f"{SERVICE}={apps.port_of(app)}"
        owner, other, *_ = ours.exposed
        for name, replica in (("pinned", owner), ("alone", alone)):
            (place := folder / name).mkdir()
            up = testbed.laptop(place, SUBJECT, replica.proxy.server, ours.secret, offer)
            await stack.enter_async_context(up)
        await eventually(lambda: ours.knows(other, SUBJECT), "the laptop is known")
        places = {ALONE: (alone,), PINNED: (owner,), FORWARDED: (other, owner)}
        await _measure(ours, places, scale, report)


async def _measure(ours: Mesh, places: dict[str, tuple[Replica, ...]], scale: Scale, report: Report) -> None:
    """`places`: the replicas that a request passes; it enters at the first."""
    rates: dict[str, list[float]] = {name: [] for name in places}
    alone: dict[str, list[float]] = {name: [] for name in places}
    cpu: dict[str, list[float]] = {name: [] for name in places}
    wrong = 0
    for number in range(scale.rounds):
        for name in list(places)[:: -1 if number % 2 else 1]:
            entry = places[name][0].proxy.data
            pids = [each.process.pid for each in places[name]]
            before = cpu_seconds(pids)
            many = await _load(ours, entry, CONNECTIONS, scale.round)
            cpu[name].append((cpu_seconds(pids) - before) / many["requests"])
            one = await _load(ours, entry, 1, scale.round / 2)
            rates[name].append(many["requests"] / many["seconds"])
            alone[name].append(one["p50"])
            wrong += int(many["wrong"] + one["wrong"])
    for name in places:
        report.add(NAME, name, statistics.median(rates[name]), "requests/s")
    for name in places:
        report.add(NAME, f"{name}: CPU of the replicas", statistics.median(cpu[name]) * 1e6, "µs a request")
    report.at_least(NAME, "pinned ÷ one replica", _ratio(rates, PINNED), scale.pinned_ratio)
    report.at_least(NAME, "forwarded ÷ one replica", _ratio(rates, FORWARDED), scale.forwarded_ratio)
    added = statistics.median(a - b for a, b in zip(alone[FORWARDED], alone[PINNED], strict=True))
    report.add(NAME, "a forward adds to the p50 of one connection", added * 1e6, "µs")
    report.at_most(NAME, "failed", wrong, 0)


def _ratio(rates: dict[str, list[float]], name: str) -> float:
    """The median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(rates[name], rates[ALONE], strict=True))


async def _load(ours: Mesh, place: Endpoint, connections: int, seconds: float) -> dict[str, float]:
    fields = (f"x-devroute={json.dumps({SERVICE: SUBJECT})}", f"x-devroute-matched={SERVICE}")
    shape = (place.host, str(place.port), str(connections), str(seconds))
    async with ours.program("closed_loop", *shape, *fields) as client:
        found: dict[str, float] = json.loads(await ours.line(client, seconds + 30))
    return found
