"""One request to an app over HTTP/2, and the connection it shares with others. Knows no pool but by name.

A connection takes requests once the app's SETTINGS are here: until then nothing was sent that could get lost.
"""

import asyncio
import socket
from typing import Final, Protocol

from h2.errors import ErrorCodes

from devroute.errors import DevrouteError, UpstreamInvalid, UpstreamReset
from devroute.http.aio.http2_connection import Http2Connection
from devroute.http.aio.http2_stream import Http2Stream
from devroute.http.http2.headers import Fields, read_response, read_trailers, write_request, write_trailers
from devroute.http.http2.protocol import LAST_STREAM_ID, MAX_STREAMS, Http2Protocol
from devroute.http.message import Framing, Headers, RequestHead
from devroute.upstream.interface import ResponseSink

#: Request bodies up to here are kept until the response begins, to be sent again if the app reports that it
#: has not processed them (RFC 9113 §8.7). It holds most unary calls.
KEPT_BYTES: Final = 16 * 1024

#: A connection is shared, so its death must be noticed: by the kernel, whose probes a laptop answers even
#: while a debugger has stopped the app. Seconds of silence, between probes, and with data not acknowledged.
KEEPALIVE_IDLE: Final = 10
KEEPALIVE_INTERVAL: Final = 5
KEEPALIVE_COUNT: Final = 3
UNACKNOWLEDGED: Final = 25

_NONE: Final = Framing.NONE
_UPGRADE: Final = Framing.UPGRADE
_HEADER_BYTES: Final = 9  # of a frame
_SETTINGS_TYPE: Final = 4
_CODES: Final = frozenset(int(code) for code in ErrorCodes)


class Pool(Protocol):
    """What a connection and its streams need of the pool they belong to."""

    label: str

    def queue(self, stream: "Http2UpstreamStream") -> None:
        """Serve the stream on the next connection that has room."""

    def room_made(self) -> None:
        """A connection may take another request."""

    def forget(self, connection: "Http2UpstreamConnection") -> None:
        """The connection is gone."""

    def ended(self) -> None:
        """A stream is over, however it ended."""


class Http2UpstreamStream(Http2Stream):
    """One request; implements devroute.upstream.UpstreamStream."""

    __slots__ = ("_bodyless", "_head", "_kept", "_kept_end", "_kept_size", "_pool", "done", "sink")

    def __init__(self, pool: Pool, head: RequestHead, sink: ResponseSink) -> None:
        super().__init__()
        self._pool = pool
        self._head = head
        self.sink = sink
        self.done = False  # the sink hears no more
        self._bodyless = False
        self._kept: list[bytes] | None = []  # the request's body, as long as it may be sent once more
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
            self.fail(UpstreamInvalid("the answer has a body that its head excludes"))
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
        self._finish()
        if self._sent_end:
            self.close()
        else:
            self.reset(ErrorCodes.NO_ERROR)  # the rest of the request is not needed (RFC 9113 §8.1)
        self.sink.on_end(trailers)

    def receive_reset(self, code: int) -> None:
        if self.all_received:
            self.discard()  # the app wants no more of the request; its response is complete
        elif code == ErrorCodes.REFUSED_STREAM:
            self.refused()
        else:
            name = ErrorCodes(code).name if code in _CODES else str(code)
            self.fail(UpstreamReset(f"{self._pool.label} reset the request ({name})"))

    def refused(self) -> None:
        """The app has not touched this request: once more, elsewhere, if its body is still here."""
        kept, self._kept = self._kept, None
        if kept is None or self.done:
            self.fail(UpstreamReset(f"{self._pool.label} refused the request and closes its connection"))
            return
        self.close()
        self.restart(kept, self._kept_end)
        self._pool.queue(self)

    def connection_lost(self, error: DevrouteError) -> None:
        if self.all_received:
            return  # what is held is whole, and its consumer still wants it
        self.fail(UpstreamReset(f"{self._pool.label}: {error.message}"))

    def fail(self, error: DevrouteError) -> None:
        if not self.done:
            self._finish()
            self.reset(ErrorCodes.CANCEL)
            self.sink.on_error(error)

    def _finish(self) -> None:
        self.done = True
        self._pool.ended()

    # --- flow control

    def pause_source(self) -> None:
        if not self.done:
            self.sink.pause_request()

    def resume_source(self) -> None:
        if not self.done:
            self.sink.resume_request()


class Http2UpstreamConnection(Http2Connection):
    """`ready` is set once the app's SETTINGS are here, or to the reason why they never will be."""

    __slots__ = ("_first", "_next", "_pool", "going", "idle_since", "ready")

    def __init__(self, pool: Pool, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(Http2Protocol(client=True), loop)
        self._pool = pool
        self._first: bytes | None = b""  # until it has shown that this is HTTP/2
        self.ready: asyncio.Future[None] = loop.create_future()
        self._next = 1  # the id of the next stream; h2 counts only those whose head has left
        self.going = False  # takes no new requests
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        sock = transport.get_extra_info("socket")
        if sock is not None:
            _watch(sock)
        self.flush()

    def received(self, data: bytes) -> None:
        if self._first is not None:
            data = self._first + data
            if len(data) < _HEADER_BYTES:
                self._first = data
                return
            self._first = None
            if data[3] != _SETTINGS_TYPE:
                http1 = " but HTTP/1.1" if data.startswith(b"HTTP/1.") else ""
                self._unusable(
                    UpstreamInvalid(
                        f"{self._pool.label} does not speak HTTP/2 (in clear text){http1}",
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
        """h2 refuses pushes, and takes this for a request."""
        self.fail("opened a stream, as no server may", ErrorCodes.PROTOCOL_ERROR)

    def settings_changed(self) -> None:
        if not self.ready.done():
            self.ready.set_result(None)
        else:
            self._pool.room_made()

    @property
    def room(self) -> int:
        """How many requests more it takes now."""
        if self.going or self.finished or self.closed or self._next > LAST_STREAM_ID:
            return 0
        return min(self.protocol.remote_settings.max_concurrent_streams, MAX_STREAMS) - len(self.streams)

    def next_number(self) -> int:
        number = self._next
        self._next += 2
        return number

    def goaway_received(self, code: int, last: int) -> None:
        self.going = True
        for number, stream in list(self.streams.items()):
            if number > last and isinstance(stream, Http2UpstreamStream):
                stream.refused()
        self.stream_closed()

    def retire(self) -> None:
        """Take no new requests, and close when those that are open have ended."""
        self.going = True
        self.stream_closed()

    def stream_closed(self) -> None:
        if self.finished:
            return
        if not self.streams:
            if self.going:
                self.flush()
                self.finished = True
                self.close()
                return
            self.idle_since = self._loop.time()
        self._pool.room_made()

    def lost(self, error: Exception | None) -> None:
        self._pool.forget(self)
        if not self.ready.done():
            self.ready.set_exception(
                UpstreamInvalid(
                    f"{self._pool.label} closed the connection instead of speaking HTTP/2",
                    hint="gRPC needs HTTP/2 in clear text: is this the port of the gRPC server, without TLS?",
                )
            )
        self.finish(UpstreamReset("the connection was closed before the answer was complete"))


def _watch(sock: socket.socket) -> None:
    """Have the kernel detect that the other end is gone, as far as this platform can be configured to."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", KEEPALIVE_COUNT),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED * 1000),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
