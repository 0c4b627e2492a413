"""What a contract asks for besides the way: `delay`, `timeout` and `abort`, as upstreams around an upstream.

Here and not in the sidecar, whose filters cannot wait; and behind the seam, so that the relay of everybody
else's requests knows nothing of it. Owns timers only for requests that asked for one.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from devroute.errors import DevrouteError, FaultInjected, UpstreamTimeout
from devroute.http.error_response import error_body
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream

#: Bytes of a request's body that wait with it: as much as a sidecar sends before it looks whether we read.
MAX_HELD_BYTES: Final = 64 * 1024

_UPGRADE: Final = Framing.UPGRADE
_NONE: Final = Framing.NONE
#: Statuses whose answers have no body (RFC 9110 §15.3.5, §15.3.6, §15.4.5).
_BODYLESS: Final = frozenset((204, 205, 304))


class DelayUpstream:
    """An upstream that gets each request `seconds` later."""

    def __init__(self, upstream: Upstream, seconds: float) -> None:
        self._upstream = upstream
        self._seconds = seconds

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        return _Waiting(self._seconds, lambda: self._upstream.open(head, sink), sink)


class _Waiting:
    """A request that is held back, and from then on its stream."""

    def __init__(self, seconds: float, begin: Callable[[], UpstreamStream], sink: ResponseSink) -> None:
        self._begin = begin
        self._sink = sink
        self._stream: UpstreamStream | None = None
        self._held: list[bytes] = []
        self._size = 0
        self._trailers: Headers | None = None
        self._timer = asyncio.get_running_loop().call_later(seconds, self._open)

    def _open(self) -> None:
        stream = self._stream = self._begin()
        held, self._held = self._held, []
        for data in held:
            stream.send_data(data)
        if self._trailers is not None:
            stream.send_end(self._trailers)
        elif self._size > MAX_HELD_BYTES:
            self._sink.resume_request()

    def send_data(self, data: bytes) -> None:
        if self._stream is not None:
            self._stream.send_data(data)
            return
        self._held.append(data)
        self._size += len(data)
        if self._size > MAX_HELD_BYTES:
            self._sink.pause_request()

    def send_end(self, trailers: Headers) -> None:
        if self._stream is not None:
            self._stream.send_end(trailers)
        else:
            self._trailers = trailers

    def cancel(self) -> None:
        self._timer.cancel()
        self._held = []
        if self._stream is not None:
            self._stream.cancel()

    def pause_response(self) -> None:
        if self._stream is not None:
            self._stream.pause_response()

    def resume_response(self) -> None:
        if self._stream is not None:
            self._stream.resume_response()


class TimeoutUpstream:
    """An upstream whose answers have to be complete after `seconds`; what became a pipe (101) may stay."""

    def __init__(self, upstream: Upstream, seconds: float, target: str) -> None:
        self._upstream = upstream
        self._seconds = seconds
        self._target = target

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        return _Timed(self._upstream, head, sink, self._seconds, self._target)


class _Timed:
    """A stream with a deadline: hears what its upstream tells the sink, to know when it is over."""

    def __init__(
        self, upstream: Upstream, head: RequestHead, sink: ResponseSink, seconds: float, target: str
    ) -> None:
        self._sink = sink
        self._error = UpstreamTimeout(
            f"{target} took longer than {seconds:g} s, the contract's timeout", target=target
        )
        self._timer = asyncio.get_running_loop().call_later(seconds, self._late)
        self._stream = upstream.open(head, self)
        self.send_data = self._stream.send_data
        self.send_end = self._stream.send_end
        self.pause_response = self._stream.pause_response
        self.resume_response = self._stream.resume_response

    def _late(self) -> None:
        self._stream.cancel()
        self._sink.on_error(self._error)

    def cancel(self) -> None:
        self._timer.cancel()
        self._stream.cancel()

    def on_informational(self, head: ResponseHead) -> None:
        self._sink.on_informational(head)

    def on_head(self, head: ResponseHead) -> None:
        if head.framing is _UPGRADE:
            self._timer.cancel()
        self._sink.on_head(head)

    def on_data(self, data: bytes) -> None:
        self._sink.on_data(data)

    def on_end(self, trailers: Headers) -> None:
        self._timer.cancel()
        self._sink.on_end(trailers)

    def on_error(self, error: DevrouteError) -> None:
        self._timer.cancel()
        self._sink.on_error(error)

    def pause_request(self) -> None:
        self._sink.pause_request()

    def resume_request(self) -> None:
        self._sink.resume_request()


class AbortUpstream:
    """An upstream that answers every request with one status, and asks nobody."""

    def __init__(self, status: int, service: str) -> None:
        self._status = status
        error = FaultInjected(
            f"answered {status} as the contract asks", hint="it says 'abort'", service=service
        )
        self._body = b"" if status in _BODYLESS else error_body(error)

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        return _Answer(self._status, self._body, head.method, sink)


class _Answer:
    """A stream whose answer is known before it begins; the request's body is thrown away."""

    def __init__(self, status: int, body: bytes, method: bytes, sink: ResponseSink) -> None:
        fields = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body) if body else b""
        raw = b"HTTP/1.1 %d Injected\r\n%b\r\n" % (status, fields)
        self._head = parse_response_head(raw, method)
        self._body = body
        self._sink = sink
        self._handle = asyncio.get_running_loop().call_soon(self._answer)

    def _answer(self) -> None:
        self._sink.on_head(self._head)
        if self._body and self._head.framing is not _NONE:
            self._sink.on_data(self._body)
        self._sink.on_end([])

    def cancel(self) -> None:
        self._handle.cancel()

    def send_data(self, data: bytes) -> None: ...
    def send_end(self, trailers: Headers) -> None: ...
    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...
