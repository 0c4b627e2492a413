"""Who may use the control API: the user who runs `devroute up`, and no browser. port.py owns the socket."""

import hmac
from typing import Final

from aiohttp import web

from devroute.agent.control.api import Api, Controlled
from devroute.errors import ControlDenied
from devroute.inspector.access import is_loopback, is_own_host
from devroute.inspector.api import MAX_UPLOAD
from devroute.inspector.api.refusals import guard
from devroute.platforms import is_to_own_process

#: Seconds that clients have to read their last events.
CLOSE_SECONDS: Final = 1.0


def create_runner(agent: Controlled, port: int | None, token: str) -> web.AppRunner:
    """The API's start and end. `port`: of loopback, where `token` has to be sent; None for a Unix socket."""
    admission = _Admission(port, token)
    app = web.Application(middlewares=[guard(admission.check)], client_max_size=MAX_UPLOAD)  # a HAR file
    Api(agent).add_to(app)
    return web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,
        shutdown_timeout=CLOSE_SECONDS,
    )


class _Admission:
    def __init__(self, port: int | None, token: str) -> None:
        self._port = port
        self._token = token

    def check(self, request: web.Request) -> None:
        """Raises ControlDenied."""
        headers = request.headers
        if "origin" in headers or "sec-fetch-site" in headers:
            raise ControlDenied("web pages may not use the control API")
        transport = request.transport
        if self._port is None:
            if transport is not None and not is_to_own_process(transport.get_extra_info("socket")):
                raise ControlDenied("this devroute up is another user's")
            return
        address = None if transport is None else transport.get_extra_info("peername")
        if not is_loopback(address[0] if address else None) or not is_own_host(
            headers.get("host"), self._port
        ):
            raise ControlDenied("the control API accepts requests from this machine only")
        sent = headers.get("authorization", "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(sent, f"Bearer {self._token}".encode()):
            raise ControlDenied("the token of the control API is missing or wrong")
