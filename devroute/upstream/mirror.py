"""Mirrored requests: the laptop gets one, and its response is discarded.

The sidecar mirrors a request while the service gets the original, and slows both down if the mirrored one is
not read. So this side always reads: what a laptop does not take in time is buffered, and beyond a limit the
mirrored request is cancelled. The sidecar gets 202 once it has sent everything, whatever becomes of the rest.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Final, Protocol

from devroute.errors import DevrouteError, UpstreamReset, UpstreamTimeout
from devroute.headers import BAGGAGE_VIA
from devroute.http.baggage import member_value, with_member
from devroute.http.buffer import Chunk, append_chunk
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.upstream.interface import DiscardedRequest, ResponseSink, Upstream, UpstreamStream

#: Bytes of one mirrored request that wait for a laptop: an upload's worth, while a breakpoint stops the app.
MAX_WAITING_BYTES: Final = 32 * 1024 * 1024
#: Bytes of all mirrored requests that wait: the proxy needs its memory for other things too.
MAX_WAITING_TOTAL: Final = 128 * 1024 * 1024
#: Mirrored requests that are open.
MAX_MIRRORED: Final = 1024
#: Seconds for a mirrored request without a timeout in its contract: an engineer may be debugging it.
DEFAULT_SECONDS: Final = 300.0

_ACCEPTED: Final = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"
_MEMBER: Final = BAGGAGE_VIA.encode()
_BAGGAGE: Final = re.compile(rb"\r\n(?i:baggage):[ \t]*([^\r]*)")
_UPGRADE: Final = Framing.UPGRADE
_BODYLESS: Final = (Framing.NONE, Framing.UPGRADE)


class ResponseObserver(Protocol):
    """Sees the laptop's response to one mirrored request, as a ResponseSink would get it."""

    def on_head(self, head: ResponseHead) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def on_end(self, trailers: Headers) -> None: ...
    def on_error(self, error: DevrouteError) -> None: ...


#: Called for each mirrored request; None if its response is not compared.
Watch = Callable[[RequestHead], ResponseObserver | None]


class MirrorBudget:
    """What all mirrored requests of a proxy use, for their common limits."""

    def __init__(self) -> None:
        self.waiting_bytes = 0
        self.active: set[_MirroredRequest] = set()

    @property
    def full(self) -> bool:
        return len(self.active) >= MAX_MIRRORED


class MirrorUpstream:
    """Sends requests to a laptop and discards the responses once `watch`'s observer has seen them."""

    def __init__(
        self,
        upstream: Upstream,
        budget: MirrorBudget,
        seconds: float | None,
        watch: Watch | None = None,
        service: str = "",
    ) -> None:
        """`service` is the mirrored service's name for requests without a contract."""
        self._upstream = upstream
        self._service = service.encode()
        self._watch = watch
        self._budget = budget
        self._seconds = DEFAULT_SECONDS if seconds is None else seconds

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        mirrored = None
        # An upgraded connection cannot be mirrored.
        if not self._budget.full and head.framing is not _UPGRADE:
            observer = self._watch(head) if self._watch is not None else None
            mirrored = _MirroredRequest(
                self._upstream, self._with_via(head), self._budget, self._seconds, observer
            )
        return _AcceptingStream(head, sink, mirrored)

    def _with_via(self, head: RequestHead) -> RequestHead:
        """The head with `service` in its baggage, so that requests of the laptop's app to this service are
        not mirrored in turn: apps with OpenTelemetry forward baggage. Some read only its first line, hence
        one line. With a contract the sidecar has done this."""
        if not self._service:
            return head
        baggage = b",".join(filter(None, _BAGGAGE.findall(head.wire)))
        via = member_value(baggage, _MEMBER)
        baggage = with_member(baggage, _MEMBER, b"%b~%b" % (via, self._service) if via else self._service)
        wire = b"%bbaggage: %b\r\n\r\n" % (_BAGGAGE.sub(b"", head.wire)[:-2], baggage)
        return RequestHead(head.method, head.target, head.framing, head.length, wire, head.span)


class _AcceptingStream(DiscardedRequest):
    """The sidecar's side: reads the whole request, then responds 202."""

    def __init__(self, head: RequestHead, sink: ResponseSink, mirrored: "_MirroredRequest | None") -> None:
        self._sink = sink
        self._mirrored = mirrored
        self._head = parse_response_head(_ACCEPTED, head.method)
        self._handle: asyncio.Handle | None = None
        if head.framing in _BODYLESS:
            self._handle = asyncio.get_running_loop().call_soon(self._accept)

    def _accept(self) -> None:
        self._handle = None  # it refers to this
        self._sink.on_head(self._head)
        self._sink.on_end([])

    def send_data(self, data: bytes) -> None:
        if self._mirrored is not None:
            self._mirrored.send_data(data)

    def send_end(self, trailers: Headers) -> None:
        if self._mirrored is not None:
            self._mirrored.send_end(trailers)
        self._handle = asyncio.get_running_loop().call_soon(self._accept)

    def cancel(self) -> None:
        """The sidecar cancels: the laptop must not take an incomplete request for complete."""
        if self._handle is not None:
            self._handle.cancel()
        if self._mirrored is not None:
            self._mirrored.cancel()


class _MirroredRequest:
    """The laptop's side: sends as fast as the laptop reads, buffers the rest, and passes the response on to
    the observer."""

    def __init__(
        self,
        upstream: Upstream,
        head: RequestHead,
        budget: MirrorBudget,
        seconds: float,
        observer: ResponseObserver | None,
    ) -> None:
        self._budget = budget
        self._observer = observer = observer or _UNOBSERVED
        self.on_head = observer.on_head
        self.on_data = observer.on_data
        self._waiting: list[Chunk] = []
        self._size = 0  # bytes in _waiting
        self._paused = False
        self._finished = False
        self._trailers: Headers | None = None
        budget.active.add(self)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._timed_out, seconds)
        self._stream = upstream.open(head, self)

    # --- from the sidecar

    def send_data(self, data: bytes) -> None:
        if self._finished:
            return
        if not self._paused:
            self._stream.send_data(data)
            return
        append_chunk(self._waiting, data)
        self._size += len(data)
        self._budget.waiting_bytes += len(data)
        if self._size > MAX_WAITING_BYTES or self._budget.waiting_bytes > MAX_WAITING_TOTAL:
            self.cancel()

    def send_end(self, trailers: Headers) -> None:
        if self._finished:
            return
        if self._waiting:
            self._trailers = trailers
        else:
            self._stream.send_end(trailers)

    def _timed_out(self, seconds: float) -> None:
        self.cancel(UpstreamTimeout(f"the mirrored request got no response within {seconds:g} s"))

    def cancel(self, error: DevrouteError | None = None) -> None:
        if not self._finished:
            self._finish()
            self._stream.cancel()
            self._observer.on_error(
                error or UpstreamReset("the mirrored request was cancelled: it was not read in time")
            )

    def _finish(self) -> None:
        self._finished = True
        self._timer.cancel()
        self._budget.active.discard(self)
        self._budget.waiting_bytes -= self._size
        self._waiting, self._size = [], 0

    # --- from the laptop

    def pause_request(self) -> None:
        self._paused = True

    def resume_request(self) -> None:
        self._paused = False
        waiting = self._waiting
        sent = 0
        while sent < len(waiting) and not self._paused and not self._finished:
            data = bytes(waiting[sent])
            sent += 1
            self._size -= len(data)
            self._budget.waiting_bytes -= len(data)
            self._stream.send_data(data)
        if self._finished:
            return
        del waiting[:sent]
        if not waiting and self._trailers is not None:
            trailers, self._trailers = self._trailers, None
            self._stream.send_end(trailers)

    def on_end(self, trailers: Headers) -> None:
        self._finish()
        self._observer.on_end(trailers)

    def on_error(self, error: DevrouteError) -> None:
        self._finish()
        self._observer.on_error(error)

    def on_informational(self, head: ResponseHead) -> None: ...


class _Unobserved:
    def on_head(self, head: ResponseHead) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def on_end(self, trailers: Headers) -> None: ...
    def on_error(self, error: DevrouteError) -> None: ...


_UNOBSERVED: Final = _Unobserved()
