"""When the machine was too busy to run this process or one of the run's: late responses of that time say
nothing about devroute.
"""

import asyncio
from collections.abc import Callable, Iterable

from ha.ledger import Span
from soak.watch import BEAT_S, STALL_S, STARVED, Watched


async def watch(spans: list[Span], pids: Callable[[], Iterable[int]]) -> None:
    """Add the spans, in the loop's time, until cancelled; those after one another become one."""
    loop = asyncio.get_running_loop()
    last, waited = loop.time(), _waited(pids())
    while True:
        await asyncio.sleep(BEAT_S)
        now, before, waited = loop.time(), waited, _waited(pids())
        starved = any(
            value - before.get(pid, value) > STARVED * (now - last) for pid, value in waited.items()
        )
        if starved or now - last > BEAT_S + STALL_S:
            if spans and spans[-1][1] == last:
                spans[-1] = spans[-1][0], now
            else:
                spans.append((last, now))
        last = now


def _waited(pids: Iterable[int]) -> dict[int, float]:
    return {pid: Watched("", pid).waited() for pid in pids}
