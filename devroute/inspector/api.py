"""The inspector's HTTP API: captures, their changes as a stream of events, and the page's actions.

Called by inspector/server.py only, which controls access and turns each DevrouteError into a response.
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
from devroute.inspector.store import CaptureStore
from devroute.inspector.views import as_detail, as_summary

#: Seconds between two batches of events for one page.
BATCH_SECONDS: Final = 0.1
#: After so many seconds without events, a comment is sent, so that both sides notice a broken connection.
QUIET_SECONDS: Final = 15.0
#: Milliseconds after which a page reconnects.
RETRY_MS: Final = 1000
#: Seconds for which a search may block the event loop at a time.
SEARCH_SECONDS: Final = 0.004
#: Bytes of a HAR file: all captures, written as JSON. Reasons that are listed for entries left out.
MAX_HAR: Final = 512 * 1024 * 1024
MAX_REASONS: Final = 5
#: Bytes of a decoded body.
MAX_DECODED: Final = 8 * 1024 * 1024


@dataclass(slots=True)
class About:
    """This laptop: the URLs of its apps by service, and its name, "" until the proxy has assigned it."""

    services: dict[str, str]
    name: str = ""


#: Sends a captured request again, with the edits in a JSON object; returns its capture. Raises DevrouteError.
Replay = Callable[[Capture, dict[str, Any]], Awaitable[Capture]]


class Api:
    """The handlers of the API's requests."""

    def __init__(self, store: CaptureStore, replay: Replay, about: About) -> None:
        self.store = store
        self._replay = replay
        self._about = about
        self._feeds: set[Feed] = set()
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
        """End the streams of events."""
        self._ending.set()
        for feed in self._feeds:
            feed.awake.set()

    # --- reading

    def _about_laptop(self) -> dict[str, Any]:
        return {"about": asdict(self._about), "version": __version__, "paused": self.store.paused}

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/status"""
        kept = {
            "exchanges": len(self.store),
            "bytes": self.store.total,
            "limit": self.store.max_total,
            "skipped": self.store.skipped,
        }
        return web.json_response(self._about_laptop() | {"kept": kept})

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
        """GET /api/search?q=TEXT: the ids of the captures that hold the text, and where."""
        found = []
        text = request.query.get("q", "").lower()
        loop = asyncio.get_running_loop()
        until = loop.time() + SEARCH_SECONDS
        for capture in self.store.newest_first():
            if (place := _place_of(text, capture)) is not None:
                found.append((capture.id, place))
            if loop.time() > until:
                await asyncio.sleep(0)
                until = loop.time() + SEARCH_SECONDS
        return web.json_response({"found": found})

    async def events(self, request: web.Request) -> web.StreamResponse:
        """GET /api/events: all captures, then their changes, as server-sent events.

        A page that reconnects gets everything again, so that nothing has to be kept for it meanwhile.
        """
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        feed = Feed(self.store)
        self._feeds.add(feed)
        try:
            await response.write(b"retry: %d\n\n" % RETRY_MS + _event("hello", self._about_laptop()))
            while not self._ending.is_set():
                for name, document in feed.take():
                    await response.write(_event(name, document))
                await _wait(self._ending, BATCH_SECONDS)
                if not await _wait(feed.awake, QUIET_SECONDS):
                    await response.write(b": keep-alive\n\n")
        except ConnectionError:
            pass  # the page was closed
        finally:
            self._feeds.discard(feed)
            feed.close()
        return response

    def _named(self, number: str) -> Capture:
        known = number.isdecimal() and number.isascii() and len(number) < 12
        capture = self.store.get(int(number)) if known else None
        if capture is None:
            raise NotFound(
                f"there is no capture {number[:12]}", hint="it may have been dropped for newer ones"
            )
        return capture

    async def compare(self, request: web.Request) -> web.Response:
        """GET /api/compare?a=ID&b=ID: the differences. Found in a thread, because bodies may be large."""
        a, b = (self._named(request.query.get(side, "")) for side in ("a", "b"))
        found = await asyncio.to_thread(compare_captures, a, b)
        return web.json_response({"differences": [each._asdict() for each in found]})

    async def curl(self, request: web.Request) -> web.Response:
        """GET /api/exchanges/ID/curl: a curl command that sends the request to the local app."""
        capture = self._named(request.match_info["id"])
        base = self._about.services.get(capture.service, f"http://{capture.service}")
        return web.Response(text=as_curl(capture, base))

    async def export(self, request: web.Request) -> web.StreamResponse:
        """GET /api/har: all captures as HAR 1.2, one entry at a time."""
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
            await asyncio.sleep(0)  # lets the tunnel run: a write does not wait while its buffer has room
        await response.write_eof()
        return response

    # --- actions

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
                self.store.add(capture)
                await asyncio.sleep(0)  # lets the tunnel run
        counts = {"imported": len(found) - len(skipped), "skipped": len(skipped)}
        return web.json_response(counts | {"reasons": skipped[:MAX_REASONS]})

    async def replay(self, request: web.Request) -> web.Response:
        """POST /api/exchanges/ID/replay with the changes of method, target, headers and body, or {}: the id
        of the new capture. Its response arrives as an event."""
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


def _event(name: str, document: dict[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(document)}\n\n".encode()


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event is set, now or within this time."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def _document(request: web.Request) -> dict[str, Any]:
    """The JSON object in a request's body. Raises RequestMalformed."""
    try:
        document = await request.json()
    except (ValueError, RecursionError):
        raise RequestMalformed("the body is not JSON") from None
    if not isinstance(document, dict):
        raise RequestMalformed("the body is not a JSON object")
    return document
