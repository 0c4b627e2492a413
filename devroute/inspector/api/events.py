"""The changes of captures as server-sent events, and what the page shows of this laptop."""

import asyncio
from dataclasses import asdict
from typing import Any, Final

from aiohttp import web

from devroute import __version__
from devroute.inspector.feed import Feed
from devroute.inspector.inspection import Inspection
from devroute.pages.events import KEEP_ALIVE, QUIET_SECONDS, RETRY, as_event
from devroute.tasks import is_set_within

#: Seconds between two batches of events for one page.
BATCH_SECONDS: Final = 0.1


class Events:
    """The handlers of the stream of events and of the state."""

    def __init__(self, inspection: Inspection) -> None:
        self._inspection = inspection
        self._feeds: dict[Feed, web.Request] = {}
        inspection.rules.breakpoints.watchers.append(self._watched)
        self._ending = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/status", self.status), web.get("/api/events", self.events)]

    async def end(self, app: web.Application) -> None:
        """End the streams of events."""
        self._ending.set()
        for feed in self._feeds:
            feed.awake.set()

    def _hello(self) -> dict[str, Any]:
        return laptop(self._inspection) | {"rules": self._inspection.rules.as_json()}

    def _watched(self) -> bool:
        """Whether a page is open: a closed one is noticed at its next event only, its connection at once."""
        return any(each.transport is not None for each in self._feeds.values())

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/status"""
        store = self._inspection.store
        kept = {
            "exchanges": len(store),
            "bytes": store.total,
            "limit": store.max_total,
            "skipped": store.skipped,
        }
        return web.json_response(laptop(self._inspection) | {"kept": kept})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """GET /api/events: all captures, then their changes, as server-sent events.

        A page that reconnects gets everything again, so that nothing has to be kept for it meanwhile.
        """
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        feed = Feed(self._inspection.store)
        self._feeds[feed] = request
        rules = self._inspection.rules
        shown = rules.version
        unsubscribe = rules.subscribe(feed.awake.set)
        try:
            await response.write(RETRY + as_event("hello", self._hello()))
            while not self._ending.is_set():
                for name, document in feed.take():
                    await response.write(as_event(name, document))
                if rules.version != shown:
                    shown = rules.version
                    await response.write(as_event("rules", rules.as_json()))
                await is_set_within(self._ending, BATCH_SECONDS)
                if not await is_set_within(feed.awake, QUIET_SECONDS):
                    await response.write(KEEP_ALIVE)
        except ConnectionError:
            pass  # the page was closed
        finally:
            unsubscribe()
            del self._feeds[feed]
            feed.close()
        return response


def laptop(inspection: Inspection) -> dict[str, Any]:
    """What the page shows besides captures."""
    return {"about": asdict(inspection.about), "version": __version__, "paused": inspection.store.paused}
