"""The page of `devroute demo --keep`: the newest requests, each with its chain, live. It only reads: there is
nothing on it that a request could change, and no token.
"""

import asyncio
import time
from collections.abc import Mapping
from typing import Final

from aiohttp import web

from devroute.errors import NotFound
from devroute.mesh.demo.journal import Journal
from devroute.pages.events import as_event
from devroute.pages.files import HEADERS, PageFiles

#: Between two looks at the journal, and the longest time without an event, in seconds: a page that has gone
#: is found when it is written to.
POLL_SECONDS: Final = 0.2
QUIET_SECONDS: Final = 5.0
#: Pages that are open at the same time.
MAX_PAGES: Final = 8


class JournalPage:
    """`about` is shown above the requests: the event "about" of the page's stream."""

    def __init__(self, journal: Journal, about: Mapping[str, object]) -> None:
        self._journal = journal
        self._about = about
        self._open = 0
        self._files = PageFiles("devroute.mesh.demo")

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/", self.file)
        router.add_get("/page/{file}", self.file)
        router.add_get("/events", self.events)

    async def file(self, request: web.Request) -> web.Response:
        try:
            response = self._files.response(request.match_info.get("file", "index.html"))
        except NotFound:
            raise web.HTTPNotFound from None
        response.headers.update(HEADERS)
        return response

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: "about" once, then "requests" with each change, as JSON."""
        if self._open == MAX_PAGES:
            raise web.HTTPServiceUnavailable(text="too many pages are open\n")
        response = web.StreamResponse(headers={**HEADERS, "content-type": "text/event-stream"})
        await response.prepare(request)
        self._open += 1
        try:
            await response.write(as_event("about", self._about))
            await self._follow(response)
        except ConnectionError:
            pass  # the page was closed
        finally:
            self._open -= 1
        return response

    async def _follow(self, response: web.StreamResponse) -> None:
        sent, last = -1, 0.0
        while True:
            version, now = self._journal.version, time.time()
            if version != sent or now - last > QUIET_SECONDS:
                await response.write(as_event("requests", {"now": now, "requests": self._journal.as_json()}))
                sent, last = version, now
            await asyncio.sleep(POLL_SECONDS)
