"""Laptops whose requests go on while replicas are restarted and killed, and while Redis fails."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from ha import load
from ha.figures import Report
from ha.load import Load
from ha.mesh import Mesh, mesh
from ha.phases import kill, redis, restart
from ha.scale import Scale

#: Seconds for all laptops to be online.
ONLINE_SECONDS = 60.0

PHASES: dict[str, Callable[[Mesh, Load, Scale, Report], Awaitable[None]]] = {
    restart.NAME: restart.run,
    kill.NAME: kill.run,
    redis.NAME: redis.run,
}


async def run(folder: Path, scale: Scale, report: Report, wanted: list[str]) -> None:
    async with (
        mesh(folder, service=True) as ours,
        ours.laptops(scale.laptops, ONLINE_SECONDS) as laptops,
    ):
        load_ = Load(ours.entry, scale.laptops, scale.rate)
        async with load.running(load_, ours.pids):
            await kill.have_two_links(ours, scale.laptops)
            for name in wanted:
                await PHASES[name](ours, load_, scale, report)
        last = wanted[-1]
        report.add(last, "late since the machine stood still, in all of the above", load_.hindered)
        assert laptops.stdin is not None
        laptops.stdin.write(b"\n")
        counts = (await ours.line(laptops, 10)).decode().strip()
        report.note(last, [f"the agents' events of this part of the run: {counts}"])
