"""The inspector's HTTP server on loopback. Owns the page, and enforces inspector/access.py; inspector/api/
owns the API, inspector/port.py the port. The agent owns the captures.
"""

from typing import Final

from aiohttp import web

from devroute.errors import DevrouteError, InspectorLocked
from devroute.inspector.access import AccessControl
from devroute.inspector.api import MAX_UPLOAD, add_api
from devroute.inspector.api.refusals import as_json, guard
from devroute.inspector.inspection import Inspection
from devroute.pages.files import HEADERS, PageFiles

METRICS_PATH: Final = "/metrics"
#: Seconds that open pages have to close their connections.
CLOSE_SECONDS: Final = 0.5


class Inspector:
    """The page, and the access control of page and API."""

    def __init__(self, inspection: Inspection, access: AccessControl) -> None:
        self._inspection = inspection
        self._access = access
        self._files = PageFiles("devroute.inspector")

    def application(self) -> web.Application:
        app = web.Application(middlewares=[guard(self._admit, _refusal)], client_max_size=MAX_UPLOAD)
        app.router.add_get("/", self.page)
        app.router.add_get("/page/{file}", self.file)
        if self._inspection.metrics is not None:
            app.router.add_get(METRICS_PATH, self.metrics)
        add_api(app, self._inspection)
        app.on_response_prepare.append(_protect)
        return app

    # --- access

    def _admit(self, request: web.Request) -> None:
        access, peer = self._access, request.transport and request.transport.get_extra_info("peername")
        host = request.headers.get("host")
        access.check_host(peer[0] if peer else None, host)
        if request.path == "/" and request.method == "GET":
            return  # links from other sites are allowed; `page` checks the cookie
        access.check_origin(host, request.headers, changes=request.method not in ("GET", "HEAD"))
        open_to_all = request.path == METRICS_PATH and self._inspection.metrics is not None
        if not open_to_all and not request.path.startswith("/page/"):
            access.check_session(request.cookies)

    async def page(self, request: web.Request) -> web.StreamResponse:
        """GET /: the page; with ?token=, sets the cookie and redirects to the URL without the token."""
        token = request.query.get("token")
        if token is None:
            self._access.check_session(request.cookies)
            return self._files.response("index.html")
        try:
            session = self._access.redeem(token)
        except InspectorLocked:
            self._access.check_session(request.cookies)  # the same link again, in the same browser
            session = self._access.session
        if request.headers.get("sec-fetch-site") == "cross-site":
            # From a terminal in a web page: browsers send no SameSite=Strict cookie along such a redirect,
            # but do so when this page goes on by itself.
            response = web.Response(text=_GO_ON, content_type="text/html", headers={"refresh": "0;url=/"})
        else:
            response = web.Response(status=303, headers={"location": "/"})
        response.set_cookie(self._access.cookie, session, httponly=True, samesite="Strict", path="/")
        return response

    async def metrics(self, request: web.Request) -> web.Response:
        """GET /metrics: for a Prometheus of this machine, which has no cookie. Nothing of a request is in
        it."""
        assert self._inspection.metrics is not None
        body, content_type = await self._inspection.metrics(", ".join(request.headers.getall("accept", [])))
        return web.Response(body=body, headers={"content-type": content_type})

    async def file(self, request: web.Request) -> web.StreamResponse:
        return self._files.response(request.match_info["file"])


_GO_ON: Final = "<!doctype html><title>devroute inspector</title><p><a href='/'>Open the inspector</a>"


def create_runner(inspection: Inspection, access: AccessControl) -> web.AppRunner:
    """The inspector's start and end."""
    return web.AppRunner(
        Inspector(inspection, access).application(),
        access_log=None,
        handle_signals=False,
        shutdown_timeout=CLOSE_SECONDS,
    )


async def _protect(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)


def _refusal(request: web.Request, error: DevrouteError) -> web.Response:
    if request.path == "/":
        return web.Response(text=f"{error.message}.\n\n{error.hint}\n", status=error.status)
    return as_json(request, error)
