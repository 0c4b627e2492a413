"""The inspector's server on loopback: the page, its API, and what happens as it happens.

Owns the port and the routes. gate.py decides who is let in; the captures belong to the agent, and this module
only shows them and does what a person at the page asks for.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, Final

import structlog
from aiohttp import web

from devroute import __version__
from devroute.errors import (
    ConfigInvalid,
    DevrouteError,
    InspectorLocked,
    MethodNotAllowed,
    NotFound,
    RequestMalformed,
)
from devroute.inspector.exchange import Exchange, as_detail, as_summary, readable
from devroute.inspector.feed import Feed
from devroute.inspector.gate import Gate
from devroute.inspector.search import look
from devroute.inspector.store import Captures

HOST: Final = "127.0.0.1"
PORT: Final = 4040
#: Ports that are tried from the first on: one for each `devroute up` of a laptop.
PORTS: Final = 10

#: Between two batches for one page, in seconds: what an eye tells apart.
BATCH_SECONDS: Final = 0.1
#: After so long without news the page gets a comment, so that either side notices the other's end.
QUIET_SECONDS: Final = 15.0
#: How long a search may hold the loop at a time, in seconds.
SEARCH_SECONDS: Final = 0.004
#: Bytes of an import: the captures' own bound, as base64, with JSON around it.
MAX_UPLOAD: Final = 100 * 1024 * 1024
#: Bytes of a body without its content-encoding.
MAX_DECODED: Final = 8 * 1024 * 1024
#: How long open pages may take to hear of the end, in seconds.
CLOSE_SECONDS: Final = 0.5

#: No inline script or style, nothing from elsewhere, no frame; Trusted Types forbid innerHTML as such.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
TYPES: Final = {
    "html": "text/html",
    "js": "text/javascript",
    "css": "text/css",
    "svg": "image/svg+xml",
}

log = structlog.stdlib.get_logger("devroute.inspector")


@dataclass(slots=True)
class About:
    """Who this laptop is, for the page; the name is known once the server has said it."""

    services: tuple[str, ...]
    name: str = ""
    contract: str = ""
    curl: str = ""


#: Sends the exchange again, edited by a JSON object, and returns the new one. Raises DevrouteError.
Replay = Callable[[Exchange, dict[str, Any]], Awaitable[Exchange]]


class Inspector:
    """The handlers."""

    def __init__(self, captures: Captures, replay: Replay, about: About, gate: Gate) -> None:
        self.captures = captures
        self.gate = gate
        self._replay = replay
        self._about = about
        self._files = _page_files()
        self._ending = asyncio.Event()

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=MAX_UPLOAD)
        add = app.router
        add.add_get("/", self.page)
        add.add_get("/page/{file}", self.file)
        add.add_get("/api/status", self.status)
        add.add_get("/api/events", self.events)
        add.add_get("/api/exchanges", self.exchanges)
        add.add_delete("/api/exchanges", self.clear)
        add.add_get(r"/api/exchanges/{id:\d+}", self.exchange)
        add.add_get(r"/api/exchanges/{id:\d+}/{side:request|response}-body", self.body)
        add.add_get("/api/search", self.search)
        add.add_post("/api/pause", self.pause)
        app.on_shutdown.append(self._end)
        return app

    async def _end(self, app: web.Application) -> None:
        self._ending.set()

    # --- the door

    @web.middleware
    async def _guarded(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Every request passes here; errors become responses here."""
        try:
            self._admit(request)
            response = await handler(request)
        except DevrouteError as error:
            response = _refusal(request, error)
        except web.HTTPMethodNotAllowed as error:
            response = _refusal(request, MethodNotAllowed(f"{request.method} is not for {request.path}"))
            response.headers["allow"] = ", ".join(sorted(error.allowed_methods))
        except web.HTTPNotFound:
            response = _refusal(request, NotFound(f"there is no {request.path}"))
        except web.HTTPRequestEntityTooLarge:
            response = _refusal(request, RequestMalformed(f"more than {MAX_UPLOAD >> 20} MiB were sent"))
        if not response.prepared:
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
        return response

    def _admit(self, request: web.Request) -> None:
        gate, peer = self.gate, request.transport and request.transport.get_extra_info("peername")
        host = request.headers.get("host")
        gate.check_place(peer[0] if peer else None, host)
        if request.path == "/" and request.method == "GET":
            return  # a person may come from anywhere; `page` asks for the cookie
        gate.check_origin(host, request.headers, changes=request.method not in ("GET", "HEAD"))
        if not request.path.startswith("/page/"):
            gate.check_session(request.cookies)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """GET /: the page; with ?token=, the cookie, and the same without the token."""
        token = request.query.get("token")
        if token is None:
            self.gate.check_session(request.cookies)
            return self._file("index.html")
        try:
            session = self.gate.exchange(token)
        except InspectorLocked:
            self.gate.check_session(request.cookies)  # the same link again, in the same browser
            session = self.gate.session
        if request.headers.get("sec-fetch-site") == "cross-site":
            # From a terminal in a web page: browsers send no SameSite=Strict cookie along such a redirect,
            # but do so when this page goes on by itself.
            response = web.Response(text=_GO_ON, content_type="text/html", headers={"refresh": "0;url=/"})
        else:
            response = web.Response(status=303, headers={"location": "/"})
        response.set_cookie(self.gate.cookie, session, httponly=True, samesite="Strict", path="/")
        return response

    async def file(self, request: web.Request) -> web.StreamResponse:
        return self._file(request.match_info["file"])

    def _file(self, name: str) -> web.Response:
        try:
            data = self._files[name]
        except KeyError:
            raise NotFound(f"the page has no {name}") from None
        return web.Response(body=data, content_type=TYPES[name.rpartition(".")[2]], charset="utf-8")

    # --- what there is

    def _said(self) -> dict[str, Any]:
        return {"about": asdict(self._about), "version": __version__, "paused": self.captures.paused}

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/status"""
        kept = {
            "exchanges": len(self.captures),
            "bytes": self.captures.total,
            "limit": self.captures.max_total,
        }
        return web.json_response(self._said() | {"kept": kept})

    async def exchanges(self, request: web.Request) -> web.Response:
        """GET /api/exchanges: newest first."""
        return web.json_response({"exchanges": [as_summary(each) for each in self.captures.listing()]})

    async def exchange(self, request: web.Request) -> web.Response:
        """GET /api/exchanges/ID"""
        return web.json_response(as_detail(self._named(request.match_info["id"])))

    async def body(self, request: web.Request) -> web.Response:
        """GET /api/exchanges/ID/SIDE-body?from=N&decoded=1: bytes, never a document of this origin."""
        exchange = self._named(request.match_info["id"])
        side = request.match_info["side"]
        body, headers = getattr(exchange, f"{side}_body"), getattr(exchange, f"{side}_headers")
        since = request.query.get("from", "0")
        start = int(since) if since.isdecimal() and len(since) < 12 else 0
        data = readable(body, headers, MAX_DECODED) if "decoded" in request.query else bytes(body.data)
        return web.Response(
            body=data[start:],
            content_type="application/octet-stream",
            headers={"content-disposition": f'attachment; filename="{exchange.id}-{side}-body"'},
        )

    async def search(self, request: web.Request) -> web.Response:
        """GET /api/search?q=TEXT: the ids of exchanges with the text, and where it is in them."""
        found = []
        loop = asyncio.get_running_loop()
        until = loop.time() + SEARCH_SECONDS
        for hit in look(self.captures.listing(), request.query.get("q", "")):
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
        response = web.StreamResponse(headers={"content-type": "text/event-stream", **HEADERS})
        await response.prepare(request)
        feed = Feed(self.captures)
        ending = asyncio.get_running_loop().create_task(self._ending.wait())
        try:
            await response.write(_event("hello", self._said()))
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

    def _named(self, number: str) -> Exchange:
        exchange = self.captures.get(int(number)) if len(number) < 12 else None
        if exchange is None:
            raise NotFound(f"exchange {number[:12]} is not kept", hint="it may have made room for newer ones")
        return exchange

    # --- what a person does

    async def pause(self, request: web.Request) -> web.Response:
        """POST /api/pause {"paused": true}"""
        paused = (await _document(request)).get("paused")
        if not isinstance(paused, bool):
            raise RequestMalformed('"paused" has to be true or false')
        self.captures.paused = paused
        return web.json_response({"paused": paused})

    async def clear(self, request: web.Request) -> web.Response:
        """DELETE /api/exchanges"""
        self.captures.clear()
        return web.json_response({"exchanges": 0})


_GO_ON: Final = "<!doctype html><title>devroute inspector</title><p><a href='/'>Open the inspector</a>"


@asynccontextmanager
async def serve(
    captures: Captures,
    replay: Replay,
    about: About,
    renewed: Callable[[str], None],
    port: int | None = None,
) -> AsyncIterator[Gate]:
    """The inspector on `port`, else on the first free one from PORT on; its gate's `url` opens it. `renewed`
    gets the next URL when one has been used. Raises ConfigInvalid where no port is free."""
    gate = Gate(0, renewed)
    runner = web.AppRunner(
        Inspector(captures, replay, about, gate).application(),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=CLOSE_SECONDS,
    )
    await runner.setup()
    try:
        gate.port = await _listen(runner, range(PORT, PORT + PORTS) if port is None else (port,))
        yield gate
    finally:
        await runner.cleanup()


async def _listen(runner: web.AppRunner, ports: "range | tuple[int, ...]") -> int:
    for port in ports:
        site = web.TCPSite(runner, HOST, port)
        with contextlib.suppress(OSError):
            await site.start()
            return int(runner.addresses[0][1])
    raise ConfigInvalid(
        f"inspector: port {ports[0]} is taken"
        if len(ports) == 1
        else f"inspector: ports {ports[0]} to {ports[-1]} are taken",
        hint="choose another one with inspector: PORT, or none with inspector: false",
    )


def _page_files() -> dict[str, bytes]:
    folder = resources.files("devroute.inspector") / "page"
    return {
        file.name: file.read_bytes()
        for file in folder.iterdir()
        if file.is_file() and file.name.rpartition(".")[2] in TYPES
    }


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


def _refusal(request: web.Request, error: DevrouteError) -> web.Response:
    if request.path == "/":
        return web.Response(text=f"{error.message}.\n\n{error.hint}\n", status=error.status)
    return web.Response(body=error.as_json(), status=error.status, content_type="application/json")
