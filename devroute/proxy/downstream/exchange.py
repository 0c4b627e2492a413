"""One exchange: a request from a sidecar, its way to an upstream, and its answer.

It asks the router where the request goes and moves bytes both ways as they come. It never buffers a body, and
it never lets an incomplete answer look complete.
"""

import asyncio
import uuid
from time import monotonic
from typing import Final, Protocol

from devroute.errors import (
    ClientClosed,
    DevrouteError,
    RequestMalformed,
    RequestTimeout,
    UpstreamInvalid,
    UpstreamTimeout,
)
from devroute.http.aio.connection import READ_TURN
from devroute.http.error_response import error_body, http1_error_head
from devroute.http.http1.body import BodyReader, encode_last_chunk
from devroute.http.message import Framing, Headers, InboundRequest, ResponseHead
from devroute.proxy.downstream.context import Context
from devroute.routing.route import Route
from devroute.upstream.interface import DiscardedRequest, UpstreamStream

#: Interim answers (1xx) to one request; uploads that report their progress send some (104). They have no flow
#: control of their own, so without a bound they could fill memory.
MAX_INTERIM: Final = 100

_CHUNKED: Final = Framing.CHUNKED
_CLOSE: Final = Framing.CLOSE
_UPGRADE: Final = Framing.UPGRADE


class Downstream(Protocol):
    """The connection that a request came on (proxy/downstream/listener.py)."""

    transport: asyncio.Transport
    exchange: "Exchange | None"

    @property
    def body_pending(self) -> bool: ...
    def write(self, data: bytes) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def switch(self) -> None: ...
    def finished(self, *, keep_alive: bool) -> None: ...


class Exchange:
    """One request and its answer; implements devroute.upstream.ResponseSink."""

    __slots__ = (
        "_active",
        "_chunked",
        "_client_ended",
        "_connection",
        "_continued",
        "_head_sent",
        "_interim",
        "_server",
        "_upstream_ended",
        "bytes_in",
        "bytes_out",
        "error",
        "request",
        "request_id",
        "route",
        "started",
        "status",
        "stream",
        "switched",
    )

    def __init__(self, connection: Downstream, server: Context, request: InboundRequest) -> None:
        self._connection = connection
        self._server = server
        self.request = request
        self.request_id = request.request_id
        self.started = monotonic()
        self.stream: UpstreamStream = _NOWHERE
        self.route: Route | None = None
        self.error: DevrouteError | None = None
        self.status = 0
        self.bytes_in = 0
        self.bytes_out = 0
        self.switched = False
        self._active = server.now
        self._chunked = False
        self._head_sent = False
        self._continued = False
        self._interim = 0
        self._client_ended = False  # the halves of an upgrade
        self._upstream_ended = False

    def start(self) -> None:
        try:
            route = self._server.router(self.request)
        except DevrouteError as error:
            self.on_error(error)
            return
        self.route = route
        self.stream = route.upstream.open(self.request.forward(), self)

    def elapsed(self) -> float:
        """Seconds since the request's head was complete."""
        return monotonic() - self.started

    # --- from the client

    def forward(self, body: bytes, reader: BodyReader) -> None:
        self._active = self._server.now
        if body:
            self.bytes_in += len(body)
            self.stream.send_data(body)
        if reader.done:
            self.stream.send_end(reader.trailers)

    def client_ended(self) -> bool:
        """True keeps the connection: its other half is in use."""
        if not self.switched:
            return False
        self._client_ended = True
        self.stream.send_end([])
        if self._upstream_ended:
            self._close_pipe()
        return not self._upstream_ended

    def client_gone(self) -> None:
        self.stream.cancel()
        self.error = ClientClosed("the client closed the connection before the answer was complete")
        self._server.observe(self)

    def break_off(self, error: DevrouteError) -> None:
        """The request cannot go on: stop the upstream, tell the client if that is still possible."""
        self.stream.cancel()
        self.on_error(error)

    # --- from the upstream

    def on_informational(self, head: ResponseHead) -> None:
        self._interim += 1
        if self._interim > MAX_INTERIM:
            self.break_off(UpstreamInvalid(f"more than {MAX_INTERIM} interim answers (1xx)"))
            return
        self._continued = self._continued or head.status == 100
        if self.request.minor:  # RFC 9110 §15.2: HTTP/1.0 knows no 1xx
            self._connection.write(head.forward(b"", chunked=False, close=False))

    def on_head(self, head: ResponseHead) -> None:
        self._active = self._server.now
        self.status = head.status
        self._head_sent = True
        if head.outcome is not None and self.route is not None:
            self.route = self.route.with_outcome(*head.outcome)
        marks = self.route.response_headers if self.route is not None else b""
        request = self.request
        framing = head.framing
        if framing is _UPGRADE:
            self.switched = True
            self._connection.write(
                head.forward(marks + b"connection: upgrade\r\n", chunked=False, close=False)
            )
            self._connection.switch()
            return
        if framing is _CHUNKED or framing is _CLOSE:
            self._chunked = request.minor == 1
            if not self._chunked:
                request.keep_alive = False
        self._settle_expectation()
        close = not request.keep_alive or self._server.draining
        self._connection.write(head.forward(marks, chunked=self._chunked, close=close))

    def _settle_expectation(self) -> None:
        """Without a 100 nobody knows whether the body will come, so nothing can follow on this connection
        (RFC 9110 §10.1.1)."""
        if self.request.expects_continue and not self._continued and self._connection.body_pending:
            self.request.keep_alive = False

    def on_data(self, data: bytes) -> None:
        self._active = self._server.now
        self.bytes_out += len(data)
        write = self._connection.write
        if self._chunked:
            write(b"%x\r\n" % len(data))
            write(data)
            write(b"\r\n")
        else:
            write(data)

    def on_end(self, trailers: Headers) -> None:
        if self.switched:
            self._end_pipe()
            return
        self.stream = _NOWHERE  # no cycle: an exchange is freed when it is over, not by the collector
        if self._chunked:
            self._connection.write(encode_last_chunk(trailers))
        READ_TURN.after_flush(self._over)
        self._connection.finished(keep_alive=self.request.keep_alive)

    def _over(self) -> None:
        self._server.observe(self)

    def _end_pipe(self) -> None:
        """The upstream's half is closed: so is ours towards the client, who may still send."""
        self._upstream_ended = True
        connection = self._connection
        connection.flush()
        if self._client_ended or not connection.transport.can_write_eof():
            self._close_pipe()
            connection.close()
        else:
            connection.transport.write_eof()

    def _close_pipe(self) -> None:
        self._server.observe(self)
        self._connection.exchange = None

    def on_error(self, error: DevrouteError) -> None:
        self.error = error
        if self.route is not None:
            error.at(self.route.service, self.route.target)
        self.stream = _NOWHERE
        connection = self._connection
        if self._head_sent:
            self._server.observe(self)
            connection.exchange = None
            connection.abort()  # never a short answer that looks complete
            return
        self.status = error.status
        if not self.request_id:
            self.request_id = str(uuid.uuid4()).encode()
        body = error_body(error, self.request_id.decode("latin-1"))
        self._settle_expectation()
        keep_alive = self.request.keep_alive and not isinstance(error, RequestMalformed | RequestTimeout)
        head = http1_error_head(error, len(body), close=not keep_alive)
        connection.write(head if self.request.method == b"HEAD" else head + body)
        self.bytes_out = len(body)
        self._server.observe(self)
        connection.finished(keep_alive=keep_alive)

    # --- flow control

    def pause_request(self) -> None:
        self._connection.pause_reading()

    def resume_request(self) -> None:
        self._connection.resume_reading()

    # --- time

    def check(self, now: float, *, body_late: bool) -> None:
        timeouts = self._server.timeouts
        waited = now - self._active
        if body_late:
            self.break_off(RequestTimeout(f"the request's body made no progress for {timeouts.body:g} s"))
        elif not self._head_sent and waited > timeouts.first_byte:
            target = self.route.target if self.route is not None else "the target"
            self.break_off(UpstreamTimeout(f"{target} did not answer within {timeouts.first_byte:g} s"))
        elif self._head_sent and waited > timeouts.idle:
            self.break_off(UpstreamTimeout(f"no byte either way for {timeouts.idle:g} s"))
        elif self.elapsed() > timeouts.total:
            self.break_off(UpstreamTimeout(f"the request was not complete after {timeouts.total:g} s"))


#: The stream of an exchange that has none.
_NOWHERE: Final = DiscardedRequest()
