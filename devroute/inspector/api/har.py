"""Exports the captures as a HAR file, and imports the entries of one."""

import asyncio
from typing import Final

from aiohttp import web

from devroute import __version__
from devroute.errors import RequestMalformed
from devroute.inspector import har_reader, har_writer
from devroute.inspector.api.search import matching
from devroute.inspector.inspection import Inspection
from devroute.inspector.query.query import Query

#: Bytes of a HAR file: all captures, written as JSON. Reasons that are listed for entries left out.
MAX_HAR: Final = 512 * 1024 * 1024
MAX_REASONS: Final = 5


class HarFiles:
    """The handlers of HAR files."""

    def __init__(self, inspection: Inspection) -> None:
        self._inspection = inspection

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/api/har", self.export), web.post("/api/har", self.load)]

    async def export(self, request: web.Request) -> web.StreamResponse:
        """GET /api/har?q=QUERY: the captures that match as HAR 1.2, one entry at a time."""
        query = Query.parse(request.query.get("q", ""))
        found = await matching(query, self._inspection.store.newest_first())
        name = f"devroute-{self._inspection.about.name or 'laptop'}.har"
        response = web.StreamResponse(
            headers={
                "content-type": "application/json",
                "content-disposition": f'attachment; filename="{name}"',
            }
        )
        for capture in found:
            await self._inspection.redact(capture)
        await response.prepare(request)
        for piece in har_writer.write(reversed(found), __version__):
            await response.write(piece.encode())
            await asyncio.sleep(0)  # lets the tunnel run: a write does not wait while its buffer has room
        await response.write_eof()
        return response

    async def load(self, request: web.Request) -> web.Response:
        """POST /api/har: import the entries of a HAR file, redacted like all captures."""
        body = bytearray()
        async for piece in request.content.iter_any():
            body += piece
            if len(body) > MAX_HAR:
                raise RequestMalformed(f"the file is larger than {MAX_HAR >> 20} MiB")
        found = await asyncio.to_thread(har_reader.read, bytes(body))
        skipped = [each.reason for each in found if isinstance(each, har_reader.Unreadable)]
        for capture in found:
            if not isinstance(capture, har_reader.Unreadable):
                self._inspection.store.add(capture)
                await asyncio.sleep(0)  # lets the tunnel run
        counts = {"imported": len(found) - len(skipped), "skipped": len(skipped)}
        return web.json_response(counts | {"reasons": skipped[:MAX_REASONS]})
