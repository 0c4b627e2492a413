"""The HTTP/1.1 connections of clients, with requests one after the other.

Reads requests and passes each to an Exchange. Never buffers a body. A connection that begins with HTTP/2's
preface is passed to proxy/downstream/http2.py.
"""

import asyncio
import re
from typing import Final

from devroute.errors import DevrouteError, HeadTooLarge, RequestMalformed, RequestTimeout
from devroute.http.aio.connection import LINGER_SECONDS, MAX_DISCARDED_BYTES
from devroute.http.error_response import http1_error
from devroute.http.http1.body import BodyReader, CloseBody, body_reader
from devroute.http.http1.fields import END_OF_HEAD
from devroute.http.http1.request import check_partial_head, parse_request_head
from devroute.http.http2.protocol import PREFACE
from devroute.http.message import Framing, InboundRequest
from devroute.proxy.downstream.context import Context
from devroute.proxy.downstream.http1_exchange import Downstream, Http1Exchange
from devroute.proxy.downstream.http2 import Http2ServerConnection

#: Requests of one connection in one turn of the loop, where they are answered at once (with errors): a read
#: of small ones has thousands, while all other connections wait.
MAX_AT_ONCE: Final = 32

#: Bytes of pipelined requests that wait while a response is sent.
MAX_PIPELINED_BYTES: Final = 128 * 1024

# All at once: taking them off one by one would copy what follows as often.
_EMPTY_LINES: Final = re.compile(rb"\A(?:\r\n)+")

_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED


class Http1ServerConnection(Downstream):
    """One connection of a sidecar; requests on it are served one after the other (RFC 9112 §9.3)."""

    __slots__ = (
        "_context",
        "_discarded",
        "_fresh",
        "_full",
        "_held",
        "_lingering",
        "_parsing",
        "_paused",
        "_reader",
        "_since",
        "exchange",
    )

    def __init__(self, context: Context, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._context = context
        self._held = b""
        self._reader: BodyReader | None = None  # of a request body that is not complete
        self._discarded = 0
        self._paused = False
        self._full = False  # the client does not take what was written
        self._parsing = False
        self._lingering = False
        self._fresh = True  # no request was seen yet
        self._since = context.now  # when a head began, a body went on, a response was complete
        self.exchange: Http1Exchange | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._context.connections.add(self)

    # --- reading

    def received(self, data: bytes) -> None:
        if self._lingering:
            self._discard(len(data))
            return
        if self._reader is not None:
            self._since = self._context.now
            data = self._receive_body(self._reader, data)
            if not data:
                return
        elif not self._held:  # a head has one deadline, however often a byte of it comes
            self._since = self._context.now
        self._held = self._held + data if self._held else data
        if self.exchange is None:
            self._next_request()
        if len(self._held) > MAX_PIPELINED_BYTES:
            self.pause_reading()

    def _next_request(self) -> None:
        """Serve what is held, up to the request that has to wait."""
        self._parsing = True  # an exchange may end before it has begun: a loop, not a recursion
        served = 0
        limits = self._context.head_limits
        while self._held and not (self.exchange or self._reader or self._lingering or self._full):
            held = self._held
            if held.startswith(b"\r\n"):  # RFC 9112 §2.2: empty lines before a request are ignored
                self._held = _EMPTY_LINES.sub(b"", held, 1)
                continue
            end = held.find(END_OF_HEAD) + 4
            try:
                if end < 4 or end > limits.size:
                    if len(held) > limits.size:
                        raise HeadTooLarge(f"the request's head is longer than {limits.size} bytes")
                    check_partial_head(held)
                    break
                self._held = held[end:]
                request = parse_request_head(held[:end], limits.fields)
            except DevrouteError as error:
                if self._fresh and (held.startswith(PREFACE) or PREFACE.startswith(held)):
                    self._become_http2(held)
                else:
                    self._refuse(error)
                break
            self._serve(request)
            served += 1
            if served == MAX_AT_ONCE:
                self.pause_reading()
                self._loop.call_soon(self._go_on)
                break
        self._parsing = False

    def _go_on(self) -> None:
        """With what is held, now that others had their turn."""
        if not self.closed:
            self.resume_reading()
            if self.exchange is None:
                self._next_request()

    def _become_http2(self, held: bytes) -> None:
        """The client's first bytes are HTTP/2's preface (RFC 9113 §3.4)."""
        self._held = b""
        self._context.connections.discard(self)
        Http2ServerConnection(self._context, self._loop).adopt(self.transport, held)

    def _serve(self, request: InboundRequest) -> None:
        self._fresh = False
        exchange = self.exchange = Http1Exchange(self, self._context, request)
        if request.framing is _LENGTH or request.framing is _CHUNKED:
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
                self.exchange.fail(error)
            else:
                self._linger()  # its response is complete, and may not have left yet
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

    def _refuse(self, error: DevrouteError) -> None:
        """Answer a request that could not be read. What follows on this connection cannot be trusted."""
        self._held = b""
        self.write(http1_error(error, close=True))
        self._linger()

    def upgrade(self) -> None:
        self._reader = CloseBody()
        if self._held:
            held, self._held = self._held, b""
            self._receive_body(self._reader, held)

    # --- the end of an exchange

    @property
    def body_pending(self) -> bool:
        return self._reader is not None

    def finish_exchange(self, *, keep_alive: bool) -> None:
        self.exchange = None
        self._since = self._context.now
        self.resume_reading()
        if not keep_alive or self._context.draining:
            self._linger()
            self._context.exchange_ended()
        elif self._held and not self._parsing:
            self._next_request()

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
        """Close our half, and the connection as soon as the client has closed its own."""
        self._lingering = True
        self._held = b""
        self._since = self._context.now
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
        self._full = True  # asyncio calls this once: the response to a further request would fill memory
        if self.exchange is not None:
            self.exchange.pause_response()

    def resume_writing(self) -> None:
        self._full = False
        if self.exchange is not None:
            self.exchange.resume_response()
        elif not self._parsing:
            self.resume_reading()
            self._next_request()

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
            exchange.client_gone("the client closed the connection before the answer was complete")
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
        waited = now - self._since
        if self.exchange is not None:
            body_due = self._reader is not None and not self._paused and not self.exchange.upgraded
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
