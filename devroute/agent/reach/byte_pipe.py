"""A local connection whose bytes go to a port in the mesh and back, each half for itself. Nothing that the
client sends is passed on before the other end is connected, so that nothing is lost; at most one read waits.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from devroute.agent.mesh_links import tcp_request
from devroute.agent.reach.mesh_port import MeshPort
from devroute.errors import DevrouteError, ReachPageDenied, UpstreamInvalid
from devroute.http.aio.connection import enable_keepalive
from devroute.http.aio.paused_connection import PausedConnection
from devroute.http.error_response import http1_error
from devroute.http.message import Framing, Headers, ResponseHead
from devroute.upstream.interface import DiscardedRequest, Upstream, UpstreamStream


class Greeting(Protocol):
    """What a client expects before the bytes: of SOCKS, of HTTP's CONNECT, or nothing."""

    def connected(self) -> bytes: ...
    def failed(self, error: DevrouteError) -> bytes: ...


class NoGreeting:
    def connected(self) -> bytes:
        return b""

    def failed(self, error: DevrouteError) -> bytes:
        return b""


#: Seconds that up to so many bytes wait for the rest of what may be a request's first line. Browsers send it
#: at once; clients of other protocols may wait for a response (ZooKeeper's `ruok` has no line feed).
BEGINNING_S: Final = 0.5
_BEGINNING_SIZE: Final = 1024

_NO_GREETING: Final = NoGreeting()
_NO_STREAM: Final = DiscardedRequest()


class BytePipe(PausedConnection):
    """Implements ResponseSink. `pipes`: those that are open; `failed` gets the reason why one
    could not be connected, or broke off. `admit`: whether a client's first bytes may be sent; False while
    that is not known, and raises why they may not."""

    __slots__ = (
        "_admit", "_client_ended", "_connected", "_failed", "_first", "_greeting", "_head", "_pipes",
        "_stream", "_timer", "_to", "_upstream", "_upstream_ended",
    )  # fmt: skip

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pipes: "set[BytePipe]",
        upstream: Upstream,
        to: MeshPort,
        failed: Callable[[str, DevrouteError], None],
        greeting: Greeting = _NO_GREETING,
        admit: Callable[[bytes], bool] | None = None,
    ) -> None:
        super().__init__(loop)
        self._pipes = pipes
        self._upstream = upstream
        self._head = tcp_request(to.address)
        self._failed = failed
        self._to = to
        self._greeting = greeting
        self._admit = admit
        self._first = b""
        self._timer: asyncio.TimerHandle | None = None
        self._stream: UpstreamStream = _NO_STREAM
        self._connected = False
        self._client_ended = False
        self._upstream_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        enable_keepalive(transport)
        self._pipes.add(self)
        self._stream = self._upstream.open(self._head, self)

    def adopt(self, transport: asyncio.Transport, first: bytes) -> None:
        """Take over a connection that has sent `first` already."""
        self._early = first
        transport.set_protocol(self)
        self.connection_made(transport)

    # --- from the client

    def received(self, data: bytes) -> None:
        if self._admit is not None:
            data, self._first = self._first + data, b""
            try:
                if not self._admit(data):
                    self._first = data
                    self._timer = self._timer or self._loop.call_later(BEGINNING_S, self._pass_beginning)
                    return
            except DevrouteError as error:
                self._refuse(error)
                return
            self._admit = None
        self._stream.send_data(data)

    def _pass_beginning(self) -> None:
        if not self._first or b"\n" in self._first:
            return
        if len(self._first) > _BEGINNING_SIZE:
            self._refuse(
                ReachPageDenied(
                    f"the first {len(self._first)} bytes at this port for bytes have no line feed, and may be"
                    " the beginning of a page's request",
                    hint=f"send a line feed within {_BEGINNING_SIZE} bytes",
                )
            )
            return
        first, self._first, self._admit = self._first, b"", None
        self._stream.send_data(first)

    def _refuse(self, error: DevrouteError) -> None:
        """What a page of a web site has sent, or may have."""
        stream, self._stream = self._stream, _NO_STREAM
        stream.cancel()
        self._failed(str(self._to), error)
        self.write(http1_error(error, close=True))
        self.close()

    def received_end(self) -> bool:
        self._client_ended = True
        if self._first:  # no whole request, so no page's
            self._stream.send_data(self._first)
            self._first = b""
        self._stream.send_end([])
        return not self._upstream_ended

    def lost(self, error: Exception | None) -> None:
        self._pipes.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if not (self._client_ended and self._upstream_ended):
            self._stream.cancel()
        self._stream = _NO_STREAM

    def pause_writing(self) -> None:
        self._stream.pause_response()

    def resume_writing(self) -> None:
        self._stream.resume_response()

    # --- from the mesh

    def on_informational(self, head: ResponseHead) -> None: ...

    def on_head(self, head: ResponseHead) -> None:
        if head.framing is not Framing.UPGRADE:
            self._stream.cancel()
            self.on_error(UpstreamInvalid(f"the response is {head.status}, and no connection"))
            return
        self._connected = True
        if greeting := self._greeting.connected():
            self.write(greeting)
        self.resume_request()

    def on_data(self, data: bytes) -> None:
        self.write(data)

    def on_end(self, trailers: Headers) -> None:
        self._upstream_ended = True
        self.flush()
        if self._client_ended or not self.transport.can_write_eof():
            self.close()
        else:
            self.transport.write_eof()

    def on_error(self, error: DevrouteError) -> None:
        self._stream = _NO_STREAM
        self._failed(str(self._to), error)
        if not self._connected and (refusal := self._greeting.failed(error)):
            self.write(refusal)
            self.close()
        else:
            self.abort()

    def pause_request(self) -> None:
        self.pause_reading()

    def resume_request(self) -> None:
        if self._connected:
            self.resume_reading()
