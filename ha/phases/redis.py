"""Redis is killed, comes back empty, stands still, and cannot be reached. No request may fail, or wait for
it.
"""

import asyncio
import signal
from collections.abc import Callable

from ha.figures import Report
from ha.ledger import Kind, count, examples, p99
from ha.load import Load
from ha.mesh import Mesh
from ha.scale import Scale
from tests.support.eventually import eventually

NAME = "Redis fails"
#: Seconds after which all has to be in Redis again.
REPUBLISHED_S = 2.0
#: Seconds between two windows: what has waited for Redis is done then.
PAUSE_S = 1.0


async def run(ours: Mesh, load: Load, scale: Scale, report: Report) -> None:
    redis, path = ours.redis, ours.path
    stopped, continued = (lambda: redis.signal(signal.SIGSTOP)), (lambda: redis.signal(signal.SIGCONT))
    redis.stop()
    await _requests(load, scale.gone, report, "killed")
    redis.start()
    back = await _republished(ours, scale)
    await _requests(load, scale.gone, report, "restarted, empty")
    report.at_most(NAME, "all is in Redis again after", back, REPUBLISHED_S, "s")
    stopped()
    await _requests(load, scale.paused, report, f"stopped (SIGSTOP) for {scale.paused:g} s")
    continued()
    path.silence()
    await _requests(load, scale.partitioned, report, f"cut off for {scale.partitioned:g} s")
    await path.heal()
    await _ratio(load, scale, report, stopped, continued)


async def _requests(load: Load, seconds: float, report: Report, what: str) -> None:
    loop = asyncio.get_running_loop()
    since = loop.time()
    await asyncio.sleep(seconds)
    until = loop.time()
    await load.ended(until)
    outcomes = load.since(since, until)
    bad = len(outcomes) - count(outcomes, Kind.GOOD)
    report.at_most(NAME, f"{what}: failed, of {len(outcomes):,} requests", bad, 0)
    report.note(NAME, examples(outcomes))


async def _republished(ours: Mesh, scale: Scale) -> float:
    loop = asyncio.get_running_loop()
    since = loop.time()

    async def all_there() -> bool:
        return await asyncio.to_thread(_names, ours) >= scale.laptops

    await eventually(all_there, "all names in Redis")
    return loop.time() - since


def _names(ours: Mesh) -> int:
    """How many names of laptops Redis has, over all replicas."""
    client = ours.redis.client
    keys = [key for key in client.scan_iter() if b":replica:" in key]
    return len({field for key in keys for field in client.hkeys(key) if field.startswith(b"n:")})


async def _ratio(
    load: Load, scale: Scale, report: Report, stopped: Callable[[], None], continued: Callable[[], None]
) -> None:
    """Windows with Redis and windows in which it stands still, in turn."""
    loop = asyncio.get_running_loop()
    spans: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for number in range(2 * scale.windows):
        # A B B A: what drifts meets both alike
        with_redis = number % 4 in (0, 3)
        if not with_redis:
            stopped()
        since = loop.time()
        await asyncio.sleep(scale.window)
        spans[with_redis].append((since, loop.time()))
        if not with_redis:
            continued()
        await asyncio.sleep(PAUSE_S)
    await load.ended(loop.time())
    with_, without = (
        p99([each for span in spans[which] for each in load.since(*span)]) for which in (True, False)
    )
    report.add(NAME, "p99 with Redis", with_ * 1e3, "ms")
    report.add(NAME, "p99 while it stands still", without * 1e3, "ms")
    ratio = without / with_ if with_ else float("nan")
    report.at_most(NAME, "p99 while it stands still ÷ with Redis", ratio, scale.latency_ratio)
