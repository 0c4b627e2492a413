"""The captures: lists, details, bodies, comparisons, and what can be done with them."""

import asyncio
import base64
import json
from typing import Final

from aiohttp import web

from devroute.contract.trace_id import split_trace
from devroute.errors import NotReplayable, RequestMalformed
from devroute.headers import CONTRACT
from devroute.inspector.api.body import json_object, truth
from devroute.inspector.api.search import matching
from devroute.inspector.capture import readable, value_of
from devroute.inspector.compare import compare_captures
from devroute.inspector.curl import as_curl
from devroute.inspector.inspection import Inspection, number_of
from devroute.inspector.query.query import Query
from devroute.inspector.views import as_detail, as_summary

#: Bytes of a decoded body.
MAX_DECODED: Final = 8 * 1024 * 1024


class Captures:
    """The handlers of requests for captures."""

    def __init__(self, inspection: Inspection) -> None:
        self._inspection = inspection
        self._store = inspection.store

    def routes(self) -> list[web.RouteDef]:
        one = r"/api/exchanges/{id:\d+}"
        return [
            web.get("/api/exchanges", self.captures),
            web.delete("/api/exchanges", self.clear),
            web.get(one, self.capture),
            web.get(one + "/{side:request|response}-body", self.body),
            web.post(one + "/replay", self.replay),
            web.get(one + "/curl", self.curl),
            web.get("/api/compare", self.compare),
            web.post("/api/pause", self.pause),
        ]

    # --- reading

    async def captures(self, request: web.Request) -> web.Response:
        """GET /api/exchanges?q=QUERY&before=ID&limit=N: those that match, newest first; only N of them, and
        those older than ID. `matching`: how many match."""
        query = Query.parse(request.query.get("q", ""))
        before, limit = (_number(request, name) for name in ("before", "limit"))
        found = await matching(query, self._store.newest_first())
        listed = [each for each in found if before is None or each.id < before][:limit]
        return web.json_response({"exchanges": [as_summary(each) for each in listed], "matching": len(found)})

    async def capture(self, request: web.Request) -> web.Response:
        """GET /api/exchanges/ID"""
        return web.json_response(as_detail(await self._inspection.shown(request.match_info["id"])))

    async def body(self, request: web.Request) -> web.Response:
        """GET /api/exchanges/ID/SIDE-body?from=N&decoded=1: bytes, never a document of this origin."""
        capture = await self._inspection.shown(request.match_info["id"])
        side = request.match_info["side"]
        body, headers = getattr(capture, f"{side}_body"), getattr(capture, f"{side}_headers")
        start = number_of(request.query.get("from", "")) or 0
        data = readable(body, headers, MAX_DECODED) if "decoded" in request.query else body.redacted
        return web.Response(
            body=data[start:],
            content_type="application/octet-stream",
            headers={"content-disposition": f'attachment; filename="{capture.id}-{side}-body"'},
        )

    async def compare(self, request: web.Request) -> web.Response:
        """GET /api/compare?a=ID&b=ID: the differences. Found in a thread, because bodies may be large. gRPC
        messages are compared as JSON where all of both captures can be decoded."""
        a, b = [await self._inspection.shown(request.query.get(side, "")) for side in ("a", "b")]
        left, right = [await self._inspection.decoder.documents(each) for each in (a, b)]
        decoded = None if left is None or right is None else (left, right)
        found = await asyncio.to_thread(compare_captures, a, b, decoded=decoded)
        return web.json_response({"differences": [each._asdict() for each in found]})

    async def curl(self, request: web.Request) -> web.Response:
        """GET /api/exchanges/ID/curl?to=mesh: a curl command that sends the request to the local app (an
        outgoing one to the local port of its service), or through the mesh; the shell variables that it
        needs, and the URL that it goes to."""
        capture = await self._inspection.shown(request.match_info["id"])
        about = self._inspection.about
        if request.query.get("to") == "mesh":
            if capture.direction == "out":
                raise NotReplayable(
                    "an outgoing request goes through the local port of its service", hint="copy it as curl"
                )
            base = about.entry_of(capture.service)
            received = value_of(capture.request_headers, CONTRACT)
            # A request of its own: not one more of the trace that was recorded.
            contract = split_trace(received)[0] if received else json.dumps({capture.service: about.name})
            made = as_curl(capture, base, contract)
        else:
            base, proxy = about.local_url(capture)
            made = as_curl(capture, base, proxy=proxy)
        return web.json_response(made._asdict() | {"to": base})

    # --- actions

    async def replay(self, request: web.Request) -> web.Response:
        """POST /api/exchanges/ID/replay with the changes of method, target, headers and body, or {}: the id
        of the new capture. Its response arrives as an event. "messages" is the body of a gRPC call as JSON
        text."""
        edits = await json_object(request)
        capture = await self._inspection.shown(request.match_info["id"])
        if (messages := edits.pop("messages", None)) is not None:
            target = str(edits.get("target", capture.target))
            body = await self._inspection.decoder.encoded(capture, target, messages)
            edits["body_base64"] = base64.b64encode(body).decode()
        made = await self._inspection.replay(capture, edits)
        return web.json_response({"id": made.id}, status=202)

    async def pause(self, request: web.Request) -> web.Response:
        """POST /api/pause {"paused": true}"""
        self._store.paused = truth(await json_object(request), "paused")
        return web.json_response({"paused": self._store.paused})

    async def clear(self, request: web.Request) -> web.Response:
        """DELETE /api/exchanges"""
        self._store.clear()
        return web.json_response({"exchanges": 0})


def _number(request: web.Request, name: str) -> int | None:
    """The number in a query, None if it is not there. Raises RequestMalformed."""
    if (text := request.query.get(name)) is None:
        return None
    if (number := number_of(text)) is None:
        raise RequestMalformed(f'"{name}" has to be a number')
    return number
