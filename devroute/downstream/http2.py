"""The HTTP/2 connections of clients, with many requests at a time on each.

Reads requests and passes each to an Http2Exchange (downstream/http2_exchange.py).
"""

import asyncio
from typing import Final

from h2.errors import ErrorCodes

from devroute.downstream.context import Context
from devroute.downstream.http2_exchange import Http2Exchange, ServerStream
from devroute.errors import HeadTooLarge, NotSupported, RequestMalformed
from devroute.http.aio.http2_connection import Http2Connection
from devroute.http.error_response import error_body
from devroute.http.http2.headers import Fields, read_request
from devroute.http.http2.protocol import LAST_STREAM_ID, MAX_STREAMS, Http2Protocol

#: Its acknowledgement shows that the first GOAWAY was received, so that a last stream can be named (RFC 9113
#: §6.8).
_GOAWAY_PING: Final = b"devroute"


class Http2ServerConnection(Http2Connection):
    """One connection; `draining` once the last GOAWAY was sent."""

    __slots__ = ("_context", "_last_progress", "draining")

    def __init__(self, context: Context, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(Http2Protocol(client=False, max_head=context.head_limits.size), loop)
        self._context = context
        self._last_progress = context.now
        self.draining = False

    def adopt(self, transport: asyncio.Transport, data: bytes) -> None:
        """Take over a connection whose first bytes are `data`."""
        transport.set_protocol(self)
        self.connection_made(transport)
        self._context.connections.add(self)
        self.received(data)
        self.flush()

    @property
    def in_flight(self) -> int:
        return len(self.streams)

    def received(self, data: bytes) -> None:
        self._last_progress = self._context.now
        super().received(data)

    def stream_opened(self, number: int, fields: Fields, *, ended: bool) -> None:
        if len(self.streams) >= MAX_STREAMS:
            self.protocol.reset_stream(number, ErrorCodes.REFUSED_STREAM)
            self.protocol.forget(number)
            self.count_reset()
            return
        stream = ServerStream(self._context)
        stream.connection = self
        stream.number = number
        self.streams[number] = stream
        try:
            request = read_request(fields, ended=ended, limits=self._context.head_limits)
        except (RequestMalformed, HeadTooLarge, NotSupported) as error:
            stream.send_error(error, grpc=_wants_grpc(fields), body=error_body(error))
        else:
            Http2Exchange(stream, self._context, request).start()

    def stream_closed(self) -> None:
        self._last_progress = self._context.now
        if self._context.draining:
            self._context.exchange_ended()
            self._close_if_done()

    # --- timeouts, and the end

    def check(self, now: float) -> None:
        if self.closed:
            self.check_closing(now, self._context.timeouts.idle)
        for stream in list(self.streams.values()):
            if isinstance(stream, ServerStream):
                stream.check(now)
        idle = 0.0 if self.streams else now - self._last_progress
        if idle > self._context.timeouts.keep_alive and not self.finished:
            self.protocol.close_connection(ErrorCodes.NO_ERROR)
            self.flush()
            self.finished = True
            self.close()

    def drain(self) -> None:
        """Send two GOAWAYs, so that no request is lost that was sent before the first was received."""
        if self.finished:
            return
        self.protocol.close_connection(ErrorCodes.NO_ERROR, last_stream_id=LAST_STREAM_ID)
        self.protocol.ping(_GOAWAY_PING)
        self.flush()

    def ping_acknowledged(self, payload: bytes) -> None:
        if payload == _GOAWAY_PING and self._context.draining and not self.draining:
            self.draining = True
            self.protocol.close_connection(ErrorCodes.NO_ERROR)
            self.flush()
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self.draining and not self.streams and not self.finished:
            self.flush()
            self.finished = True
            self.close()

    def lost(self, error: Exception | None) -> None:
        super().lost(error)
        self._context.connections.discard(self)
        if self._context.draining:
            self._context.exchange_ended()


def _wants_grpc(fields: Fields) -> bool:
    return any(name == b"content-type" and value.startswith(b"application/grpc") for name, value in fields)
