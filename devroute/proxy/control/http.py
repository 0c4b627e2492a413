"""aiohttp at the control port: with this port's limits, every error as JSON with a code, and the handlers of
other programs' requests.

Owns no route. What a connection asks for first decides whether aiohttp gets it (proxy/control/listener.py).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.http import RawRequestMessage
from aiohttp.http_exceptions import LineTooLong

from devroute.auth.identity import PeerCertificate
from devroute.errors import DevrouteError, HeadTooLarge, RequestMalformed, RequestTimeout
from devroute.http.aio.connection import LINGER_SECONDS
from devroute.http.error_response import http1_error
from devroute.http.http1.request import check_partial_head
from devroute.proxy.ports import message
from devroute.proxy.ports.limits import (
    HEAD_SECONDS,
    KEEP_ALIVE_SECONDS,
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    MAX_HTTP_HEAD,
)
from devroute.proxy.ports.routes import Handler, Routes

OPTIONS: Final[dict[str, Any]] = {
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
    return web.AppRunner(app, handle_signals=False, **OPTIONS)


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
        super().__init__(server, loop=loop, **OPTIONS)
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
    return sent(message.error_response(error, close=close))


def failure(error: Exception, path: str) -> web.Response:
    """As that of ports/message.py."""
    return sent(message.failure(error, path))


def shared_routes(routes: Routes) -> list[web.RouteDef]:
    """What ports/connection.py serves, for a connection that is aiohttp's already."""
    return [
        web.route(method, path, _adapted(handler))
        for method, path, handler in routes
        if method != "HEAD"  # comes with GET
    ]


def _adapted(handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def respond(request: web.Request) -> web.Response:
        transport = request.transport
        over_tls = transport is None or transport.get_extra_info("sslcontext") is not None
        body = await request.read()
        outcome = handler(
            message.Request(
                request.method, request.path, request.raw_headers, body, request.remote, over_tls=over_tls
            )
        )
        return sent(outcome if isinstance(outcome, message.Response) else await outcome)

    return respond


def sent(response: message.Response) -> web.Response:
    """The response as aiohttp sends it."""
    found = web.Response(body=response.body or None, status=response.status, headers=response.fields)
    if response.close:
        found.force_close()
    return found
