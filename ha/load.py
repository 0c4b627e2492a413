"""Requests at a fixed rate through the sidecar, to all laptops in turn, whether earlier ones have ended or
not.
"""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from ha import stalls
from ha.laptops import SERVICE, name_of
from ha.ledger import Kind, Outcome, Span, hindered, judge
from tests.support.eventually import eventually

#: Seconds for a response; a request without one has failed.
PATIENCE_S = 10.0
#: Open requests: more are not sent, so that a run whose requests hang ends.
MAX_OPEN = 2000
#: Of how many requests one has an app that takes its time, and how long, in seconds: a request that is open
#: while its replica stops.
SLOW_OF = 20
SLOW_S = 0.3


@dataclass(eq=False)
class Load:
    """`outcomes`: of requests that have ended, in the order of their ends. `stalls`: of the machine
    (stalls.py)."""

    entry: str
    laptops: int
    rate: float
    outcomes: list[Outcome] = field(default_factory=list)
    stalls: list[Span] = field(default_factory=list)
    _open: dict[int, float] = field(default_factory=dict)  # when those that are open were due

    async def run(self, stopped: asyncio.Event) -> None:
        """Send until `stopped`, then wait for the responses."""
        loop = asyncio.get_running_loop()
        connector = aiohttp.TCPConnector(limit=0)
        began = loop.time()
        async with (
            aiohttp.ClientSession(
                connector=connector, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)
            ) as session,
            asyncio.TaskGroup() as requests,
        ):
            for number in itertools.count():
                due = began + number / self.rate
                await asyncio.sleep(max(0.0, due - loop.time()))
                if stopped.is_set():
                    return
                laptop = name_of(number % self.laptops)
                if len(self._open) < MAX_OPEN:
                    requests.create_task(self._ask(session, laptop, number, due))
                else:
                    self.outcomes.append(Outcome(laptop, due, due, Kind.UNSENT))

    async def _ask(self, session: aiohttp.ClientSession, laptop: str, number: int, due: float) -> None:
        slow = number % SLOW_OF == 0
        url = f"{self.entry}/{number}" + (f"?wait={SLOW_S}" if slow else "")
        headers = {"host": SERVICE, "x-devroute": json.dumps({SERVICE: laptop})}
        self._open[number] = due
        try:
            async with session.get(url, headers=headers) as response:
                body = await response.text()
            kind, detail = judge(laptop, str(number), response.status, response.headers, body)
        except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
            kind, detail = Kind.FAILED, f"{type(error).__name__} {error}"
        finally:
            del self._open[number]
        ended = asyncio.get_running_loop().time()
        self.outcomes.append(Outcome(laptop, due, ended, kind, slow, detail))

    async def ended(self, until: float) -> None:
        """Wait for the requests that were due by then."""
        await eventually(lambda: not any(due < until for due in self._open.values()), "the responses")

    def since(self, moment: float, until: float = float("inf")) -> list[Outcome]:
        """Of the requests that were due from then on, without those that the machine has hindered."""
        return [
            each for each in self.outcomes if moment <= each.due < until and not hindered(each, self.stalls)
        ]

    @property
    def hindered(self) -> int:
        return sum(hindered(each, self.stalls) for each in self.outcomes)


@asynccontextmanager
async def running(load: Load, pids: Callable[[], Iterable[int]]) -> AsyncIterator[Load]:
    """Ends with the block, once all responses have arrived. `pids`: of the processes of the run."""
    stopped = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(stalls.watch(load.stalls, pids))
        sending = tasks.create_task(load.run(stopped))
        try:
            yield load
        finally:
            stopped.set()
            await sending
            watching.cancel()
