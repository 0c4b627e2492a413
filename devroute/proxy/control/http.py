"""The control port's HTTP: aiohttp with this port's limits, and every error as JSON with a code.

Owns no route. proxy/control/listener.py reads the first head of a connection before aiohttp gets it.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from devroute.errors import DevrouteError, HeadTooLarge, RequestMalformed
from devroute.http.error_response import error_body, error_headers

#: Bytes of one header field: a contract has 8 KiB, and baggage may carry it once more among other members;
#: Envoy itself takes 60 KiB of headers.
MAX_FIELD_BYTES: Final = 64 * 1024
#: Fields of one head: Envoy's own default is 100.
MAX_FIELDS: Final = 128
#: No request of a sidecar, an agent or the CLI has a larger body; a larger one is not read.
MAX_BODY_BYTES: Final = 64 * 1024
#: For a whole request, its body included. Only /resolve waits for something else: a connection to a target.
REQUEST_SECONDS: Final = 20.0
#: For reading the rest of a body after the response (RFC 9112 §9.6).
LINGER_SECONDS: Final = 2.0
#: Longer than the hour for which Envoy keeps an idle connection: closing it first could lose a request.
KEEP_ALIVE_SECONDS: Final = 3630.0

_OPTIONS: Final[dict[str, Any]] = {
    "access_log": None,
    "max_field_size": MAX_FIELD_BYTES,
    "max_line_size": MAX_FIELD_BYTES,
    "max_headers": MAX_FIELDS,
    "keepalive_timeout": KEEP_ALIVE_SECONDS,
    "lingering_time": LINGER_SECONDS,
    "auto_decompress": False,
}

log = structlog.stdlib.get_logger("devroute.control")


def create_runner(app: web.Application) -> web.AppRunner:
    """The application's start and end; `connections` makes its protocols."""
    return web.AppRunner(app, handle_signals=False, **_OPTIONS)


def connections(runner: web.AppRunner) -> Callable[[], asyncio.BaseProtocol]:
    """The factory of this port's protocols. The runner has to be set up."""
    server = runner.server
    assert isinstance(server, web.Server)
    loop = asyncio.get_running_loop()
    return lambda: _Connection(server, loop=loop, **_OPTIONS)


class _Connection(web.RequestHandler):
    """aiohttp's protocol, which sends the errors of its parser as this port's other errors."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("a response has been started")
        error: DevrouteError
        if isinstance(exc, LineTooLong):
            error = HeadTooLarge(f"a header field or the request line is longer than {MAX_FIELD_BYTES} bytes")
        elif status == 400:  # without the parser's message, which quotes the request over several lines
            error = RequestMalformed("this is not a valid request", hint="this port speaks HTTP/1.1")
        else:
            log.error("control.failed", exc_info=exc)
            error = DevrouteError("devroute made a mistake; its log says more")
        return error_response(error, close=True)


def error_response(error: DevrouteError, *, close: bool = False) -> web.Response:
    response = web.Response(body=error_body(error), status=error.status, headers=error_headers(error))
    if close:
        response.force_close()
    return response
