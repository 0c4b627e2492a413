"""Keeps a laptop's link: dials again when it has ended and, where the server says that it is about to stop,
before that, so that no request falls in between.

link_monitor.py finds out whether a link still works; registration.py makes one attempt.
"""

import asyncio
import random
from collections.abc import Coroutine
from typing import Any, Final, NoReturn, TypeVar

from devroute.agent.link_monitor import LinkMonitor
from devroute.agent.registration import Registrar, rejection
from devroute.agent.settings import AgentSettings
from devroute.agent.token_source import TokenSource
from devroute.agent.ui.reporter import Reporter
from devroute.errors import (
    DevrouteError,
    FailoverUnavailable,
    LinkReplaced,
    NameNotOwned,
    NameTaken,
    NotSupported,
    RegistrationDenied,
    ServerUnreachable,
    ShadowDenied,
    SubjectInvalid,
    TargetDenied,
    TokenExpired,
    TokenInvalid,
)
from devroute.tasks import TaskOwner
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import MakeLink
from devroute.tunnel.protocol.handshake import Move, Welcome

_T = TypeVar("_T")
_U = TypeVar("_U")

#: The longest delays before the first and before later attempts to dial again, in seconds.
FIRST_DELAY: Final = 0.2
LAST_DELAY: Final = 15.0

#: While a server that cannot be reached may be restarting: the longest delay, and how long it counts. Cheap
#: for a server that is not there, and jitter spreads the laptops of one that is back.
EAGER_DELAY: Final = 0.4
EAGER_SECONDS: Final = 60.0

#: A link that lasted this long, in seconds, ended for a new reason: delays start again from the first.
STEADY_SECONDS: Final = 10.0

#: How long open requests may continue after a Ctrl-C, in seconds.
LEAVE_SECONDS: Final = 2.0

#: Seconds after which an agent lets go of a link that it has replaced; its server does so as soon as it
#: learns of the newer one.
LET_GO_SECONDS: Final = 5.0

#: Another attempt would end with the same error.
FINAL: Final = (
    TokenInvalid,
    NameNotOwned,
    NameTaken,
    RegistrationDenied,
    TargetDenied,
    LinkReplaced,
    FailoverUnavailable,
    NotSupported,
    ShadowDenied,
    SubjectInvalid,
)


def delay_before(attempt: int, draw: float, longest: float = LAST_DELAY) -> float:
    """Full jitter: `draw`, from 0 to 1, of a ceiling that doubles with each attempt. The first attempt is
    0."""
    return draw * min(longest, FIRST_DELAY * 2.0 ** min(attempt, 10))


class LinkKeeper:
    """`links`: the open ones, the newest last; those before it only finish their requests."""

    def __init__(
        self,
        settings: AgentSettings,
        source: TokenSource,
        make_link: MakeLink,
        monitor: LinkMonitor,
        reporter: Reporter,
    ) -> None:
        self.registrar = Registrar(settings, source, make_link, self._dialled, reporter.not_renewed)
        self.links: list[AgentLink] = []
        self._settings = settings
        self._source = source
        self._monitor = monitor
        self._reporter = reporter
        self._loop = asyncio.get_running_loop()
        self._move: asyncio.Future[Move] = self._loop.create_future()
        self._tasks = TaskOwner()

    def asked_to_move(self, move: Move) -> None:
        """The server of the newest link is about to stop."""
        if not self._move.done():
            self._move.set_result(move)

    async def stay(self, link: AgentLink) -> NoReturn:
        """Keep the laptop online; ends only by an error of FINAL."""
        attempt = 0
        while True:
            since = self._loop.time()
            either: list[asyncio.Future[Any]] = [link.close_reason, self._move]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not link.close_reason.done():
                link = await self._moved(link, self._move.result()) or link
                continue
            error = link.close_reason.result()
            if link.goaway is not None:
                error = rejection(link)
            if isinstance(error, TokenInvalid) and self._source.renewable:
                self._source.forget()
            elif isinstance(error, TokenExpired) and self._settings.client_cert is not None:
                pass  # its file may hold a newer one; if not, the next attempt raises the error
            elif isinstance(error, FINAL):
                raise error
            self._reporter.offline(error.message)
            attempt = 0 if self._loop.time() - since > STEADY_SECONDS else attempt + 1
            link, welcome, attempt = await self._again(attempt)
            self._reporter.back(welcome.name)

    async def _again(self, attempt: int) -> tuple[AgentLink, Welcome, int]:
        eager_until = self._loop.time() + EAGER_SECONDS
        longest = LAST_DELAY
        while True:
            delay = delay_before(max(0, attempt - 1), random.random(), longest)
            await self._unless_woken(asyncio.sleep(delay))
            try:
                made = await self._unless_woken(self.registrar.register())
                if isinstance(made, tuple):
                    return *made, attempt
            except FINAL:
                raise
            except DevrouteError as error:
                attempt += 1
                eager = isinstance(error, ServerUnreachable) and self._loop.time() < eager_until
                longest = EAGER_DELAY if eager else LAST_DELAY
                self._reporter.retry(error, delay_before(attempt - 1, 1.0, longest))

    async def _unless_woken(self, awaited: Coroutine[Any, Any, _T]) -> _T | bool:
        """True once the laptop wakes up or its network changes: then a delay is pointless, as a network is
        likely to be back, and an attempt over the old one would only time out."""
        self._monitor.woken.clear()
        return await first_result(awaited, self._monitor.woken.wait())

    # --- from one replica to another

    async def _moved(self, old: AgentLink, move: Move) -> AgentLink | None:
        """A link in the place of `old`, which its server ends soon; None if it ended first."""
        attempt, delay = 0, random.random() * move.within
        while True:
            await asyncio.wait({old.close_reason}, timeout=delay)
            if old.close_reason.done():
                return None
            try:
                link, welcome = await self.registrar.register()
            except DevrouteError:  # what is final is raised once the old link has ended, too
                self._dialled(old)
                attempt += 1
                delay = delay_before(attempt, random.random(), EAGER_DELAY)
            else:
                self._reporter.moved(welcome.name)
                self._tasks.start(_let_go(old))
                return link

    def _dialled(self, link: AgentLink) -> None:
        self.links = [*(each for each in self.links if each.close_error is None and each is not link), link]
        self._move = self._loop.create_future()
        self._monitor.follow(link)

    # --- the end

    def end_at_once(self) -> None:
        """End all links, and the requests on them."""
        for link in self.links:
            link.close_with(DevrouteError("a second signal ended devroute up at once"))

    async def close(self) -> None:
        """Let open requests finish, for LEAVE_SECONDS."""
        await self._tasks.close()
        await self.registrar.close()
        if not self.links:
            return
        for link in self.links:
            link.drain("leaving", "devroute up has ended")
        await asyncio.wait([link.close_reason for link in self.links], timeout=LEAVE_SECONDS)
        for link in self.links:
            link.close_with(DevrouteError("the agent has ended"))
        await asyncio.wait([link.disconnected for link in self.links], timeout=LEAVE_SECONDS)


async def _let_go(link: AgentLink) -> None:
    """Requests that are open on it go on."""
    await asyncio.wait({link.close_reason}, timeout=LET_GO_SECONDS)
    link.drain("leaving", "the laptop has a newer link")


async def first_result(first: Coroutine[Any, Any, _T], second: Coroutine[Any, Any, _U]) -> _T | _U:
    """The result or error of what is done first; the other one is cancelled, and has ended on return."""
    owner = TaskOwner()
    tasks = owner.start(first), owner.start(second)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else tasks[1].result()
    finally:
        await owner.close()
