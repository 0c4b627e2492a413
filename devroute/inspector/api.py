"""The inspector's API: what was captured, what happens as it happens, and what a person does about it.

Called by inspector/server.py only, which has let the request in; raises DevrouteError, which
inspector/server.py turns into an answer.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

from aiohttp import web

from devroute import __version__
from devroute.errors import NotFound, RequestMalformed
from devroute.inspector import har_reader, har_writer
from devroute.inspector.capture import Capture, readable
from devroute.inspector.compare import compare_captures
from devroute.inspector.curl import as_curl
from devroute.inspector.feed import Feed
from devroute.inspector.search import search
from devroute.inspector.store import CaptureStore
from devroute.inspector.views import as_detail, as_summary

#: Between two batches for one page, in seconds: what an eye tells apart.
BATCH_SECONDS: Final = 0.1
#: After so long without news the page gets a comment, so that either side notices the other's end.
QUIET_SECONDS: Final = 15.0
#: How soon a page that has lost us tries again, in milliseconds.
RETRY_MS: Final = 1000
#: How long a search may hold the loop at a time, in seconds.
SEARCH_SECONDS: Final = 0.004
#: Bytes of a body without its content-encoding.
MAX_DECODED: Final = 8 * 1024 * 1024


@dataclass(slots=True)
class About:
    """Who this laptop is: where the apps of its services are, and its name once the server has said it."""

    services: dict[str, str]
    name: str = ""


#: Sends the exchange again, edited by a JSON object, and returns the new one. Raises DevrouteError.
Replay = Callable[[Capture, dict[str, Any]], Awaitable[Capture]]


class Api:
    """The handlers. `end` ends the streams of events."""

    def __init__(self, store: CaptureStore, replay: Replay, about: About) -> None:
        self.store = store
        self._replay = replay
        self._about = about
        self._ending = asyncio.Event()

    def routes(self) -> list[web.RouteDef]:
        one = r"/api/exchanges/{id:\d+}"
        return [
            web.get("/api/status", self.status),
            web.get("/api/events", self.events),
            web.get("/api/exchanges", self.captures),
            web.delete("/api/exchanges", self.clear),
            web.get(one, self.capture),
            web.get(one + "/{side:request|response}-body", self.body),
            web.post(one + "/replay", self.replay),
            web.get(one + "/curl", self.curl),
            web.get("/api/har", self.export),
            web.post("/api/har", self.load),
            web.get("/api/search", self.search),
            web.get("/api/compare", self.compare),
            web.post("/api/pause", self.pause),
        ]

    async def end(self, app: web.Application) -> None:
        self._ending.set()

    # --- what there is

    def _said(self) -> dict[str, Any]:
        return {"about": asdict(self._about), "version": __version__, "paused": self.store.paused}

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/status"""
        kept = {
            "exchanges": len(self.store),
            "bytes": self.store.total,
            "limit": self.store.max_total,
            "skipped": self.store.skipped,
        }
        return web.json_response(self._said() | {"kept": kept})

    async def captures(self, request: web.Request) -> web.Response:
        """GET /api/exchanges: newest first."""
        return web.json_response({"exchanges": [as_summary(each) for each in self.store.newest_first()]})

    async def capture(self, request: web.Request) -> web.Response:
        """GET /api/exchanges/ID"""
        return web.json_response(as_detail(self._named(request.match_info["id"])))

    async def body(self, request: web.Request) -> web.Response:
        """GET /api/exchanges/ID/SIDE-body?from=N&decoded=1: bytes, never a document of this origin."""
        capture = self._named(request.match_info["id"])
        side = request.match_info["side"]
        body, headers = getattr(capture, f"{side}_body"), getattr(capture, f"{side}_headers")
        since = request.query.get("from", "0")
        start = int(since) if since.isdecimal() and len(since) < 12 else 0
        data = readable(body, headers, MAX_DECODED) if "decoded" in request.query else bytes(body.data)
        return web.Response(
            body=data[start:],
            content_type="application/octet-stream",
            headers={"content-disposition": f'attachment; filename="{capture.id}-{side}-body"'},
        )

    async def search(self, request: web.Request) -> web.Response:
        """GET /api/search?q=TEXT: the ids of exchanges with the text, and where it is in them."""
        found = []
        loop = asyncio.get_running_loop()
        until = loop.time() + SEARCH_SECONDS
        for hit in search(self.store.newest_first(), request.query.get("q", "")):
            if hit is not None:
                found.append(hit)
            if loop.time() > until:
                await asyncio.sleep(0)
                until = loop.time() + SEARCH_SECONDS
        return web.json_response({"found": found})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """GET /api/events: all there is, then what changes, as server-sent events.

        A page that comes back is told everything again: that needs no memory of what it has missed.
        """
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        feed = Feed(self.store)
        ending = asyncio.get_running_loop().create_task(self._ending.wait())
        try:
            await response.write(b"retry: %d\n\n" % RETRY_MS + _event("hello", self._said()))
            while not ending.done():
                for name, said in feed.take():
                    await response.write(_event(name, said))
                await asyncio.wait({ending}, timeout=BATCH_SECONDS)
                if not feed.awake.is_set() and not await _within(feed.awake, ending):
                    await response.write(b": still here\n\n")
        except ConnectionError:
            pass  # the page was closed
        finally:
            feed.close()
            ending.cancel()
        return response

    def _named(self, number: str) -> Capture:
        known = number.isdecimal() and number.isascii() and len(number) < 12
        capture = self.store.get(int(number)) if known else None
        if capture is None:
            raise NotFound(f"exchange {number[:12]} is not kept", hint="it may have made room for newer ones")
        return capture

    async def compare(self, request: web.Request) -> web.Response:
        """GET /api/compare?a=ID&b=ID: what differs, in words; not on the loop, since bodies may be large."""
        a, b = (self._named(request.query.get(side, "")) for side in ("a", "b"))
        found = await asyncio.to_thread(compare_captures, a, b)
        return web.json_response({"differences": [each.as_dict() for each in found]})

    async def curl(self, request: web.Request) -> web.Response:
        """GET /api/exchanges/ID/curl: a command that sends the request to the local app."""
        capture = self._named(request.match_info["id"])
        base = self._about.services.get(capture.service, f"http://{capture.service}")
        return web.Response(text=as_curl(capture, base))

    async def export(self, request: web.Request) -> web.StreamResponse:
        """GET /api/har: all of it as HAR 1.2, an entry at a time."""
        name = f"devroute-{self._about.name or 'laptop'}.har"
        response = web.StreamResponse(
            headers={
                "content-type": "application/json",
                "content-disposition": f'attachment; filename="{name}"',
            }
        )
        await response.prepare(request)
        for piece in har_writer.write(reversed(list(self.store.newest_first())), __version__):
            await response.write(piece.encode())
            await asyncio.sleep(0)  # the tunnel's turn: a write waits for nothing while there is room
        await response.write_eof()
        return response

    # --- what a person does

    async def load(self, request: web.Request) -> web.Response:
        """POST /api/har: show the exchanges of a HAR file, redacted like every other."""
        found = await asyncio.to_thread(har_reader.read, await request.read())
        for capture in found:
            self.store.add(capture)
            await asyncio.sleep(0)  # the tunnel's turn
        return web.json_response({"imported": len(found)})

    async def replay(self, request: web.Request) -> web.Response:
        """POST /api/exchanges/ID/replay {}, or what of method, target, headers and body is to be different:
        the id of the new exchange, whose answer comes as every other does."""
        edits = await _document(request)
        made = await self._replay(self._named(request.match_info["id"]), edits)
        return web.json_response({"id": made.id}, status=202)

    async def pause(self, request: web.Request) -> web.Response:
        """POST /api/pause {"paused": true}"""
        paused = (await _document(request)).get("paused")
        if not isinstance(paused, bool):
            raise RequestMalformed('"paused" has to be true or false')
        self.store.paused = paused
        return web.json_response({"paused": paused})

    async def clear(self, request: web.Request) -> web.Response:
        """DELETE /api/exchanges"""
        self.store.clear()
        return web.json_response({"exchanges": 0})


def _event(name: str, said: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(said)}\n\n".encode()


async def _within(awake: asyncio.Event, ending: "asyncio.Task[Any]") -> bool:
    """Whether `awake` was set before all was quiet for too long; `ending` ends the wait as well."""
    news = asyncio.get_running_loop().create_task(awake.wait())
    try:
        done, _ = await asyncio.wait(
            {news, ending}, timeout=QUIET_SECONDS, return_when=asyncio.FIRST_COMPLETED
        )
        return bool(done)
    finally:
        news.cancel()


async def _document(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request. Raises ConfigInvalid."""
    try:
        document = await request.json()
    except (ValueError, RecursionError):
        raise RequestMalformed("the body is not JSON") from None
    if not isinstance(document, dict):
        raise RequestMalformed("the body is not a JSON object")
    return document
