"""The HTTP/1.1 side of the data port: connections from sidecars, and one Exchange for each request on them.

It reads a request, asks the router where it goes, and moves bytes both ways as they come. It never buffers a
body, and it never lets an incomplete answer look complete.
"""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from devroute.body import BodyReader, CloseBody, body_reader, encode_last_chunk
from devroute.connection import Connection
from devroute.errors import (
    ClientClosed,
    DevrouteError,
    HeadTooLarge,
    RequestMalformed,
    RequestTimeout,
    UpstreamTimeout,
)
from devroute.http1 import (
    END_OF_HEAD,
    MAX_HEAD_BYTES,
    Framing,
    Headers,
    InboundRequest,
    ResponseHead,
    parse_request_head,
)
from devroute.upstream import Upstream, UpstreamStream

#: What is read and thrown away of a request that was answered early, so that its connection can go on; beyond
#: it the connection is closed.
MAX_DISCARDED_BYTES: Final = 1024 * 1024

#: How long a connection that is to be closed still reads: a reset could overtake the answer (RFC 9112 §9.6).
LINGER_SECONDS: Final = 2.0

#: Bytes of pipelined requests that wait while an answer is under way.
MAX_PIPELINED_BYTES: Final = 128 * 1024


@dataclass(slots=True, frozen=True)
class Route:
    """Where a request goes, and what is said about it. `marks` are whole header lines for the answer."""

    upstream: Upstream
    service: str
    target: str
    marks: bytes


@dataclass(slots=True)
class Timeouts:
    """In seconds. A breakpoint in the engineer's debugger is no reason to give up, so the waits for the
    answer are long; the waits for the client's own bytes are short."""

    head: float
    body: float
    first_byte: float
    idle: float
    keep_alive: float


class Router(Protocol):
    def __call__(self, request: InboundRequest) -> Route:
        """Raises DevrouteError."""


class Server:
    """What all connections of one data port share. `now` is a coarse clock: `tick` moves it and looks for
    whatever waited too long, so that no request needs a timer of its own."""

    def __init__(
        self, router: Router, timeouts: Timeouts, observe: Callable[["Exchange"], None], now: float
    ) -> None:
        self.router = router
        self.timeouts = timeouts
        self.observe = observe
        self.now = now
        self.draining = False
        self.connections: set[ServerConnection] = set()

    def __call__(self) -> "ServerConnection":
        return ServerConnection(self, asyncio.get_running_loop())

    def tick(self, now: float) -> None:
        self.now = now
        for connection in list(self.connections):
            connection.check(now)

    @property
    def in_flight(self) -> int:
        return sum(1 for connection in self.connections if connection.exchange is not None)

    def drain(self) -> None:
        """Close what is idle; what is busy closes with its answer."""
        self.draining = True
        for connection in list(self.connections):
            if connection.exchange is None:
                connection.close()


class ServerConnection(Connection):
    """One connection of a sidecar; requests on it are served one after the other (RFC 9112 §9.3)."""

    __slots__ = (
        "_discarded",
        "_held",
        "_lingering",
        "_parsing",
        "_paused",
        "_reader",
        "_server",
        "_since",
        "exchange",
    )

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._server = server
        self._held = b""
        self._reader: BodyReader | None = None  # of a request body that is not complete
        self._discarded = 0
        self._paused = False
        self._parsing = False
        self._lingering = False
        self._since = server.now  # when the client last made progress
        self.exchange: Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._server.connections.add(self)

    def time(self) -> float:
        return self._loop.time()

    # --- reading

    def received(self, data: bytes) -> None:
        if self._lingering:
            self._discard(len(data))
            return
        self._since = self._server.now
        if self._reader is not None:
            data = self._receive_body(self._reader, data)
            if not data:
                return
        self._held = self._held + data if self._held else data
        if self.exchange is None:
            self._next_request()
        elif len(self._held) > MAX_PIPELINED_BYTES:
            self.pause_reading()

    def _next_request(self) -> None:
        """Serve what is held, up to the request that has to wait."""
        self._parsing = True  # an exchange may end before it has begun: a loop, not a recursion
        while self.exchange is None and self._reader is None and self._held and not self._lingering:
            held = self._held
            if held.startswith(b"\r\n"):  # RFC 9112 §2.2: an empty line before a request is ignored
                self._held = held[2:]
                continue
            end = held.find(END_OF_HEAD) + 4
            if end < 4 or end > MAX_HEAD_BYTES:
                if len(held) > MAX_HEAD_BYTES:
                    message = f"the request's head is longer than {MAX_HEAD_BYTES} bytes"
                    self._refuse(HeadTooLarge(message))
                break
            self._held = held[end:]
            try:
                request = parse_request_head(held[:end])
            except DevrouteError as error:
                self._refuse(error)
                break
            self._serve(request)
        self._parsing = False

    def _serve(self, request: InboundRequest) -> None:
        exchange = self.exchange = Exchange(self, self._server, request)
        if request.framing is Framing.LENGTH or request.framing is Framing.CHUNKED:
            self._reader = body_reader(request.framing, request.length, RequestMalformed)
        exchange.start()
        if self._reader is not None and self._held:
            held, self._held = self._held, b""
            self._held = self._receive_body(self._reader, held)

    def _receive_body(self, reader: BodyReader, data: bytes) -> bytes:
        """Pass the body on, or throw it away where it was answered already; returns what follows it."""
        try:
            body, rest = reader.feed(data)
        except RequestMalformed as error:
            self._reader = None
            if self.exchange is not None:
                self.exchange.break_off(error)
            else:
                self.abort()
            return b""
        exchange = self.exchange
        if reader.done:
            self._reader = None
        if exchange is not None:
            exchange.forward(body, reader)
        elif reader.done:
            self._discarded = 0
        else:
            self._discard(len(body))
        return rest

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > MAX_DISCARDED_BYTES:
            self.close()

    def _refuse(self, error: DevrouteError) -> None:
        """Answer a request that could not be read. What follows on this connection cannot be trusted."""
        self._held = b""
        body = error.as_json()
        self.write(_error_head(error, len(body), close=True) + body)
        self._linger()

    def switch(self) -> None:
        """101: from here on everything is bytes for the upstream."""
        self._reader = CloseBody()
        if self._held:
            held, self._held = self._held, b""
            self._receive_body(self._reader, held)

    # --- the end of an exchange

    @property
    def body_pending(self) -> bool:
        """Whether the request's body has not been read to its end."""
        return self._reader is not None

    def finished(self, *, keep_alive: bool) -> None:
        """The answer is written."""
        self.exchange = None
        self.resume_reading()
        if not keep_alive or self._server.draining:
            self._linger()
        elif self._held and not self._parsing:
            self._next_request()

    def _linger(self) -> None:
        """Close our half, and the connection as soon as the client has closed its own."""
        self._lingering = True
        self._held = b""
        self._since = self._server.now
        self.flush()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    # --- flow control

    def pause_reading(self) -> None:
        if not self._paused and not self.closed:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and not self.closed:
            self._paused = False
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.stream.pause_response()

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.stream.resume_response()

    # --- the end of the connection

    def eof_received(self) -> bool:
        """A client that ends its half has gone away, unless the connection is a pipe (101)."""
        return self.exchange is not None and self.exchange.client_ended()

    def lost(self, error: Exception | None) -> None:
        self._server.connections.discard(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone()

    def check(self, now: float) -> None:
        """Called once in a while: end what waited too long."""
        timeouts = self._server.timeouts
        waited = now - self._since
        if self.exchange is not None:
            body_due = self._reader is not None and not self._paused and not self.exchange.switched
            self.exchange.check(now, body_late=body_due and waited > timeouts.body)
        elif self._lingering:
            if waited > LINGER_SECONDS:
                self.close()
        elif self._held:
            if waited > timeouts.head:
                message = f"the request's head was not complete after {timeouts.head:g} s"
                self._refuse(RequestTimeout(message))
        elif waited > timeouts.keep_alive or (self._reader is not None and waited > timeouts.body):
            self.close()


class Exchange:
    """One request and its answer; implements devroute.upstream.ResponseSink."""

    __slots__ = (
        "_active",
        "_chunked",
        "_client_ended",
        "_connection",
        "_continued",
        "_head_sent",
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

    def __init__(self, connection: ServerConnection, server: Server, request: InboundRequest) -> None:
        self._connection = connection
        self._server = server
        self.request = request
        self.request_id = request.request_id
        self.started = connection.time()
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
        return self._connection.time() - self.started

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
        self._continued = self._continued or head.status == 100
        if self.request.minor:  # RFC 9110 §15.2: HTTP/1.0 knows no 1xx
            self._connection.write(head.forward(b"", chunked=False, close=False))

    def on_head(self, head: ResponseHead) -> None:
        self._active = self._server.now
        self.status = head.status
        self._head_sent = True
        marks = self.route.marks if self.route is not None else b""
        request = self.request
        framing = head.framing
        if framing is Framing.UPGRADE:
            self.switched = True
            self._connection.write(
                head.forward(marks + b"connection: upgrade\r\n", chunked=False, close=False)
            )
            self._connection.switch()
            return
        if framing is Framing.CHUNKED or framing is Framing.CLOSE:
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
        self._server.observe(self)
        self._connection.finished(keep_alive=self.request.keep_alive)

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
        body = error.as_json(self.request_id.decode("latin-1"))
        self._settle_expectation()
        keep_alive = self.request.keep_alive and not isinstance(error, RequestMalformed | RequestTimeout)
        head = _error_head(error, len(body), close=not keep_alive)
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


class _Nowhere:
    """The stream of an exchange that has none: what is sent to it is thrown away."""

    __slots__ = ()

    def send_data(self, data: bytes) -> None: ...
    def send_end(self, trailers: Headers) -> None: ...
    def cancel(self) -> None: ...
    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...


_NOWHERE: Final = _Nowhere()


def _error_head(error: DevrouteError, length: int, *, close: bool) -> bytes:
    reason = error.message.encode("ascii", "replace").replace(b"\r", b" ").replace(b"\n", b" ")
    return (
        b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
        b"x-devroute-result: error\r\nx-devroute-reason: %b\r\n%b\r\n"
        % (error.status, _REASONS.get(error.status, b"Error"), length, reason[:200], _CLOSE if close else b"")
    )


_CLOSE: Final = b"connection: close\r\n"
_REASONS: Final = {
    400: b"Bad Request",
    403: b"Forbidden",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
}
