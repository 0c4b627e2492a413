"""The control port's HTTP: aiohttp with this port's limits, and every error as JSON with a code.

Owns no route. proxy/control/listener.py reads the first head of a connection before aiohttp gets it.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from devroute.auth.identity import PeerCertificate
from devroute.errors import DevrouteError, HeadTooLarge, RequestMalformed, RequestTimeout
from devroute.http.error_response import error_body, error_headers, http1_error
from devroute.http.http1.request import check_partial_head

#: Bytes of one header field: a contract has 8 KiB, and baggage may carry it once more among other members;
#: Envoy itself takes 60 KiB of headers.
MAX_FIELD_BYTES: Final = 64 * 1024
#: Bytes of a head: a contract, and baggage that repeats it among other members.
MAX_HTTP_HEAD: Final = 128 * 1024
#: Seconds for a head to arrive, and for the token of a tunnel's to be verified.
HEAD_SECONDS: Final = 10.0
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
    return lambda: _Connection(server, loop)


class _Connection(web.RequestHandler):
    """aiohttp's protocol, which sends the errors of its parser as this port's other errors.

    Gives it whole heads: it has no time-out for a head that it has begun to read. A body that is chunked,
    which no client of this port sends, ends the connection with its response: only aiohttp knows its end.
    """

    __slots__ = ("_body_left", "_deadline", "_head", "_unframed")

    def __init__(self, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(server, loop=loop, **_OPTIONS)
        self._head = b""
        self._body_left = 0
        self._unframed = False
        self._deadline: asyncio.TimerHandle | None = None

    def connection_lost(self, exc: BaseException | None) -> None:
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._body_left:
            body, data = data[: self._body_left], data[self._body_left :]
            self._body_left -= len(body)
            super().data_received(body)
        while data and not self._unframed:
            data = self._head_received(data)
        if data:
            super().data_received(data)

    def _head_received(self, data: bytes) -> bytes:
        """Returns what follows the head and its body."""
        head = self._head + data
        end = head.find(b"\r\n\r\n") + 4
        if end < 4 or end > MAX_HTTP_HEAD:
            self._head = head
            if self._deadline is None:
                self._deadline = self._loop.call_later(HEAD_SECONDS, self._late)
            try:
                check_partial_head(head)
                if len(head) > MAX_HTTP_HEAD:
                    raise HeadTooLarge(f"the request's head is longer than {MAX_HTTP_HEAD} bytes")
            except DevrouteError as error:
                self._refuse(error)
            return b""
        self._disarm()
        self._head = b""
        super().data_received(head[:end])
        message = self._messages[-1][0] if self._messages else None
        if not isinstance(message, RawRequestMessage) or message.upgrade:
            self._unframed = True  # an error, which ends the connection, or what aiohttp alone understands
            return head[end:]
        if message.chunked:
            self._unframed = True
            self._messages[-1] = message._replace(should_close=True), self._messages[-1][1]
            return head[end:]
        length = int(message.headers.get("content-length", 0))
        body = head[end : end + length]
        self._body_left = length - len(body)
        if body:
            super().data_received(body)
        return head[end + length :]

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _late(self) -> None:
        self._deadline = None
        self._refuse(RequestTimeout(f"the request's head was not complete after {HEAD_SECONDS:g} s"))

    def _refuse(self, error: DevrouteError) -> None:
        """The response, unless another one is under way, and the end of the connection."""
        if self.transport is not None and self._current_request is None and not self._messages:
            self.transport.write(http1_error(error, close=True))
        self._disarm()
        self.force_close()

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


def peer_certificate(request: web.Request) -> PeerCertificate | None:
    """The client certificate of a request's connection, where TLS has verified one."""
    transport = request.transport
    return None if transport is None else transport.get_extra_info("peercert")


def error_response(error: DevrouteError, *, close: bool = False) -> web.Response:
    response = web.Response(body=error_body(error), status=error.status, headers=error_headers(error))
    if close:
        response.force_close()
    return response
