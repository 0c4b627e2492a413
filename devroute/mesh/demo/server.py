"""The page of `devroute demo --keep`: the newest requests, each with its chain, live. It only reads: there is
nothing on it that a request could change, and no token.
"""

import asyncio
import json
import time
from collections.abc import Mapping
from importlib import resources
from typing import Final

from aiohttp import web

from devroute.inspector.server import HEADERS, TYPES
from devroute.mesh.demo.journal import Journal

#: Between two looks at the journal, and the longest time without an event, in seconds: a page that has gone
#: is found when it is written to.
POLL_SECONDS: Final = 0.2
SILENT_SECONDS: Final = 5.0
#: Pages that are open at the same time.
MAX_PAGES: Final = 8


class JournalPage:
    """`about` is shown above the requests: the event "about" of the page's stream."""

    def __init__(self, journal: Journal, about: Mapping[str, object]) -> None:
        self._journal = journal
        self._about = about
        self._open = 0
        folder = resources.files("devroute.mesh.demo").joinpath("page")
        icon = resources.files("devroute.inspector").joinpath("page", "icon.svg")
        self._files = {each.name: each.read_bytes() for each in (*folder.iterdir(), icon)}

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/", self.file)
        router.add_get("/page/{file}", self.file)
        router.add_get("/events", self.events)

    async def file(self, request: web.Request) -> web.Response:
        name = request.match_info.get("file", "index.html")
        if name not in self._files:
            raise web.HTTPNotFound
        kind = TYPES[name.rpartition(".")[2]]
        return web.Response(body=self._files[name], content_type=kind, charset="utf-8", headers=HEADERS)

    async def events(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: "about" once, then "requests" with each change, as JSON."""
        if self._open == MAX_PAGES:
            raise web.HTTPServiceUnavailable(text="too many pages are open\n")
        response = web.StreamResponse(headers={**HEADERS, "content-type": "text/event-stream"})
        await response.prepare(request)
        self._open += 1
        try:
            await response.write(_event("about", self._about))
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
            if version != sent or now - last > SILENT_SECONDS:
                await response.write(_event("requests", {"now": now, "requests": self._journal.as_json()}))
                sent, last = version, now
            await asyncio.sleep(POLL_SECONDS)


def _event(name: str, document: Mapping[str, object]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(document)}\n\n".encode()
