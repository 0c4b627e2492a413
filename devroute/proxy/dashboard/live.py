"""Keeps the rows of all open pages up to date, over all replicas; does nothing while no page is open."""

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import structlog

from devroute.errors import TooManyPages
from devroute.proxy.dashboard.activity import ReplicaActivity, TotalActivity, decode_activity
from devroute.proxy.dashboard.feed import Board, Feed
from devroute.proxy.dashboard.rows import Row
from devroute.proxy.dashboard.shared import SharedTeam
from devroute.tasks import TaskOwner

#: Seconds between two looks at the registry, and looks between two questions to the other replicas.
REFRESH_SECONDS: Final = 0.5
ASK_EVERY: Final = 6
#: Pages and `devroute ls --watch` at one replica, and of one subject.
MAX_PAGES: Final = 64
MAX_PAGES_OF_SUBJECT: Final = 8

log = structlog.stdlib.get_logger("devroute.dashboard")


class Live:
    """`own()` is the activity of this replica; `rows_of(total)` makes the rows; `measure()` is called now and
    then."""

    def __init__(
        self,
        shared: SharedTeam,
        own: Callable[[], ReplicaActivity],
        rows_of: Callable[[TotalActivity], Mapping[str, Row]],
        measure: Callable[[], None],
    ) -> None:
        self.ending = False
        self._shared = shared
        self._own = own
        self._rows_of = rows_of
        self._measure = measure
        self._board = Board()
        self._subjects: dict[Feed, str] = {}
        self._others: list[ReplicaActivity] = []
        self._tasks = TaskOwner()

    def end(self) -> None:
        """Have all pages connect to another replica."""
        self.ending = True
        for feed in self._board.feeds:
            feed.awake.set()

    async def close(self) -> None:
        self.end()
        await self._tasks.close()

    @contextmanager
    def feed(self, subject: str, *, admin: bool) -> Iterator[Feed]:
        """A page is open. Raises TooManyPages."""
        of_subject = sum(each == subject for each in self._subjects.values())
        if of_subject >= MAX_PAGES_OF_SUBJECT:
            raise TooManyPages(f"'{subject}' has {of_subject} pages open already")
        if len(self._subjects) >= MAX_PAGES:
            raise TooManyPages(f"{MAX_PAGES} pages are open already", hint="try again later")
        feed = Feed(self._board, admin=admin)
        self._subjects[feed] = subject
        self._board.feeds.add(feed)
        if not self._tasks.active:
            self._refresh()
            self._tasks.start(self._keep_refreshed())
        try:
            yield feed
        finally:
            del self._subjects[feed]
            self._board.feeds.discard(feed)

    def _refresh(self) -> None:
        self._board.update(self._rows_of(TotalActivity([self._own(), *self._others])))

    async def _keep_refreshed(self) -> None:
        """While a page is open."""
        looks = 0
        while self._subjects and not self.ending:
            if looks % ASK_EVERY == 0:
                self._measure()
                self._others = list(map(decode_activity, await self._shared.activities()))
            looks += 1
            try:
                self._refresh()
            except (
                Exception
            ) as error:  # the last resort: without it, pages would stop changing, with no error
                log.error("dashboard.not_refreshed", exc_info=error)
            await asyncio.sleep(REFRESH_SECONDS)
        self._others = []
