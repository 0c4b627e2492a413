"""A laptop's second link, to another replica than the first one, as long as that is up: when either is lost,
the other one carries all requests.

Where there is one replica, or no connection leads to another, there is none, and one is looked for again
after a while. link_keeper.py keeps the first link, and takes this one in its place when that has ended.
"""

import asyncio
import random
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final, Protocol

from devroute.agent.backoff import jittered_delay
from devroute.agent.ui.reporter import Reporter
from devroute.errors import DevrouteError
from devroute.tasks import TaskOwner, is_set_within
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import SameReplica
from devroute.tunnel.protocol.handshake import Move, Welcome

#: The longest delay before the first attempt, in seconds: all laptops of a replica that was killed look for
#: another one.
SPREAD_SECONDS: Final = 4.0
#: Attempts in a row: of two replicas, 1 in 65,536 rows leads only to the same one. And of later rows, where
#: something always leads there.
TRIES: Final = 16
LATER_TRIES: Final = 4
#: The longest delay between two of them, in seconds. That a connection led to the same replica is no failure:
#: the next one may lead elsewhere at once.
LAST_DELAY: Final = 2.0
#: Seconds, at least half of them, until another replica is looked for again; they double.
FIRST_PAUSE: Final = 30.0
LAST_PAUSE: Final = 600.0

#: The same, while a link is about to end.
MOVING_DELAY: Final = 0.4
#: Seconds after which an agent lets go of a link that it has replaced; its server does so as soon as it
#: learns of the newer one.
LET_GO_SECONDS: Final = 5.0

#: What the agent says to the server of a link that it ends because it has another one.
MOVED: Final = ("moved", "the laptop has another link")


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """A link that its server has welcomed. `number`: as in its HELLO. `move` gets the server's request to
    dial another replica."""

    link: AgentLink
    welcome: Welcome
    number: int
    move: "asyncio.Future[Move]"

    @property
    def replica(self) -> str:
        """Its id; "" where there is one replica, or it is not known."""
        return self.welcome.replica or ""

    @property
    def open(self) -> bool:
        """Whether it takes requests."""
        return self.link.close_error is None and self.link.goaway is None


class Dial(Protocol):
    """Makes a link, to none of the replicas `other_than`; raises what Registrar.register does."""

    async def __call__(self, number: int, *, beside: bool, other_than: Collection[str]) -> Held: ...


async def dial_next(held: Held, dial: Dial, other: Callable[[], str]) -> Held | None:
    """A link in the place of `held`, whose server is about to stop. `other()`: the replica of the laptop's
    other link, "" without one. None if `held` ended first, or connections lead only to `other()`."""
    failures, same = 0, 0
    delay = random.random() * held.move.result().within
    while True:
        await asyncio.wait({held.link.close_reason}, timeout=delay)
        if held.link.close_reason.done():
            return None
        try:
            beside = other()
            return await dial(held.number, beside=bool(beside), other_than={held.replica, beside})
        except SameReplica:
            same += 1
            if same >= TRIES and other():
                return None
        except DevrouteError:  # what is final is raised once the link has ended, too
            failures += 1
        delay = jittered_delay(failures, random.random(), MOVING_DELAY)


class SecondLink:
    """`ended(link)` returns why a link has ended."""

    def __init__(self, dial: Dial, reporter: Reporter, ended: Callable[[AgentLink], DevrouteError]) -> None:
        self._dial = dial
        self._reporter = reporter
        self._ended = ended
        self._first: Held | None = None
        self._held: Held | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._moved = asyncio.Event()  # the first one leads to another replica than before
        self._tasks = TaskOwner()

    @property
    def replica(self) -> str:
        """To which it leads, "" if there is none."""
        return "" if self._held is None else self._held.replica

    def beside(self, first: Held) -> None:
        """Have a second link beside this one from now on."""
        if first is not self._first:
            self._moved.set()
        self._first = first
        if self._held is not None and self._held.replica == first.replica:  # both have just moved there
            self._held.link.drain(*MOVED)
        running = self._keeping is not None and not self._keeping.done()
        if not running and first.replica and "links" in first.welcome.features:
            self._keeping = self._tasks.start(self._keep())

    async def take(self) -> Held | None:
        """It is to be the first one from now on, and another one is not looked for; None if there is none."""
        held, self._held = self._held, None
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait({self._keeping})
        return held if held is not None and held.open else None

    async def close(self) -> None:
        """Look for none any more; the links themselves are closed by link_keeper.py."""
        await self._tasks.close()

    async def _keep(self) -> None:
        pause, again = FIRST_PAUSE, False
        while True:
            self._moved.clear()
            tries = self._tries(again=again)
            held = self._held = await self._search(tries)
            if held is not None:
                self._reporter.links(2)
                reason = await self._hold(held)
                self._held = None
                self._reporter.links(1, reason.message)
            elif tries > 1:
                self._reporter.links(1, "no connection led to another replica")
            # Once the first link leads to another replica, which may know more of them, at once.
            again = held is None and not await is_set_within(self._moved, random.uniform(pause / 2, pause))
            pause = min(2 * pause, LAST_PAUSE) if again else FIRST_PAUSE

    def _tries(self, *, again: bool) -> int:
        """Attempts of the next row; `again`: nothing has changed since the last one."""
        if self._first is None or self._first.welcome.replicas == 1:
            return int(again)
        return LATER_TRIES if again else TRIES

    async def _search(self, tries: int) -> Held | None:
        delay, failures = random.random() * SPREAD_SECONDS, 0
        for _ in range(tries):
            await asyncio.sleep(delay)
            assert self._first is not None
            first = self._first
            try:
                held = await self._dial(1 - first.number, beside=True, other_than={first.replica})
                if held.replica != self._first.replica:
                    return held
                held.link.drain(*MOVED)
            except SameReplica:
                pass
            except DevrouteError:  # what is final is raised once the first link has ended, too
                failures += 1
            delay = jittered_delay(failures, random.random(), LAST_DELAY)
        return None

    def _beside_which(self) -> str:
        return "" if self._first is None else self._first.replica

    async def _hold(self, held: Held) -> DevrouteError:
        """Returns once it has ended, and why."""
        while True:
            either: list[asyncio.Future[Any]] = [held.link.close_reason, held.move]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if held.link.close_reason.done():
                return self._ended(held.link)
            made = await dial_next(held, self._dial, self._beside_which)
            if made is not None:
                self._tasks.start(let_go(held.link))
                held = self._held = made
            elif not held.link.close_reason.done():
                held.link.drain(*MOVED)
                await asyncio.wait({held.link.close_reason})


async def let_go(link: AgentLink) -> None:
    """Requests that are open on it go on."""
    await asyncio.wait({link.close_reason}, timeout=LET_GO_SECONDS)
    link.drain(*MOVED)
