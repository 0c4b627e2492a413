"""Finds the captures that hold a text."""

import asyncio
from typing import Final

from aiohttp import web

from devroute.inspector.capture import Capture
from devroute.inspector.inspection import Inspection

#: Seconds for which a search may block the event loop at a time.
SEARCH_SECONDS: Final = 0.004


class Search:
    """The handler of searches."""

    def __init__(self, inspection: Inspection) -> None:
        self._store = inspection.store

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/search", self.search)]

    async def search(self, request: web.Request) -> web.Response:
        """GET /api/search?q=TEXT: the ids of the captures that hold the text, and where."""
        found = []
        text = request.query.get("q", "").lower()
        loop = asyncio.get_running_loop()
        until = loop.time() + SEARCH_SECONDS
        for capture in self._store.newest_first():
            if (place := _place_of(text, capture)) is not None:
                found.append((capture.id, place))
            if loop.time() > until:
                await asyncio.sleep(0)
                until = loop.time() + SEARCH_SECONDS
        return web.json_response({"found": found})


def _place_of(text: str, capture: Capture) -> str | None:
    """Where a capture holds a text in lower case, ignoring the capture's case."""
    if text in capture.target.lower() or text in capture.service.lower():
        return "path"
    places: tuple[tuple[str, bytes | bytearray], ...] = (
        ("request headers", capture.request_head.raw),
        ("response headers", capture.response_head.raw),
        ("request body", capture.request_body.data),
        ("response body", capture.response_body.data),
        *(("messages", message.data) for message in capture.messages),
    )
    as_bytes = text.encode("utf-8", "surrogateescape")
    return next((place for place, data in places if as_bytes in data.lower()), None)
