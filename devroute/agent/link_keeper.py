"""Keeps a laptop online: dials again when its link has ended and, where the server says that it is about to
stop, before that, so that no request falls in between. Other services are offered on a link in its place.

second_link.py keeps a link to another replica, which carries all requests when the first one is lost.
link_monitor.py finds out whether a link still works; registration.py makes one attempt.
"""

import asyncio
import random
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

from devroute.agent.backoff import jittered_delay
from devroute.agent.link_monitor import LinkMonitor
from devroute.agent.mesh_links import MeshLinks
from devroute.agent.registration import Registrar, rejection
from devroute.agent.second_link import MOVED, Held, SecondLink, dial_next, let_go
from devroute.agent.settings import AgentSettings
from devroute.agent.token_source import TokenSource
from devroute.agent.ui.reporter import Reporter
from devroute.contract.service_spec import ServiceSpec
from devroute.errors import (
    DevrouteError,
    FailoverUnavailable,
    LinkReplaced,
    NameNotOwned,
    NameTaken,
    NotSupported,
    RegistrationDenied,
    RegistrationEnded,
    ServerUnreachable,
    ShadowDenied,
    SubjectBlocked,
    SubjectInvalid,
    TargetDenied,
    TokenExpired,
    TokenInvalid,
)
from devroute.tasks import TaskOwner
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import MakeLink
from devroute.tunnel.protocol.handshake import Move

#: How long the server of the second link may take to reply to each of two PINGs, in seconds.
GIVE_UP_SECONDS: Final = 1.0

_T = TypeVar("_T")
_U = TypeVar("_U")

#: The longest delay between two attempts to dial again, in seconds.
LAST_DELAY: Final = 15.0

#: While a server that cannot be reached may be restarting: the longest delay, and how long it counts. Cheap
#: for a server that is not there, and jitter spreads the laptops of one that is back.
EAGER_DELAY: Final = 0.4
EAGER_SECONDS: Final = 60.0

#: A link that lasted this long, in seconds, ended for a new reason: delays start again from the first.
STEADY_SECONDS: Final = 10.0

#: How long open requests may continue after a Ctrl-C, in seconds.
LEAVE_SECONDS: Final = 2.0

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
    SubjectBlocked,
    RegistrationEnded,
)


class LinkKeeper:
    """Keeps the first link; second_link.py does another one. `mesh`: the laptop's way into the mesh, over all
    of them, if `reach` asks the server for that."""

    def __init__(
        self,
        settings: AgentSettings,
        source: TokenSource,
        make_link: MakeLink,
        monitor: LinkMonitor,
        reporter: Reporter,
        *,
        reach: bool = False,
    ) -> None:
        self.registrar = Registrar(settings, source, make_link, self._dialled, reporter.not_renewed, reach)
        self.mesh = MeshLinks(lambda: self.links)
        self._moves: dict[AgentLink, asyncio.Future[Move]] = {}
        self._second = SecondLink(self._dial, reporter, self._ended)
        self._settings = settings
        self._source = source
        self._monitor = monitor
        self._reporter = reporter
        self._loop = asyncio.get_running_loop()
        self._tasks = TaskOwner()
        self._change: asyncio.Future[_Change] = self._loop.create_future()  # gets the next one
        self._online = False

    @property
    def online(self) -> bool:
        """Whether there is a link, and so services may be changed."""
        return self._online

    @property
    def links(self) -> list[AgentLink]:
        """The open ones, the newest last; some of them only finish their requests."""
        return [each for each in self._moves if each.close_error is None]

    def asked_to_move(self, link: AgentLink, move: Move) -> None:
        """The server of a link is about to stop."""
        asked = self._moves.get(link)
        if asked is not None and not asked.done():
            asked.set_result(move)

    async def first(self) -> Held:
        """The first link of all. Raises the reason that there is none."""
        return await self._dial(0, beside=False, other_than=())

    async def stay(self, first: Held) -> NoReturn:
        """Keep the laptop online; ends only by an error of FINAL."""
        attempt = 0
        while True:
            since = self._loop.time()
            self._second.beside(first)
            self._online = True
            either: list[asyncio.Future[Any]] = [first.link.close_reason, first.move, self._change]
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if not first.link.close_reason.done():
                first = await (self._changed(first) if self._change.done() else self._moved(first))
                continue
            self._go_offline()
            error = self._ended(first.link)
            ended = isinstance(error, RegistrationEnded | SubjectBlocked)
            if not ended and (second := await self._second.take()) is not None:
                self._reporter.links(1, error.message)
                first = second
                continue
            if self._is_final(error):
                raise error
            self._reporter.offline(error.message)
            attempt = 0 if self._loop.time() - since > STEADY_SECONDS else attempt + 1
            first, attempt = await self._again(attempt)
            self._reporter.back(first.welcome.name)

    def _ended(self, link: AgentLink) -> DevrouteError:
        """Why a link has ended."""
        error = link.close_reason.result() if link.goaway is None else rejection(link)
        if isinstance(error, TokenInvalid) and self._source.renewable:
            self._source.forget()
        return error

    def _is_final(self, error: DevrouteError) -> bool:
        if isinstance(error, TokenInvalid) and self._source.renewable:
            return False
        if isinstance(error, TokenExpired) and self._settings.client_cert is not None:
            return False  # its file may hold a newer one; if not, the next attempt raises the error
        return isinstance(error, FINAL)

    async def _again(self, attempt: int) -> tuple[Held, int]:
        eager_until = self._loop.time() + EAGER_SECONDS
        longest = LAST_DELAY
        while True:
            delay = jittered_delay(max(0, attempt - 1), random.random(), longest)
            await self._unless_woken(asyncio.sleep(delay))
            try:
                made = await self._unless_woken(self.first())
                if isinstance(made, Held):
                    return made, attempt
            except FINAL:
                raise
            except DevrouteError as error:
                attempt += 1
                eager = isinstance(error, ServerUnreachable) and self._loop.time() < eager_until
                longest = EAGER_DELAY if eager else LAST_DELAY
                self._reporter.retry(error, jittered_delay(attempt - 1, 1.0, longest))

    async def _unless_woken(self, awaited: Coroutine[Any, Any, _T]) -> _T | bool:
        """True once the laptop wakes up or its network changes: then a delay is pointless, as a network is
        likely to be back, and an attempt over the old one would only time out."""
        self._monitor.woken.clear()
        return await first_result(awaited, self._monitor.woken.wait())

    async def _moved(self, old: Held) -> Held:
        """The link in the place of `old`, which its server ends soon; `old` if it ended first."""
        made = await dial_next(old, self._dial, lambda: self._second.replica)
        if made is not None:
            self._reporter.moved(made.welcome.name)
            self._tasks.start(let_go(old.link))
            return made
        if not old.link.close_reason.done() and (second := await self._second.take()) is not None:
            old.link.drain(*MOVED)
            return second
        return old

    # --- other services

    async def offer(self, services: Sequence[ServiceSpec]) -> None:
        """Have the laptop serve these and no others from now on; requests that are open go on. Raises the
        reason why not, ServerUnreachable without a link; then nothing has changed. One at a time."""
        if not self._online:
            raise ServerUnreachable("the tunnel is down", hint="try again once devroute up is online again")
        done: asyncio.Future[None] = self._loop.create_future()
        self._change.set_result(_Change(tuple(services), done))
        await done

    async def _changed(self, first: Held) -> Held:
        """The link that offers other services in the place of `first`; `first` if the server refuses them."""
        change = self._change.result()
        self._change = self._loop.create_future()
        restore = self.registrar.offer(change.services)
        try:
            if "links" not in first.welcome.features:
                raise NotSupported(
                    "the server is too old to add or remove services on a running laptop",
                    hint="start another devroute up beside this one",
                )
            if (second := await self._second.take()) is not None:
                await self._give_up(second)
            made = await self._dial(1 - first.number, beside=True, other_than=())
            change.end(None)
        except DevrouteError as error:
            restore()
            change.end(error)
            return first
        finally:
            change.end(ServerUnreachable("devroute up has ended"))  # has no effect after an end
        first.link.leave(*MOVED)
        return made

    async def _give_up(self, second: Held) -> None:
        """Return once its server sends no more requests to it: another link of its number would end it."""
        second.link.leave(*MOVED)
        for _ in range(2):  # the reply to the second PING follows the server's reading of all before
            await asyncio.wait({second.link.heartbeat.ping()}, timeout=GIVE_UP_SECONDS)

    def _go_offline(self) -> None:
        self._online = False
        if self._change.done():
            self._change.result().end(ServerUnreachable("the tunnel went down"))
            self._change = self._loop.create_future()

    async def _dial(self, number: int, *, beside: bool, other_than: Collection[str]) -> Held:
        link, welcome = await self.registrar.register(number, beside=beside, other_than=other_than)
        self.mesh.linked()
        return Held(link, welcome, number, self._moves[link])

    def _dialled(self, link: AgentLink) -> None:
        self._moves = {each: move for each, move in self._moves.items() if each.close_error is None}
        self._moves[link] = self._loop.create_future()
        self._monitor.follow(link)

    # --- the end

    def end_at_once(self) -> None:
        """End all links, and the requests on them."""
        for link in self.links:
            link.close_with(DevrouteError("a second signal ended devroute up at once"))

    async def close(self) -> None:
        """Let open requests finish, for LEAVE_SECONDS."""
        await self._second.close()
        await self._tasks.close()
        await self.registrar.close()
        links = self.links
        if not links:
            return
        for link in links:
            link.drain("leaving", "devroute up has ended")
        await asyncio.wait([link.close_reason for link in links], timeout=LEAVE_SECONDS)
        for link in links:
            link.close_with(DevrouteError("the agent has ended"))
        await asyncio.wait([link.disconnected for link in links], timeout=LEAVE_SECONDS)


@dataclass(frozen=True, slots=True, eq=False)
class _Change:
    """Services to offer from now on; `done` once they are."""

    services: tuple[ServiceSpec, ...]
    done: "asyncio.Future[None]"

    def end(self, error: DevrouteError | None) -> None:
        if self.done.done():
            return  # no one waits any more
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


async def first_result(first: Coroutine[Any, Any, _T], second: Coroutine[Any, Any, _U]) -> _T | _U:
    """The result or error of what is done first; the other one is cancelled, and has ended on return."""
    owner = TaskOwner()
    tasks = owner.start(first), owner.start(second)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return tasks[0].result() if tasks[0].done() else tasks[1].result()
    finally:
        await owner.close()
