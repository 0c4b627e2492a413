"""Finds captures by a query (inspector/query), and helps to write one."""

import asyncio
from collections.abc import Iterable
from typing import Final

from aiohttp import web

from devroute.errors import RequestMalformed
from devroute.inspector.capture import Capture
from devroute.inspector.inspection import Inspection, number_of
from devroute.inspector.query.edit import suggestions, switched
from devroute.inspector.query.query import Query

#: Seconds for which a search may block the event loop at a time.
SEARCH_SECONDS: Final = 0.004
#: Captures that one request may name.
MAX_IDS: Final = 1000


class Search:
    """The handlers of searches."""

    def __init__(self, inspection: Inspection) -> None:
        self._store = inspection.store

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/api/search", self.search),
            web.get("/api/query/suggestions", self.suggest),
            web.get("/api/query/switched", self.switch),
        ]

    async def search(self, request: web.Request) -> web.Response:
        """GET /api/search?q=QUERY: the ids of the captures that match, newest first, and the query's terms.
        With ids=1,2, only these are looked at."""
        query = Query.parse(request.query.get("q", ""))
        named = request.query.get("ids")
        among = self._store.newest_first() if named is None else self._named(named)
        found = [each.id for each in await matching(query, among)]
        terms = [
            {"field": each.field, "values": each.values, "negated": each.negated} for each in query.terms
        ]
        return web.json_response({"ids": found, "terms": terms})

    async def suggest(self, request: web.Request) -> web.Response:
        """GET /api/query/suggestions?before=TEXT&after=TEXT: what the term at the cursor can become."""
        before, after = (request.query.get(name, "") for name in ("before", "after"))
        found = suggestions(before, after, self._store.newest_first)
        return web.json_response({"suggestions": [each._asdict() for each in found]})

    async def switch(self, request: web.Request) -> web.Response:
        """GET /api/query/switched?q=QUERY&field=NAME&value=VALUE&negated=1: the query with the term,
        or without it if it is there."""
        query, field, value = (request.query.get(name, "") for name in ("q", "field", "value"))
        return web.json_response({"query": switched(query, field, value, negated="negated" in request.query)})

    def _named(self, ids: str) -> Iterable[Capture]:
        numbers = [number_of(each) for each in ids.split(",", MAX_IDS)]
        if len(numbers) > MAX_IDS or None in numbers:
            raise RequestMalformed(f'"ids" must be at most {MAX_IDS} numbers, separated by commas')
        found = (self._store.get(each) for each in numbers if each is not None)
        return [each for each in found if each is not None]


async def matching(query: Query, captures: Iterable[Capture]) -> list[Capture]:
    """The captures that match, found in turns that leave the event loop to the requests."""
    found = []
    loop = asyncio.get_running_loop()
    until = loop.time() + SEARCH_SECONDS
    for capture in captures:
        if query.matches(capture):
            found.append(capture)
        if loop.time() > until:
            await asyncio.sleep(0)
            until = loop.time() + SEARCH_SECONDS
    return found
