"""An HTTP/2 connection to an upstream, and the requests that share it.

Knows its pool (upstream/http2_pool.py) only by the Protocol `Http2PoolInterface`.

A connection takes requests once it has received the app's SETTINGS, so that no request is lost to a server
that speaks another protocol.
"""

import asyncio
from typing import Final, Protocol

from h2.errors import ErrorCodes

from devroute.errors import DevrouteError, UpstreamInvalid, UpstreamReset
from devroute.http.aio.http2_connection import Http2Connection
from devroute.http.aio.http2_stream import Http2Stream
from devroute.http.aio.peer_watch import forget_peer, watch_peer
from devroute.http.http2.headers import Fields, read_response, read_trailers, write_request, write_trailers
from devroute.http.http2.protocol import LAST_STREAM_ID, MAX_STREAMS, Http2Protocol
from devroute.http.message import Framing, Headers, RequestHead
from devroute.upstream.address_pool import is_tls
from devroute.upstream.dialer import peer_vanished
from devroute.upstream.interface import NO_SINK, ResponseSink

#: Bytes of a request's body that are kept until the response begins, to be sent once more if the app has not
#: processed the request (RFC 9113 §8.7). Most unary calls have fewer.
KEPT_BYTES: Final = 16 * 1024

_NONE: Final = Framing.NONE
_UPGRADE: Final = Framing.UPGRADE
_HEADER_BYTES: Final = 9  # of a frame
_SETTINGS_TYPE: Final = 4
_CODES: Final = frozenset(int(code) for code in ErrorCodes)


class Http2PoolInterface(Protocol):
    """What a connection and its streams use of their pool."""

    label: str

    def queue(self, stream: "Http2UpstreamStream") -> None:
        """Serve the stream on the next connection that has room."""

    def assign_waiting(self) -> None:
        """A connection may take another request."""

    def forget(self, connection: "Http2UpstreamConnection") -> None:
        """The connection was closed."""

    def ended(self) -> None:
        """A stream has ended, in whatever way."""


class Http2UpstreamStream(Http2Stream):
    """One request; implements UpstreamStream."""

    __slots__ = ("_bodyless", "_head", "_kept", "_kept_end", "_kept_size", "_pool", "done", "sink")

    def __init__(self, pool: Http2PoolInterface, head: RequestHead, sink: ResponseSink) -> None:
        super().__init__()
        self._pool = pool
        self._head = head
        self.sink = sink
        self.done = False  # nothing more is passed to the sink
        self._bodyless = False
        self._kept: list[bytes] | None = []  # the request's body, while it may be sent once more
        self._kept_size = 0
        self._kept_end: Headers | None = None

    def attach(self, connection: "Http2UpstreamConnection", number: int) -> None:
        self.connection = connection
        self.number = number
        connection.streams[number] = self
        framing = self._head.framing
        self.send_head(write_request(self._head), end=framing is _NONE or framing is _UPGRADE)

    # --- the request

    def send_data(self, data: bytes) -> None:
        kept = self._kept
        if kept is not None:
            self._kept_size += len(data)
            if self._kept_size <= KEPT_BYTES:
                kept.append(data)
            else:
                self._kept = None
        self.send(data)

    def send_end(self, trailers: Headers) -> None:
        self._kept_end = trailers = write_trailers(trailers)
        self.end(trailers)

    def cancel(self) -> None:
        if not self.done:
            self._finish()
            self.reset(ErrorCodes.CANCEL)

    def pause_response(self) -> None:
        self.pause_delivery()

    def resume_response(self) -> None:
        self.resume_delivery()

    def sent(self) -> None: ...

    # --- the response

    def receive_informational(self, fields: Fields) -> None:
        try:
            head = read_response(fields, self._head.method, ended=False)
        except UpstreamInvalid as error:
            self.fail(error)
        else:
            self.sink.on_informational(head)

    def receive_head(self, fields: Fields, *, ended: bool) -> None:
        self._kept = None
        try:
            head = read_response(fields, self._head.method, ended=ended)
        except UpstreamInvalid as error:
            self.fail(error)
            return
        self._bodyless = head.framing is _NONE
        self.sink.on_head(head)

    def consume(self, data: bytes) -> None:
        if self._bodyless:
            self.fail(UpstreamInvalid("the response has a body, which its head excludes"))
        else:
            self.sink.on_data(data)

    def receive_trailers(self, fields: Fields) -> None:
        try:
            trailers = read_trailers(fields, UpstreamInvalid)
        except UpstreamInvalid as error:
            self.fail(error)
        else:
            self.receive_end(trailers)

    def complete(self, trailers: Headers) -> None:
        if self.done:
            return
        sink = self._finish()
        if self._sent_end:
            self.close()
        else:
            self.reset(ErrorCodes.NO_ERROR)  # the rest of the request is of no use (RFC 9113 §8.1)
        sink.on_end(trailers)

    def receive_reset(self, code: int) -> None:
        if self.all_received:
            self.discard()  # of the request only: the response was received whole, if not consumed yet
        elif code == ErrorCodes.REFUSED_STREAM:
            self.refused()
        else:
            name = ErrorCodes(code).name if code in _CODES else str(code)
            self.fail(UpstreamReset(f"{self._pool.label} reset the request ({name})"))

    def refused(self) -> None:
        """The app has not processed the request: send it on another connection, if its body was kept."""
        kept, self._kept = self._kept, None
        if kept is None or self.done:
            self.fail(UpstreamReset(f"{self._pool.label} refused the request and closes its connection"))
            return
        self.close()
        self.restart(kept, self._kept_end)
        self._pool.queue(self)

    def connection_lost(self, error: DevrouteError) -> None:
        if self.all_received:
            return  # the response is complete, and its consumer may still read it
        self.fail(UpstreamReset(f"{self._pool.label}: {error.message}", hint=error.hint))

    def fail(self, error: DevrouteError) -> None:
        if not self.done:
            sink = self._finish()
            self.reset(ErrorCodes.CANCEL)
            sink.on_error(error)

    def _finish(self) -> ResponseSink:
        """Nothing more is passed on after what the caller of this passes to the sink that it returns."""
        self.done = True
        self._pool.ended()
        sink, self.sink = self.sink, NO_SINK
        return sink

    # --- flow control

    def pause_source(self) -> None:
        if not self.done:
            self.sink.pause_request()

    def resume_source(self) -> None:
        if not self.done:
            self.sink.resume_request()


class Http2UpstreamConnection(Http2Connection):
    """`ready` is done when the app's SETTINGS were received, or fails if they cannot be."""

    __slots__ = ("_next", "_pool", "_preface", "draining", "idle_since", "ready")

    def __init__(self, pool: Http2PoolInterface, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(Http2Protocol(client=True), loop)
        self._pool = pool
        self._preface: bytes | None = b""  # the start of the first frame, until that is known to be HTTP/2
        self.ready: asyncio.Future[None] = loop.create_future()
        self._next = 1  # the id of the next stream; h2 counts only those whose head was sent
        self.draining = False  # takes no new requests (GOAWAY, or retired)
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        watch_peer(self)
        self.flush()

    def received(self, data: bytes) -> None:
        if self._preface is not None:
            data = self._preface + data
            if is_tls(data):
                error = UpstreamInvalid(
                    f"{self._pool.label} speaks TLS", hint="write its address with grpcs://"
                )
                self._unusable(error)
                return
            if len(data) < _HEADER_BYTES:
                self._preface = data
                return
            self._preface = None
            if data[3] != _SETTINGS_TYPE:
                http1 = " but HTTP/1.1" if data.startswith(b"HTTP/1.") else ""
                self._unusable(
                    UpstreamInvalid(
                        f"{self._pool.label} does not speak HTTP/2{http1}",
                        hint="gRPC needs HTTP/2: is this the port of the gRPC server?",
                    )
                )
                return
        super().received(data)

    def _unusable(self, error: DevrouteError) -> None:
        if not self.ready.done():
            self.ready.set_exception(error)
        self.finish(error)
        self.close()

    def stream_opened(self, number: int, fields: Fields, *, ended: bool) -> None:
        """Servers open no streams: h2 refuses pushes, and reports anything else as a request."""
        self.fail("opened a stream, which servers may not", ErrorCodes.PROTOCOL_ERROR)

    def settings_changed(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)
        else:
            self._pool.assign_waiting()

    @property
    def room(self) -> int:
        """The number of further requests that it takes now."""
        if self.draining or self.finished or self.closed or self._next > LAST_STREAM_ID:
            return 0
        return min(self.protocol.remote_settings.max_concurrent_streams, MAX_STREAMS) - len(self.streams)

    def next_number(self) -> int:
        number = self._next
        self._next += 2
        return number

    def goaway_received(self, code: int, last: int) -> None:
        self.draining = True
        for number, stream in list(self.streams.items()):
            if number > last and isinstance(stream, Http2UpstreamStream):
                stream.refused()
        self.stream_closed()

    def retire(self) -> None:
        """Take no new requests, and close when the open ones have ended."""
        self.draining = True
        self.stream_closed()

    def stream_closed(self) -> None:
        if self.finished:
            return
        if not self.streams:
            if self.draining:
                self.flush()
                self.finished = True
                self.resume_reading()  # see _linger
                self.close()
                return
            self.idle_since = self._loop.time()
        self._pool.assign_waiting()

    def lost(self, error: Exception | None) -> None:
        forget_peer(self)
        self._pool.forget(self)
        if error is not None and self.streams:
            self.receive_rest()
        self.handle_rest()
        if not self.ready.done():
            self.ready.set_exception(
                UpstreamInvalid(
                    f"{self._pool.label} closed the connection instead of speaking HTTP/2",
                    hint="gRPC needs HTTP/2 in clear text: is this the port of the gRPC server, without TLS?",
                )
            )
        vanished = peer_vanished("its host", error)
        self.finish(vanished or UpstreamReset("the connection was closed before the response was complete"))
