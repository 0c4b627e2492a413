"""The contract's `delay`, `timeout` and `abort`, as upstreams that wrap an upstream. Rules of a laptop use
the first two as well.

They are here and not in the sidecar because its filters cannot wait, and wrap an upstream so that requests
without these options pay nothing for them. Timers run only for requests whose contract asked for one.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from devroute.errors import DevrouteError, FaultInjected, TargetOverloaded, UpstreamTimeout
from devroute.http.error_response import error_body
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.upstream.deferred import DeferredStream
from devroute.upstream.interface import Reservable, ResponseSink, Upstream, UpstreamStream
from devroute.upstream.made_response import BODYLESS, MadeStream, made
from devroute.upstream.quota import RefusedStream

_UPGRADE: Final = Framing.UPGRADE


class DelayUpstream:
    """Opens each request `seconds` later; until then `target` counts it as in flight."""

    def __init__(self, upstream: Upstream, seconds: float, target: Reservable) -> None:
        self._upstream = upstream
        self._seconds = seconds
        self._target = target

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        error = self._target.reserve()
        if error is not None:
            return RefusedStream(sink, error)
        return _DelayedStream(self._upstream, self._seconds, head, sink, self._target)


class Delayed:
    """Counts the delayed requests that no target counts: to what cannot, and those that are aborted."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0

    def reserve(self) -> DevrouteError | None:
        if self._count >= self._limit:
            return TargetOverloaded(f"{self._limit} requests are delayed already")
        self._count += 1
        return None

    def unreserve(self) -> None:
        self._count -= 1


class _DelayedStream(DeferredStream):
    """Has reserved a place at `target`."""

    def __init__(
        self, upstream: Upstream, seconds: float, head: RequestHead, sink: ResponseSink, target: Reservable
    ) -> None:
        super().__init__(head, sink)
        self._target: Reservable | None = target
        # None once it has fired: it refers to this.
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            seconds, self._send, upstream
        )

    def _send(self, upstream: Upstream) -> None:
        self._timer = None
        self._unreserve()
        self.begin(upstream)

    def _unreserve(self) -> None:
        target, self._target = self._target, None
        if target is not None:
            target.unreserve()

    def cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._unreserve()
        super().cancel()


class TimeoutUpstream:
    """Fails requests without a complete response after `seconds`, each with an error that `timed_out` makes.
    An upgraded connection (101) may stay."""

    def __init__(self, upstream: Upstream, seconds: float, timed_out: Callable[[], DevrouteError]) -> None:
        self._upstream = upstream
        self._seconds = seconds
        self._error = timed_out

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        return _TimedStream(self._upstream, head, sink, self._seconds, self._error)


def too_long(target: str, seconds: float, limit: str = "the contract's timeout") -> UpstreamTimeout:
    """The error of a request to `target` without a complete response in time; `limit` is what set that."""
    return UpstreamTimeout(f"{target} took longer than {seconds:g} s, {limit}", target=target)


class _TimedStream:
    """A stream with a deadline. It is the upstream's sink, so that it learns of the response's end."""

    def __init__(
        self,
        upstream: Upstream,
        head: RequestHead,
        sink: ResponseSink,
        seconds: float,
        error: Callable[[], DevrouteError],
    ) -> None:
        self._sink = sink
        self._error = error
        # None once it has fired: it refers to this.
        self._timer: asyncio.TimerHandle | None = asyncio.get_running_loop().call_later(
            seconds, self._timed_out
        )
        self.on_informational = sink.on_informational
        self.on_data = sink.on_data
        self.pause_request = sink.pause_request
        self.resume_request = sink.resume_request
        self._stream = upstream.open(head, self)
        self.send_data = self._stream.send_data
        self.send_end = self._stream.send_end
        self.pause_response = self._stream.pause_response
        self.resume_response = self._stream.resume_response

    def _timed_out(self) -> None:
        self._timer = None
        self._stream.cancel()
        self._sink.on_error(self._error())

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def cancel(self) -> None:
        self._stop_timer()
        self._stream.cancel()

    def on_head(self, head: ResponseHead) -> None:
        if head.framing is _UPGRADE:
            self._stop_timer()
        self._sink.on_head(head)

    def on_end(self, trailers: Headers) -> None:
        self._stop_timer()
        self._sink.on_end(trailers)

    def on_error(self, error: DevrouteError) -> None:
        self._stop_timer()
        self._sink.on_error(error)


class AbortUpstream:
    """Responds to every request with one status, and sends it nowhere."""

    def __init__(self, status: int, service: str) -> None:
        error = FaultInjected(
            f"responded with {status}, as the contract asks", hint="its entry has 'abort'", service=service
        )
        body = self._body = b"" if status in BODYLESS else error_body(error)
        fields = b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body) if body else b""
        self._head = b"HTTP/1.1 %d Injected\r\n%b\r\n" % (status, fields)

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        return MadeStream(made(self._head, head.method, self._body, []), sink)
