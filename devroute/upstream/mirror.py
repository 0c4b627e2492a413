"""Copies of requests (`mirror`): the laptop gets one, and nobody waits for its answer.

The sidecar sends the copy while the real service gets the request, and slows both down if the copy is not
read. So this side always reads: what a laptop does not take in time waits here, and beyond a bound the copy
is given up. The sidecar is answered 202 once it has sent all, whatever becomes of the copy.
"""

import asyncio
import re
from collections.abc import Callable
from typing import Final

from devroute.errors import DevrouteError, UpstreamReset, UpstreamTimeout
from devroute.headers import BAGGAGE_VIA
from devroute.http.buffer import Chunk, append_chunk
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.routing.shadow.comparison import ResponseObserver
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream

#: Bytes of one copy that wait for a laptop: a breakpoint's worth of an upload.
MAX_WAITING_BYTES: Final = 32 * 1024 * 1024
#: Bytes of all copies that wait: a proxy has other things to do with its memory.
MAX_WAITING_TOTAL: Final = 128 * 1024 * 1024
#: Copies at work at the same time.
MAX_COPIES: Final = 1024
#: Seconds that a copy may take where the contract says nothing: somebody may look at it in a debugger.
COPY_SECONDS: Final = 300.0

_ACCEPTED: Final = b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"
#: A line of baggage that says something, up to that; and up to the value of our member, where it has one.
_MEMBER: Final = BAGGAGE_VIA.encode()
_BAGGAGE: Final = re.compile(rb"\r\n(?i:baggage):[ \t]*(?=[!-~])")
_VIA: Final = re.compile(rb"\r\n(?i:baggage):(?:[^\r]*[, \t])?%b=(?=[!-~])" % _MEMBER)
_UPGRADE: Final = Framing.UPGRADE
_BODYLESS: Final = (Framing.NONE, Framing.UPGRADE)


#: Asked for each copy whether somebody wants to see its answer.
Watch = Callable[[RequestHead], ResponseObserver | None]


class MirrorBudget:
    """All copies of one proxy: what they may use together."""

    def __init__(self) -> None:
        self.waiting_bytes = 0
        self.active: set[_Copy] = set()

    @property
    def full(self) -> bool:
        return len(self.active) >= MAX_COPIES


class MirrorUpstream:
    """An upstream that gets copies: its answers are thrown away, once `watch` has seen them."""

    def __init__(
        self,
        upstream: Upstream,
        copies: MirrorBudget,
        seconds: float | None,
        watch: Watch | None = None,
        service: str = "",
    ) -> None:
        """`service` is what is copied, where that needs no contract."""
        self._upstream = upstream
        self._mark = service.encode()
        self._watch = watch
        self._copies = copies
        self._seconds = COPY_SECONDS if seconds is None else seconds

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        copy = None
        if not self._copies.full and head.framing is not _UPGRADE:  # a pipe cannot be had twice
            witness = self._watch(head) if self._watch is not None else None
            copy = _Copy(self._upstream, self._marked(head), self._copies, self._seconds, witness)
        return _Received(head, sink, copy)

    def _marked(self, head: RequestHead) -> RequestHead:
        """What the laptop's app asks of the mesh meanwhile is not copied to it: apps with OpenTelemetry pass
        baggage on, but some read its first line only, and keep one member of a name. Contracts have had it
        marked by the sidecar."""
        mark, wire = self._mark, head.wire
        if not mark:
            return head
        if (found := _VIA.search(wire)) is not None:
            wire = b"%b%b~%b" % (wire[: found.end()], mark, wire[found.end() :])
        elif (found := _BAGGAGE.search(wire)) is not None:
            wire = b"%b%b=%b,%b" % (wire[: found.end()], _MEMBER, mark, wire[found.end() :])
        else:
            wire = b"%bbaggage: %b=%b\r\n\r\n" % (wire[:-2], _MEMBER, mark)
        return RequestHead(head.method, head.target, head.framing, head.length, wire)


class _Received:
    """The sidecar's side: reads everything, and says 202 at its end."""

    def __init__(self, head: RequestHead, sink: ResponseSink, copy: "_Copy | None") -> None:
        self._sink = sink
        self._copy = copy
        self._head = parse_response_head(_ACCEPTED, head.method)
        self._handle: asyncio.Handle | None = None
        if head.framing in _BODYLESS:
            self._handle = asyncio.get_running_loop().call_soon(self._accept)

    def _accept(self) -> None:
        self._sink.on_head(self._head)
        self._sink.on_end([])

    def send_data(self, data: bytes) -> None:
        if self._copy is not None:
            self._copy.take(data)

    def send_end(self, trailers: Headers) -> None:
        if self._copy is not None:
            self._copy.take_end(trailers)
        self._handle = asyncio.get_running_loop().call_soon(self._accept)

    def cancel(self) -> None:
        """The sidecar gives up: an incomplete copy must not look complete."""
        if self._handle is not None:
            self._handle.cancel()
        if self._copy is not None:
            self._copy.give_up()

    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...


class _Copy:
    """The laptop's side: sends as fast as the laptop takes it, and holds what it does not."""

    def __init__(
        self,
        upstream: Upstream,
        head: RequestHead,
        copies: MirrorBudget,
        seconds: float,
        witness: ResponseObserver | None,
    ) -> None:
        self._copies = copies
        self._witness = witness
        self._held: list[Chunk] = []
        self._size = 0
        self._paused = False
        self._over = False
        self._trailers: Headers | None = None
        copies.active.add(self)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._late, seconds)
        self._stream = upstream.open(head, self)

    def take(self, data: bytes) -> None:
        if self._over:
            return
        if not self._paused:
            self._stream.send_data(data)
            return
        append_chunk(self._held, data)
        self._size += len(data)
        self._copies.waiting_bytes += len(data)
        if self._size > MAX_WAITING_BYTES or self._copies.waiting_bytes > MAX_WAITING_TOTAL:
            self.give_up()

    def take_end(self, trailers: Headers) -> None:
        if self._over:
            return
        if self._held:
            self._trailers = trailers
        else:
            self._stream.send_end(trailers)

    def _late(self, seconds: float) -> None:
        self.give_up(UpstreamTimeout(f"the copy was not answered within {seconds:g} s"))

    def give_up(self, error: DevrouteError | None = None) -> None:
        if not self._over:
            self._finish()
            self._stream.cancel()
            if self._witness is not None:
                self._witness.on_error(
                    error or UpstreamReset("the copy was given up: it was not read in time")
                )

    def _finish(self) -> None:
        self._over = True
        self._timer.cancel()
        self._copies.active.discard(self)
        self._copies.waiting_bytes -= self._size
        self._held, self._size = [], 0

    # --- from the laptop

    def pause_request(self) -> None:
        self._paused = True

    def resume_request(self) -> None:
        self._paused = False
        held = self._held
        sent = 0
        while sent < len(held) and not self._paused and not self._over:
            data = bytes(held[sent])
            sent += 1
            self._size -= len(data)
            self._copies.waiting_bytes -= len(data)
            self._stream.send_data(data)
        if self._over:
            return
        del held[:sent]
        if not held and self._trailers is not None:
            trailers, self._trailers = self._trailers, None
            self._stream.send_end(trailers)

    def on_head(self, head: ResponseHead) -> None:
        if self._witness is not None:
            self._witness.on_head(head)

    def on_data(self, data: bytes) -> None:
        if self._witness is not None:
            self._witness.on_data(data)

    def on_end(self, trailers: Headers) -> None:
        self._finish()
        if self._witness is not None:
            self._witness.on_end(trailers)

    def on_error(self, error: DevrouteError) -> None:
        self._finish()
        if self._witness is not None:
            self._witness.on_error(error)

    def on_informational(self, head: ResponseHead) -> None: ...
