"""The HTTP/1.1 connections of clients, with requests one after the other.

Reads requests and passes each to an Http1Exchange. Never buffers a body. A connection that begins with
HTTP/2's preface is passed to downstream/http2.py.
"""

import asyncio
from typing import Final

from devroute import descriptors
from devroute.downstream.context import Context
from devroute.downstream.http1_exchange import Downstream, Http1Exchange
from devroute.downstream.http2 import Http2ServerConnection
from devroute.errors import DevrouteError, HeadTooLarge, RequestMalformed, RequestTimeout
from devroute.http.aio.connection import LINGER_SECONDS, MAX_DISCARDED_BYTES, MAX_LINGER_SECONDS
from devroute.http.error_response import http1_error
from devroute.http.http1.body import BodyReader, CloseBody, body_reader
from devroute.http.http1.fields import END_OF_HEAD
from devroute.http.http1.request import (
    check_partial_head,
    known_request,
    lines_of_head,
    parse_request_head,
    without_empty_lines,
)
from devroute.http.http2.headers import may_be_idle
from devroute.http.http2.protocol import PREFACE
from devroute.http.message import Framing, InboundRequest

#: Requests of one connection in one turn of the loop, if all get their (error) responses at once: one read
#: may hold thousands of them, while all other connections wait.
MAX_AT_ONCE: Final = 32

#: Up to so many bytes are taken for one whole head first: if they are not, looking is wasted.
MAX_ONE_HEAD_BYTES: Final = 4096

#: Bytes of pipelined requests that are buffered while a response is in progress.
MAX_PIPELINED_BYTES: Final = 128 * 1024

_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED


class Http1ServerConnection(Downstream):
    """One connection; its requests are served one after the other (RFC 9112 §9.3)."""

    __slots__ = (
        "_buffer",
        "_context",
        "_discard_started",
        "_discarded",
        "_first_request",
        "_last_progress",
        "_lingering",
        "_parsing",
        "_reader",
        "exchange",
    )

    def __init__(self, context: Context, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._context = context
        self._buffer = b""
        self._reader: BodyReader | None = None  # of a request body that is not complete
        self._discarded = 0  # bytes received since the response was complete, at `_discard_started`
        self._discard_started = context.now
        self._parsing = False
        self._lingering = False
        self._first_request = True
        self._last_progress = context.now  # a head began, body data arrived, or a response was complete
        self.exchange: Http1Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._context.connections.add(self)
        if descriptors.are_scarce():
            self.transport.abort()

    # --- reading

    def received(self, data: bytes) -> None:
        if self._lingering:
            self._last_progress = self._context.now
            self._discard(len(data))
            return
        if self._reader is not None:
            self._last_progress = self._context.now
            data = self._receive_body(self._reader, data)
            if not data:
                return
        elif not self._buffer:  # a head has one deadline, however slowly its bytes arrive
            self._last_progress = self._context.now
        self._buffer = self._buffer + data if self._buffer else data
        if self.exchange is None:
            self._serve_buffered()
        if len(self._buffer) > MAX_PIPELINED_BYTES:
            self.pause_reading()

    def _serve_buffered(self) -> None:
        """Serve the buffered requests, up to one that has to wait."""
        self._parsing = True  # exchanges may be complete when they start: a loop instead of recursion
        served = 0
        while self._buffer and not (self.exchange or self._reader or self._lingering or self.write_paused):
            buffer = self._buffer
            if buffer.startswith(b"\r\n"):
                self._buffer = without_empty_lines(buffer)
                continue
            try:
                request = self._take_head(buffer)
            except DevrouteError as error:
                if self._first_request and (buffer.startswith(PREFACE) or PREFACE.startswith(buffer)):
                    self._become_http2(buffer)
                else:
                    self._reject(error)
                break
            if request is None:
                break
            self._serve(request)
            served += 1
            if served == MAX_AT_ONCE:
                self.pause_reading()
                self._loop.call_soon(self._serve_more)
                break
        self._parsing = False

    def _take_head(self, buffer: bytes) -> InboundRequest | None:
        """Take the first request's head from the buffer; None if it is not complete. Raises what is wrong
        with it."""
        limits = self._context.head_limits
        size = len(buffer)
        lines: list[bytes] | None = None
        if size <= MAX_ONE_HEAD_BYTES and size <= limits.size:
            if (request := known_request(buffer, limits.fields)) is not None:
                self._buffer = b""
                return request
            lines = lines_of_head(buffer)
        end = size if lines is not None else buffer.find(END_OF_HEAD) + 4
        if end < 4 or end > limits.size:
            if size > limits.size:
                raise HeadTooLarge(f"the request's head is longer than {limits.size} bytes")
            check_partial_head(buffer)
            return None
        self._buffer = buffer[end:]
        return parse_request_head(buffer if lines is not None else buffer[:end], limits.fields, lines)

    def _serve_more(self) -> None:
        """Continue after other connections had their turn."""
        if not self.closed:
            self.resume_reading()
            if self.exchange is None:
                self._serve_buffered()

    def _become_http2(self, buffer: bytes) -> None:
        """The client's first bytes are HTTP/2's preface (RFC 9113 §3.4)."""
        self._buffer = b""
        self._context.connections.discard(self)
        Http2ServerConnection(self._context, self._loop).adopt(self.transport, buffer)

    def _serve(self, request: InboundRequest) -> None:
        self._first_request = False
        exchange = self.exchange = Http1Exchange(self, self._context, request)
        if request.framing is not _LENGTH and request.framing is not _CHUNKED:
            exchange.start()
            return
        reader = self._reader = body_reader(request.framing, request.length, RequestMalformed)
        buffer, self._buffer = self._buffer, b""
        self.resume_reading()  # before the upstream may pause it: more may be buffered than of requests
        exchange.start()
        if buffer and not self._lingering:
            self._buffer = self._receive_body(reader, buffer)

    def _receive_body(self, reader: BodyReader, data: bytes) -> bytes:
        """Pass body data on, or discard them after the response; returns what follows the body."""
        try:
            body, rest = reader.feed(data)
        except RequestMalformed as error:
            self._reader = None
            if self.exchange is not None:
                self.exchange.fail(error)
            else:
                self._linger()  # the response is complete, and may be in transit
            return b""
        exchange = self.exchange
        if reader.done:
            self._reader = None
        if exchange is not None:
            if body:
                exchange.receive_data(body)
            if reader.done:
                exchange.receive_end(reader.trailers)
        elif reader.done:
            self._discarded = 0
        else:
            self._discard(len(body))
        return rest

    def _discard(self, size: int) -> None:
        self._discarded += size
        if self._discarded > MAX_DISCARDED_BYTES:
            self.close()

    def _reject(self, error: DevrouteError) -> None:
        """Respond to a request that is not valid. What follows on this connection cannot be trusted."""
        self._buffer = b""
        self.write(http1_error(error, close=True))
        self._linger()

    def upgrade(self) -> None:
        self._reader = CloseBody()
        buffer, self._buffer = self._buffer, b""
        self.resume_reading()  # first, so that a pause of what follows stays
        if buffer:
            self._receive_body(self._reader, buffer)

    # --- the end of an exchange

    @property
    def buffered(self) -> int:
        """Bytes of requests that wait for the one before them."""
        return len(self._buffer)

    @property
    def body_pending(self) -> bool:
        return self._reader is not None

    def finish_exchange(self, *, keep_alive: bool) -> None:
        self.exchange = None
        self._last_progress = self._discard_started = self._context.now
        self.resume_reading()
        if not keep_alive or self._context.draining:
            self._linger()
            self._context.exchange_ended()
        elif self._buffer and not self._parsing:
            self._serve_buffered()

    def abort_exchange(self) -> None:
        self.exchange = None
        self.abort()

    def end_upgraded(self, *, both: bool) -> bool:
        self.flush()
        if both or not self.transport.can_write_eof():
            self.exchange = None
            self.close()
            return False
        self.transport.write_eof()
        return True

    def _linger(self) -> None:
        """Close our half now, and the connection when the client has closed its half."""
        self._lingering = True
        self._buffer = b""
        self.resume_reading()  # closing with unread bytes would reset the connection, and lose the response
        self._last_progress = self._discard_started = self._context.now
        self.half_close()

    # --- flow control

    def resume_reading(self) -> None:
        """Unless more requests are buffered than may be: the end of the exchange before them resumes."""
        if len(self._buffer) <= MAX_PIPELINED_BYTES:
            super().resume_reading()

    def pause_writing(self) -> None:
        super().pause_writing()  # no further request is served meanwhile: responses would fill memory
        if self.exchange is not None:
            self.exchange.pause_response()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.exchange is not None:
            self.exchange.resume_response()
        elif not self._parsing and not self.closed:
            self._last_progress = self._context.now
            self.resume_reading()
            self._serve_buffered()

    # --- the end of the connection

    def eof_received(self) -> bool:
        """A client that closes its half has gone, unless the connection was upgraded. True keeps it open."""
        exchange = self.exchange
        if exchange is None or not exchange.upgraded:
            return False
        if not exchange.client_ended():
            self.exchange = None
            return False
        return True

    def lost(self, error: Exception | None) -> None:
        self._context.connections.discard(self)
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.client_gone("the client closed the connection before the response was complete")
        if self._context.draining:
            self._context.exchange_ended()

    @property
    def in_flight(self) -> int:
        return 0 if self.exchange is None else 1

    def drain(self) -> None:
        if self.exchange is None:
            self.close()

    def check(self, now: float) -> None:
        timeouts = self._context.timeouts
        waited = now - self._last_progress
        if self.closed:
            self.check_closing(now, timeouts.idle)
        elif self.exchange is not None:
            body_due = self._reader is not None and not self._reads_paused and not self.exchange.upgraded
            late = body_due and waited > timeouts.body and not may_be_idle(self.exchange.request.raw)
            self.exchange.check(now, body_late=late)
        elif (self._lingering or self._reader is not None) and (
            waited > (LINGER_SECONDS if self._lingering else timeouts.body)
            or now - self._discard_started > MAX_LINGER_SECONDS
        ):
            self.close()
        elif self._buffer and not self.write_paused:
            if waited > timeouts.head:
                message = f"the request's head was not complete after {timeouts.head:g} s"
                self._reject(RequestTimeout(message))
        elif waited > timeouts.keep_alive:
            self.close()
