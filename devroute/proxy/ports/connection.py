"""A server of HTTP/1.1 for what other programs ask, often and from the first second on: sidecars, gateways,
the kubelet and Prometheus.

Reads heads as the data port does (http/http1), bodies of a known length, and one request after the other. A
request that it does not serve, for another path or with a chunked body, takes its connection along, for good:
to aiohttp, at the port that has it.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from devroute.errors import DevrouteError, HeadTooLarge, RequestMalformed, RequestTimeout
from devroute.http.aio.connection import LINGER_SECONDS, Connection, enable_keepalive
from devroute.http.error_response import http1_error
from devroute.http.http1.fields import END_OF_HEAD
from devroute.http.http1.request import check_partial_head, without_empty_lines
from devroute.http.message import Framing, InboundRequest, split_fields
from devroute.proxy.ports.heads import parse_head, path_of, write_head
from devroute.proxy.ports.limits import (
    HEAD_SECONDS,
    KEEP_ALIVE_SECONDS,
    MAX_HTTP_HEAD,
    REQUEST_SECONDS,
)
from devroute.proxy.ports.message import Request, Response, failure, late_request
from devroute.proxy.ports.routes import Routes
from devroute.tasks import TaskOwner

#: Requests of one connection in one turn of the loop: one read may hold thousands, while all others wait.
MAX_AT_ONCE: Final = 32
#: Bytes that are buffered while a request is served, or while the client does not read its responses.
MAX_PIPELINED_BYTES: Final = MAX_HTTP_HEAD

_CHUNKED: Final = Framing.CHUNKED


class Port:
    """What the connections of one port share. `other()` makes the protocol for what is not served here; None
    at a port that serves nothing else. `now`: of the last tick."""

    def __init__(self, routes: Routes, other: Callable[[], asyncio.BaseProtocol] | None = None) -> None:
        self.routes = routes
        self.other = other
        self.connections: set[PortConnection] = set()
        self.tasks = TaskOwner()
        self.now = asyncio.get_running_loop().time()

    def accept(self) -> "PortConnection":
        """The protocol of a new connection."""
        return PortConnection(self, asyncio.get_running_loop())

    def tick(self, now: float) -> None:
        """Move the clock and enforce timeouts; to be called about once a second."""
        self.now = now
        for connection in list(self.connections):
            connection.check(now)

    async def close(self) -> None:
        """Close all connections; a request that is being served gets no response."""
        for connection in list(self.connections):
            connection.close()
        await self.tasks.close()


class PortConnection(Connection):
    """One connection; its requests are served one after the other."""

    __slots__ = (
        "_buffer",
        "_lingering",
        "_peer",
        "_port",
        "_request",
        "_since",
        "_task",
    )

    def __init__(self, port: Port, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._port = port
        self._buffer = b""
        self._request: InboundRequest | None = None  # whose body is not complete
        self._task: asyncio.Task[None] | None = None  # that waits for a response
        self._since = port.now  # the connection began to wait for what it waits for
        self._lingering = False
        self._peer: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._port.connections.add(self)
        self._since = self._port.now
        enable_keepalive(transport)
        peer = transport.get_extra_info("peername")
        self._peer = str(peer[0]) if isinstance(peer, tuple) else None

    def adopt(self, transport: asyncio.Transport, data: bytes) -> None:
        """Take over a connection whose first bytes are `data`."""
        transport.set_protocol(self)
        self.connection_made(transport)
        self.received(data)
        self.flush()

    # --- reading

    def received(self, data: bytes) -> None:
        if self._lingering or self.closed:
            return
        if not self._buffer and self._task is None and self._request is None:
            # A head has one deadline, however slowly it arrives.
            self._since = self._port.now
        self._buffer = self._buffer + data if self._buffer else data
        self._go_on()

    def _go_on(self) -> None:
        """Serve what is buffered, and read more unless enough waits already."""
        served = 0
        try:
            while self._buffer and self._is_free() and self._serve_next():
                served += 1
                if served == MAX_AT_ONCE:
                    self._loop.call_soon(self._go_on)
                    break
        except DevrouteError as error:
            self._refuse(error)
        if self.closed:
            return
        if len(self._buffer) > MAX_PIPELINED_BYTES:
            self.pause_reading()
        else:
            self.resume_reading()

    def _is_free(self) -> bool:
        return self._task is None and not (self._lingering or self.write_paused or self.closed)

    def _serve_next(self) -> bool:
        """Serve the first request of the buffer; False if it is not complete or goes elsewhere. Raises what
        is wrong with it."""
        request = self._request
        begins = request is None
        if request is None:
            request = self._next_head()
            if request is None:
                return False
            self._since = self._port.now
        length = request.length
        if len(self._buffer) < length:
            self._request = request
            if begins and request.expects_continue:
                self.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return False
        self._request = None
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        self._serve(request, body)
        return True

    def _next_head(self) -> InboundRequest | None:
        """Take a head that is served here from the buffer, if it is complete."""
        buffer = self._buffer
        if buffer.startswith(b"\r\n"):
            buffer = self._buffer = without_empty_lines(buffer)
        end = buffer.find(END_OF_HEAD) + 4
        if end < 4 or end > MAX_HTTP_HEAD:
            if len(buffer) > MAX_HTTP_HEAD:
                raise HeadTooLarge(f"the request's head is longer than {MAX_HTTP_HEAD} bytes")
            if buffer:
                check_partial_head(buffer)
            return None
        other = self._port.other
        if other is not None and path_of(buffer) not in self._port.routes:
            self._hand_over(other)
            return None
        request = parse_head(buffer[:end])
        if request.framing is _CHUNKED:
            if other is None:
                raise RequestMalformed(
                    "the body is chunked", hint="this port reads bodies with content-length"
                )
            self._hand_over(other)
            return None
        self._buffer = buffer[end:]
        return request

    def _hand_over(self, other: Callable[[], asyncio.BaseProtocol]) -> None:
        """Give the connection away, with what was read and is not served; once the client has read enough of
        the responses before, since the other protocol does not know of them."""
        self.flush()
        if self.write_paused:
            return
        buffer, self._buffer = self._buffer, b""
        self.resume_reading()
        self.closed = True
        self._port.connections.discard(self)
        transport, protocol = self.transport, other()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        transport.set_write_buffer_limits()  # those that it expects
        assert isinstance(protocol, asyncio.Protocol)
        protocol.data_received(buffer)

    # --- responding

    def _serve(self, request: InboundRequest, body: bytes) -> None:
        path = request.target.partition(b"?")[0].decode("ascii")
        fields = split_fields(request.raw)
        given = Request(
            request.method.decode("ascii"), path, fields, body, self._peer, over_tls=self.over_tls
        )
        outcome = self._port.routes.serve(given)
        if isinstance(outcome, Response):
            self._respond(request, outcome)
        else:
            self._task = self._port.tasks.start(self._respond_later(request, path, outcome))

    async def _respond_later(
        self, request: InboundRequest, path: str, outcome: Coroutine[Any, Any, Response]
    ) -> None:
        try:
            response = await outcome
        except Exception as error:  # noqa: BLE001  # `failure` logs it
            response = failure(error, path)
        if self._task is None or self.closed:  # too late
            return
        self._task = None
        self._respond(request, response)
        self._go_on()

    def _respond(self, request: InboundRequest, response: Response) -> None:
        keep_alive = request.keep_alive and not response.close
        head = write_head(response, keep_alive=keep_alive)
        self.write(head if request.method == b"HEAD" else head + response.body)
        self._since = self._port.now
        if not keep_alive:
            self._linger()

    def _refuse(self, error: DevrouteError) -> None:
        """Respond to what is no valid request, or was not complete in time. What follows on this connection
        cannot be trusted."""
        self.write(http1_error(error, close=True))
        self._linger()

    def _linger(self) -> None:
        """Close our half now, and the connection when the client has closed its half."""
        self._lingering = True
        self._buffer = b""
        self._request = None
        self._since = self._port.now
        self.resume_reading()
        self.half_close()

    # --- flow control

    def pause_writing(self) -> None:
        super().pause_writing()  # no further request is served meanwhile: responses would fill memory

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.closed:
            self._go_on()

    # --- the end of the connection

    def lost(self, error: Exception | None) -> None:
        self._port.connections.discard(self)

    def check(self, now: float) -> None:
        """Enforce the deadline of what the connection waits for."""
        waited = now - self._since
        if self._task is not None or self._request is not None:
            if waited > REQUEST_SECONDS:
                self._give_up()
        elif self._lingering or self.write_paused:
            if waited > (LINGER_SECONDS if self._lingering else REQUEST_SECONDS):
                self._end()
        elif self._buffer:
            if waited > HEAD_SECONDS:
                message = f"the request's head was not complete after {HEAD_SECONDS:g} s"
                self._refuse(RequestTimeout(message))
        elif waited > KEEP_ALIVE_SECONDS:
            self.close()

    def _give_up(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        self._refuse(late_request())

    def _end(self) -> None:
        """Without waiting for a client that does not read."""
        if self.transport.get_write_buffer_size():
            self.abort()
        else:
            self.close()
