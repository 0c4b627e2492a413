"""Invariants of HTTP/2: header blocks, requests to the data port, and responses of an app.

An input is a list of short frames with headers of four bytes (type, flags, stream, length), so that mutations
rarely break the framing; an input that begins with 0xff is used as it is.
"""

import asyncio
import struct
from typing import Any, Final, cast

import hpack
from hpack.exceptions import HPACKError, OversizedHeaderListError

from devroute.downstream.http2 import Http2ServerConnection
from devroute.downstream.listener import Listener
from devroute.errors import DevrouteError, LaptopOffline
from devroute.http.http2.hpack import Decoder
from devroute.http.http2.protocol import PREFACE
from devroute.http.message import Framing, Headers, InboundRequest, RequestHead, ResponseHead
from devroute.routing.route import Route
from devroute.upstream.http2_connection import Http2UpstreamConnection, Http2UpstreamStream
from devroute.upstream.interface import ResponseSink
from tests.conformance.memory import TIMEOUTS, Loop, Recorder, Transport, Whole

SETTINGS: Final = b"\0\0\0\4\0\0\0\0\0"

Asyncio = asyncio.AbstractEventLoop


class _Loop(Loop):
    """Timers never fire."""

    def call_later(self, seconds: float, callback: object, *args: object) -> "_Timer":
        return _Timer()

    def create_future(self) -> "_Future":
        return _Future()


class _Timer:
    def cancel(self) -> None: ...


class _Future:
    def __init__(self) -> None:
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, result: object) -> None:
        assert not self._done
        self._done = True

    set_exception = set_result

    def cancel(self) -> bool:
        self._done = True
        return True


class _Transport(Transport):
    def set_protocol(self, protocol: object) -> None: ...


def framed(data: bytes) -> bytes:
    """The input as frames of HTTP/2."""
    if data[:1] == b"\xff":
        return data[1:]
    out = []
    at = 0
    while at + 4 <= len(data):
        kind, flags, stream, length = data[at : at + 4]
        payload = data[at + 4 : at + 4 + length]
        out.append(struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload)
        at += 4 + length
    return b"".join(out)


# --- header blocks ------------------------------------------------------------------------------------------


def blocks(data: bytes) -> object:
    """Several blocks of one connection, read by our decoder and by that of the hpack package."""
    ours, theirs = Decoder(), hpack.Decoder()
    seen: list[object] = []
    at = 0
    while at < len(data):
        block = data[at + 1 : at + 1 + data[at]]
        at += 1 + data[at]
        mine, other = _decoded(ours, block), _decoded(theirs, block)
        assert mine == other, (mine, other)
        if isinstance(mine, str):
            return seen[:3], mine
        seen.append(len(mine))
    return tuple(seen[:4])


def _decoded(decoder: hpack.Decoder, block: bytes) -> list[tuple[bytes, bytes]] | str:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except OversizedHeaderListError:
        return "oversized"
    except (HPACKError, IndexError):
        return "malformed"


# --- requests -----------------------------------------------------------------------------------------------


class _Many:
    """An upstream that records each complete request."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.recorders: list[Recorder] = []
        self.opened: list[bytes] = []

    def open(self, head: RequestHead, sink: ResponseSink) -> Recorder:
        recorder = Recorder(self.loop)
        self.recorders.append(recorder)
        self.opened.append(head.wire)
        return recorder.open(head, sink)

    @property
    def whole(self) -> list[Whole]:
        return sorted((one for each in self.recorders for one in each.whole), key=lambda one: one.head.wire)


def requests_of(parts: list[bytes]) -> tuple[list[Whole], list[bytes] | None]:
    """The complete requests, and the heads of all. The heads are None if the connection was closed for an
    error: requests that arrived in the same read may or may not have been served."""
    loop = _Loop()
    upstream = _Many(loop)

    def route(request: InboundRequest) -> Route:
        if len(request.matched) != 1:
            raise LaptopOffline("none is online")
        return Route(upstream, "foo", "alice", "laptop", "")

    server = Listener(route, TIMEOUTS, lambda observed: None, 0.0)
    connection = Http2ServerConnection(server, cast(Asyncio, loop))
    transport = _Transport()
    connection.adopt(cast(asyncio.Transport, transport), PREFACE + SETTINGS)
    loop.run()
    for part in parts:
        if part and not transport.ended:
            connection.received(part)
            loop.run()
    ended = transport.ended
    if not ended:
        connection.connection_lost(None)
    loop.run()
    assert not connection.streams, "a stream outlives its connection"
    return upstream.whole, None if ended else upstream.opened


# --- responses ----------------------------------------------------------------------------------------------


class Sink:
    """What a client would receive; implements ResponseSink and the pool of upstream/http2_connection.py."""

    label = "app"

    def __init__(self) -> None:
        self.status = 0
        self.body = b""
        self.trailers: Headers | None = None
        self.error: DevrouteError | None = None
        self.late = 0
        self.open = 1
        self.waiting: list[Any] = []

    def _alive(self) -> None:
        self.late += self.trailers is not None or self.error is not None

    def on_informational(self, head: ResponseHead) -> None:
        self._alive()

    def on_head(self, head: ResponseHead) -> None:
        self._alive()
        assert not self.status, "two heads"
        self.status = head.status

    def on_data(self, data: bytes) -> None:
        self._alive()
        assert self.status, "data before the head"
        self.body += data

    def on_end(self, trailers: Headers) -> None:
        self._alive()
        assert self.status, "an end before the head"
        self.trailers = trailers

    def on_error(self, error: DevrouteError) -> None:
        self._alive()
        self.error = error

    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...

    def queue(self, stream: Http2UpstreamStream) -> None:
        self.waiting.append(stream)

    def assign_waiting(self) -> None: ...
    def forget(self, connection: Http2UpstreamConnection) -> None: ...

    def ended(self) -> None:
        self.open -= 1


def answered(parts: list[bytes]) -> Sink:
    loop = _Loop()
    sink = Sink()
    connection = Http2UpstreamConnection(sink, cast(Asyncio, loop))
    transport = _Transport()
    connection.connection_made(cast(asyncio.Transport, transport))
    connection.received(SETTINGS)
    loop.run()
    wire = b"GET / HTTP/1.1\r\nhost: foo\r\n\r\n"
    stream = Http2UpstreamStream(sink, RequestHead(b"GET", b"/", Framing.NONE, 0, wire), sink)
    stream.attach(connection, connection.next_number())
    loop.run()
    for part in parts:
        if part and not transport.ended:
            connection.received(part)
            loop.run()
    connection.connection_lost(None)
    loop.run()
    for waiting in sink.waiting:  # the app reported that it had not processed the request
        waiting.fail(LaptopOffline("no other connection"))
    return sink
