"""One request to an upstream over HTTP/1.1: written to its connection, and the response read from there."""

from typing import TYPE_CHECKING, Final

from devroute.errors import DevrouteError, UpstreamInvalid, UpstreamReset
from devroute.http.http1.body import BodyReader, CloseBody, body_reader, encode_chunk, encode_last_chunk
from devroute.http.http1.fields import END_OF_HEAD
from devroute.http.http1.response import ResponseHeadParser
from devroute.http.message import MAX_HEAD_BYTES, Framing, Headers, RequestHead, ResponseHead
from devroute.upstream.address_pool import MAX_IN_FLIGHT, AddressPool, is_tls
from devroute.upstream.dialer import CLOSED_HINT, Dialer, peer_vanished
from devroute.upstream.interface import NO_SINK, ResponseSink

if TYPE_CHECKING:
    from devroute.upstream.http1_connection import Http1Connection

#: Sent once more on a new connection if need be (RFC 9110 §9.2.2); requests with a body are never sent twice.
_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))

#: Part of the time that an app promises in `keep-alive: timeout=N` for which its idle connections are used:
#: the rest is for the network, and for an app that counts from an earlier moment.
IDLE_SHARE: Final = 0.5

# The states of a stream. Plain numbers: an enum's member costs as much as a call in Python 3.11.
_CONNECTING: Final = 0
_HEAD: Final = 1
_BODY: Final = 2
_DONE: Final = 3

_NONE: Final = Framing.NONE
_CHUNKED: Final = Framing.CHUNKED
_UPGRADE: Final = Framing.UPGRADE


# A base class rather than a Protocol: mypyc calls its methods directly.
class Http1PoolBase(AddressPool):
    """What a connection and its stream use of their pool. `understood`: the address is known to speak
    HTTP/1.1 and not HTTP/2; set by the owner, and cleared by what may be another app."""

    def __init__(self, dialer: Dialer, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        super().__init__(dialer, max_in_flight)
        self.response_parser = ResponseHeadParser()
        self.understood = False

    def release(self, connection: "Http1Connection") -> None:
        """The exchange is complete, and the connection can serve another."""
        raise NotImplementedError

    def forget(self, connection: "Http1Connection") -> None:
        """The connection was closed."""
        raise NotImplementedError

    def answered(self, stream: "Http1Stream") -> None:
        """The response to a request on a new connection has begun, or there will be none."""
        raise NotImplementedError

    def retry(self, stream: "Http1Stream") -> None:
        """Serve the stream once more, on a new connection."""
        raise NotImplementedError


#: The reader of a response whose head has not been received.
_NO_HEAD_YET: Final = CloseBody()


class Http1Stream:
    """One request on a connection; implements devroute.upstream.UpstreamStream."""

    __slots__ = (
        "_begun",
        "_buffer",
        "_chunked",
        "_connection",
        "_head",
        "_keep_alive",
        "_paused",
        "_pool",
        "_reader",
        "_request_done",
        "_reused",
        "_state",
        "_unsent",
        "sink",
    )

    def __init__(self, pool: Http1PoolBase, head: RequestHead, sink: ResponseSink) -> None:
        self._pool = pool
        self._head = head
        self.sink = sink
        self._connection: Http1Connection | None = None
        self._state = _CONNECTING
        self._chunked = head.framing is _CHUNKED
        self._request_done = head.framing is _NONE
        self._unsent: list[bytes] | None = None
        self._buffer = b""
        self._begun = False  # a 1xx was received
        self._reader: BodyReader = _NO_HEAD_YET
        self._keep_alive = False
        self._paused = False
        self._reused = False

    # --- the request

    def attach(self, connection: "Http1Connection", *, reused: bool) -> None:
        self._connection = connection
        self._reused = reused
        self._state = _HEAD
        connection.stream = self
        connection.write(self._head.wire)
        if self._unsent is not None:
            for piece in self._unsent:
                connection.write(piece)
            self._unsent = None
            self.sink.resume_request()
        if self._paused:
            connection.pause_reading()

    def send_data(self, data: bytes) -> None:
        if self._state == _DONE:
            return
        if not self._chunked:
            self._write(data)
        elif self._connection is not None:
            self._connection.write_together(encode_chunk(data))
        else:
            self._write(b"".join(encode_chunk(data)))

    def send_end(self, trailers: Headers) -> None:
        if self._state == _DONE:
            return
        self._request_done = True
        if self._chunked:
            self._write(encode_last_chunk(trailers))
        elif self._head.framing is _UPGRADE and self._connection is not None:
            self._connection.flush()
            if self._connection.transport.can_write_eof():
                self._connection.transport.write_eof()
            if self._reader.done:
                self._connection.close()

    def _write(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.write(data)
        elif self._unsent is None:
            self._unsent = [data]
            self.sink.pause_request()
        else:
            self._unsent.append(data)

    def cancel(self) -> None:
        if self._state == _DONE:
            return
        self._end()
        self._unsent = None
        connection = self._detach()
        if connection is not None:
            connection.abort()

    def pause_response(self) -> None:
        self._paused = True
        if self._connection is not None:
            self._connection.pause_reading()

    def resume_response(self) -> None:
        self._paused = False
        if self._connection is not None:
            self._connection.resume_reading()

    # --- the response

    def received(self, data: bytes) -> None:
        try:
            while self._state == _HEAD and data:
                data = self._receive_head(data)
            if self._state != _BODY:
                return
            reader = self._reader
            body, rest = reader.feed(data) if data or not reader.done else (b"", b"")
        except UpstreamInvalid as error:
            self.fail(error)
            return
        if body:
            self.sink.on_data(body)
        if reader.done and not self.finished:  # the sink may have cancelled
            self._finish(reusable=not rest)

    def _receive_head(self, data: bytes) -> bytes:
        """Parse one head at the start of `data`; returns the rest: body, or the next head after a 1xx."""
        if self._buffer:
            data = self._buffer + data
        head = self._repeated_head(data)
        if head is not None:
            end = len(head.raw)
        else:
            end = data.find(END_OF_HEAD)
            if end < 0 or end + 4 > MAX_HEAD_BYTES:
                self._buffer = self._incomplete(data)
                return b""
            end += 4
            head = self._pool.response_parser.parse(data[:end], self._head.method)
            if head.repeated and self._connection is not None:
                self._connection.repeated_head = head
        self._buffer = b""
        if not self._reused:
            self._pool.answered(self)
        if head.status < 200 and head.status != 101:
            self._begun = True  # the app has the request: no retry
            self.sink.on_informational(head)
            return data[end:]
        if head.status == 101 and self._head.framing is not _UPGRADE:
            raise UpstreamInvalid("the response switches protocols (101) without a request for it")
        self._state = _BODY
        self._keep_alive = head.keep_alive
        if self._connection is not None:
            self._connection.idle_limit = head.idle_limit * IDLE_SHARE
        self._reader = body_reader(head.framing, head.length, UpstreamInvalid)
        self.sink.on_head(head)
        return data[end:]

    def _repeated_head(self, data: bytes) -> ResponseHead | None:
        """The connection's repeated head, if `data` starts with it: its end is the first in `data`, too. What
        a head says depends on HEAD, which is not remembered (http/http1/response.py)."""
        connection = self._connection
        known = None if connection is None else connection.repeated_head
        if known is None or self._head.method == b"HEAD" or not data.startswith(known.raw):
            return None
        return known

    def _incomplete(self, data: bytes) -> bytes:
        """`data`, if it can be the start of a head. Raises UpstreamInvalid."""
        if len(data) > MAX_HEAD_BYTES:
            raise UpstreamInvalid(f"the response's head is longer than {MAX_HEAD_BYTES} bytes")
        if data[:7] != b"HTTP/1."[: len(data)] or data.count(b"\n") != data.count(b"\r\n"):
            raise self._not_http1(data)
        return data

    def _not_http1(self, data: bytes) -> UpstreamInvalid:
        self._pool.understood = False
        label = self._pool.label
        if is_tls(data):
            return UpstreamInvalid(f"{label} speaks TLS", hint="write its address with https://")
        hint = "is this the port of another kind of server?"
        return UpstreamInvalid(f"{label} does not speak HTTP/1.1", hint=hint)

    def received_eof(self) -> bool:
        """The upstream closed its half. True keeps ours open."""
        if self._state == _BODY and isinstance(self._reader, CloseBody):
            if self._head.framing is _UPGRADE and not self._request_done and self._connection is not None:
                self._reader.done = True
                self.sink.on_end([])
                return True
            self._finish(reusable=False)
        return False

    def lost(self, error: Exception | None) -> None:
        """The connection was closed; `received_eof` was called first if the upstream did it in order."""
        self._connection = None
        if self._state == _DONE:
            return
        if self._state == _HEAD and self._may_retry():
            self._state = _CONNECTING
            self._pool.retry(self)
        elif self._state == _BODY and self._reader.done:
            self._end()  # an upgraded connection whose other half ended before
            self._pool.ended()
        else:
            self.fail(peer_vanished(self._pool.label, error) or self._closed_early())

    def _closed_early(self) -> UpstreamReset:
        label = self._pool.label
        if self._state != _HEAD:
            return UpstreamReset(f"{label} closed the connection in the middle of its response")
        if self._reused or self._begun or self._buffer:
            return UpstreamReset(f"{label} closed the connection before it responded")
        return UpstreamReset(
            f"{label} accepted the connection, and closed it before it responded",
            hint=CLOSED_HINT,
        )

    @property
    def repeatable(self) -> bool:
        """Whether the request may be sent twice."""
        return self._head.framing is _NONE and self._head.method in _IDEMPOTENT

    def _may_retry(self) -> bool:
        return self._reused and not self._begun and not self._buffer and self.repeatable

    def fail(self, error: DevrouteError) -> None:
        if self._state == _DONE:
            return
        sink = self._end()
        connection = self._detach()
        if connection is not None:
            connection.abort()
        sink.on_error(error)

    def _finish(self, *, reusable: bool) -> None:
        sink = self._end()
        trailers = self._reader.trailers
        connection = self._detach()
        if connection is not None:
            if reusable and self._keep_alive and self._request_done:
                self._pool.release(connection)
            elif self._request_done:
                connection.close_in_time()
            else:
                connection.abort()  # closing would wait until the app has read the rest of the request
        sink.on_end(trailers)

    def _end(self) -> ResponseSink:
        """Nothing more is passed on after what the caller of this passes to the sink that it returns."""
        self._state = _DONE
        sink, self.sink = self.sink, NO_SINK
        return sink

    def _detach(self) -> "Http1Connection | None":
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.stream = None
        if not self._reused:
            self._pool.answered(self)
        self._pool.ended()
        return connection

    @property
    def finished(self) -> bool:
        return self._state == _DONE
