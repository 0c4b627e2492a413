"""The page's requests: the link that opens it, its files, its events, its end."""

import html
import json
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from aiohttp import web

from devroute import __version__
from devroute.auth.identity import Identity
from devroute.auth.sessions import CODE_SECONDS, Session
from devroute.errors import DevrouteError, LoginLinkInvalid, OriginDenied, RequestMalformed, SessionEnded
from devroute.pages.events import KEEP_ALIVE, QUIET_SECONDS, RETRY, as_event
from devroute.pages.files import HEADERS, PageFiles
from devroute.proxy.dashboard.access import SECRET, Access, cookie_name
from devroute.proxy.dashboard.admin import Admin
from devroute.proxy.dashboard.live import Live
from devroute.proxy.telemetry.audit_events import RecordEvent
from devroute.tasks import is_set_within

#: Seconds between two checks whether the identity of an open page is still valid.
CHECK_SECONDS: Final = 1.0
#: Where the page is; everything else of it is below.
PATH: Final = "/dashboard/"

#: What a browser gets for a link of another site, which opens nothing before its reader agrees. A link that
#: another program opens, such as a chat's own app, looks to a browser like one of `devroute dashboard`.
_ASK: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>devroute: the team's page</title>
<link rel="stylesheet" href="page/style.css"><form method="post" action="./" class="alone">
<h1>Open devroute's page for your team?</h1>
<p>Go on only if you have just run <kbd>devroute dashboard</kbd>.</p>
<input type="hidden" name="code" value="{code}"><button class="primary">Open the page</button></form></html>
"""
_ASK_POLICY: Final = (
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


R = TypeVar("R", bound=web.StreamResponse)


class Handlers:
    """`about()`: what the page shows besides its rows."""

    def __init__(
        self,
        access: Access,
        admin: Admin,
        live: Live,
        about: Callable[[], Mapping[str, object]],
        record: RecordEvent,
    ) -> None:
        self._access = access
        self._admin = admin
        self._live = live
        self._about = about
        self._record = record
        self._files = PageFiles("devroute.proxy.dashboard")

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/api/login", self.login),
            web.get(PATH, self.page),
            web.post(PATH, self.agreed),
            web.get(PATH + "page/{file}", self.file),
            web.get(PATH + "status", self.status),
            web.get(PATH + "events", self.events),
            web.post(PATH + "logout", self.logout),
        ]

    async def login(self, request: web.Request) -> web.Response:
        """POST /api/login with a token and `origin`, the server's URL as the browser has it: a code for
        /dashboard/?code=CODE, valid once and for a minute."""
        try:
            wanted = json.loads(await request.read())
        except (ValueError, RecursionError):
            wanted = None
        if not isinstance(wanted, dict):
            raise RequestMalformed("the body is no JSON object")
        code = await self._access.new_code(request, wanted.get("origin"))
        return web.json_response({"code": code, "path": PATH, "expires_s": round(CODE_SECONDS)})

    async def page(self, request: web.Request) -> web.StreamResponse:
        """GET /dashboard/: the page; with ?code=, a session and a redirect to the URL without the code."""
        code = request.query.get("code")
        try:
            if code is None:
                await self._access.identify(request)
                return _protected(self._files.response("index.html"))
            if request.headers.get("sec-fetch-site") not in ("none", "same-origin"):
                return _ask(code)
            return await self._opened(request, code, None)
        except DevrouteError as error:
            return _refused(error)

    async def agreed(self, request: web.Request) -> web.StreamResponse:
        """POST /dashboard/: the form of a link that another site has opened."""
        try:
            origin = request.headers.get("origin")
            if request.headers.get("sec-fetch-site", "same-origin") != "same-origin" or origin is None:
                raise OriginDenied("other sites may not open the page")
            return await self._opened(request, _code_in(await request.read()), origin)
        except DevrouteError as error:
            return _refused(error)

    async def _opened(self, request: web.Request, code: str, origin: str | None) -> web.Response:
        cookie, session = await self._access.redeem(request, code, origin)
        self._record("login", subject=session.identity.subject, peer=request.remote)
        response = _protected(web.Response(status=303, headers={"location": "./"}))
        _set_cookie(response, request, session, cookie)
        return response

    async def file(self, request: web.Request) -> web.StreamResponse:
        """GET /dashboard/page/FILE: the page's own code, which is no secret."""
        return _protected(self._files.response(request.match_info["file"]))

    async def status(self, request: web.Request) -> web.Response:
        """GET /dashboard/status: who uses the page."""
        return _protected(web.json_response(self._hello(await self._access.identify(request))))

    async def logout(self, request: web.Request) -> web.Response:
        """POST /dashboard/logout: end the session."""
        await self._access.end(request)
        response = web.json_response({})
        host = request.headers.get("host", "")
        for secure in (True, False):
            response.del_cookie(cookie_name(host, secure=secure), secure=secure, path="/")
        return _protected(response)

    def _hello(self, identity: Identity) -> dict[str, Any]:
        you = {"you": identity.subject, "admin": self._admin.may(identity), "version": __version__}
        expires = identity.expires_in(time.time())
        return {**you, "token_expires_s": None if expires is None else round(expires), **self._about()}

    async def events(self, request: web.Request) -> web.StreamResponse:
        """GET /dashboard/events: all rows, then their changes, as server-sent events. A page that reconnects
        gets everything again. Ends with the session or token, and when the server stops."""
        identity = await self._access.identify(request)
        hello = self._hello(identity)
        with self._live.feed(identity.subject, admin=hello["admin"]) as feed:
            response = _protected(web.StreamResponse(headers={"content-type": "text/event-stream"}))
            await response.prepare(request)
            try:
                await response.write(RETRY + as_event("hello", hello))
                quiet = 0.0
                # aiohttp takes the transport away with the connection; a write might notice it much later.
                while request.transport is not None and self._is_current(identity, hello["admin"]):
                    for batch in feed.batches():
                        await response.write(as_event("rows", batch))
                        quiet = 0.0
                    if not await is_set_within(feed.awake, CHECK_SECONDS):
                        quiet += CHECK_SECONDS
                    if quiet >= QUIET_SECONDS:
                        await response.write(KEEP_ALIVE)
                        quiet = 0.0
            except ConnectionError:
                pass  # the page was closed
        return response

    def _is_current(self, identity: Identity, admin: bool) -> bool:
        """Whether a page may stay open as it is. If not, it connects again, or learns that it may not."""
        try:
            self._access.check_current(identity)
        except SessionEnded:
            return False
        return not self._live.ending and self._admin.may(identity) is admin


def _set_cookie(response: web.Response, request: web.Request, session: Session, cookie: str) -> None:
    response.set_cookie(
        cookie_name(request.headers.get("host", ""), secure=session.secure),
        cookie,
        max_age=max(1, round(session.expires - time.time())),
        path="/",
        secure=session.secure,
        httponly=True,
        samesite="Strict",
    )


def _code_in(form: bytes) -> str:
    """The code in what the form of `_ASK` sends, "" if there is none. Read here: aiohttp's reader takes other
    forms too, and raises what is no HTTP error for malformed ones, which anyone may send."""
    name, _, code = form.rstrip(b"\r\n").partition(b"=")
    return code.decode("latin-1") if name == b"code" else ""


def _ask(code: str) -> web.Response:
    """Raises LoginLinkInvalid."""
    if SECRET.fullmatch(code) is None:
        raise LoginLinkInvalid("this link has no valid code")
    response = _protected(web.Response(text=_ASK.format(code=html.escape(code)), content_type="text/html"))
    response.headers["content-security-policy"] = _ASK_POLICY
    # With no-referrer, browsers send `Origin: null` with the form (Fetch, "append a request Origin header").
    response.headers["referrer-policy"] = "same-origin"
    return response


def _protected(response: R) -> R:
    response.headers.update(HEADERS)
    return response


def _refused(error: DevrouteError) -> web.Response:
    """For people, who have opened the URL."""
    return _protected(web.Response(text=f"{error.message}.\n\n{error.hint}\n", status=error.status))
