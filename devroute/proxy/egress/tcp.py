"""What a laptop reaches by TCP: the proxy connects to the address that policy has judged, and passes bytes on
in both directions, each of which ends by itself.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from devroute.contract.destination import Destination
from devroute.errors import (
    CircuitOpen,
    DevrouteError,
    MeshTlsRequired,
    ReachDenied,
    RequestMalformed,
    UpstreamReset,
)
from devroute.http.aio.connection import Connection, enable_keepalive
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, Headers, RequestHead
from devroute.tasks import TaskOwner
from devroute.upstream.dialer import Dialer
from devroute.upstream.interface import ResponseSink, UpstreamStream
from devroute.upstream.quota import RefusedStream

#: A service that accepts the mesh's TLS only closes a connection at its first bytes: at the latest after so
#: many seconds.
REFUSED_SECONDS: Final = 5.0

_CONNECTED: Final = parse_response_head(
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n", b"GET"
)


class TcpUpstream:
    """One destination; implements Upstream."""

    def __init__(self, destination: Destination, dialer: Dialer) -> None:
        self._destination = destination
        self._dialer = dialer
        self._tasks = TaskOwner()

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        if head.framing is not Framing.UPGRADE:
            return RefusedStream(sink, RequestMalformed("a stream to tcp:// begins with an upgrade"))
        stream = TcpStream(self._destination, sink)
        stream.connecting = self._tasks.start(self._connect(stream))
        return stream

    async def _connect(self, stream: "TcpStream") -> None:
        loop = asyncio.get_running_loop()
        try:
            connection = await self._dialer.connect(lambda: TcpConnection(stream, loop))
        except DevrouteError as error:
            if isinstance(error, CircuitOpen):
                error.hint = "it is tried again in a moment"
            stream.fail(error)
            return
        if is_own_machine(connection.transport.get_extra_info):
            connection.abort()
            stream.fail(_own(self._destination))
        else:
            stream.connected(connection)

    async def close(self) -> None:
        await self._tasks.close()


def is_own_machine(info: Callable[[str], object]) -> bool:
    """Whether a connection leads to the machine that it comes from: both ends have one address. `info`:
    get_extra_info of its transport."""
    own, peer = info("sockname"), info("peername")
    return isinstance(own, tuple) and isinstance(peer, tuple) and own[0] == peer[0]


def _own(destination: Destination) -> ReachDenied:
    message = f"{destination} leads to the proxy itself: no laptop may reach that"
    return ReachDenied(message, hint="name another service", service=str(destination))


class TcpStream:
    """One connection as the laptop sees it; implements UpstreamStream."""

    __slots__ = (
        "_connection", "_destination", "_done", "_ended", "_paused", "_peer_ended", "_sink", "_unsent",
        "connecting",
    )  # fmt: skip

    def __init__(self, destination: Destination, sink: ResponseSink) -> None:
        self._destination = destination
        self._sink = sink
        self._connection: TcpConnection | None = None
        self._unsent: list[bytes] = []  # before it is connected; the source is paused after the first
        self._ended = False  # the laptop's half
        self._peer_ended = False
        self._paused = False
        self._done = False
        self.connecting: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether the laptop has closed its half."""
        return self._ended

    def connected(self, connection: "TcpConnection") -> None:
        self.connecting = None
        if self._done:
            connection.abort()
            return
        self._connection = connection
        self._sink.on_head(_CONNECTED)
        unsent, self._unsent = self._unsent, []
        for data in unsent:
            connection.send(data)
        if unsent:
            self._sink.resume_request()
        if self._ended:
            connection.end()
        if not self._paused:
            connection.resume()

    def send_data(self, data: bytes) -> None:
        if self._done:
            return
        if self._connection is not None:
            self._connection.send(data)
            return
        self._unsent.append(data)
        if len(self._unsent) == 1:
            self._sink.pause_request()

    def send_end(self, trailers: Headers) -> None:
        self._ended = True
        if self._connection is not None:
            self._connection.end()

    def cancel(self) -> None:
        self._done = True
        if self.connecting is not None:
            self.connecting.cancel()
        if self._connection is not None:
            self._connection.abort()

    def pause_response(self) -> None:
        self._paused = True
        if self._connection is not None:
            self._connection.pause()

    def resume_response(self) -> None:
        self._paused = False
        if self._connection is not None:
            self._connection.resume()

    # --- from the connection

    def received(self, data: bytes) -> None:
        if not self._done:
            self._sink.on_data(data)

    def peer_ended(self, *, refused: bool) -> None:
        """The service has closed its half; `refused`: at the laptop's first bytes."""
        if self._done:
            return
        if refused:
            self.fail(self._refused())
            return
        self._peer_ended = True
        self._done = self._ended
        self._sink.on_end([])

    def lost(self, *, complete: bool, refused: bool) -> None:
        """The connection is closed; `complete`: in order, after both halves."""
        if not self._done and not complete:
            where = self._destination
            self.fail(self._refused() if refused else UpstreamReset(f"{where} closed the connection"))
        self._done = True
        self._connection = None

    def _refused(self) -> MeshTlsRequired:
        where = self._destination
        return MeshTlsRequired(
            f"{where} closed the connection at its first bytes, as under STRICT mTLS",
            hint="it may accept the mesh's TLS only (PeerAuthentication STRICT): the platform team exempts"
            " the port (portLevelMtls), or it is reached by HTTP; or it expected another protocol",
            service=str(where),
        )

    def fail(self, error: DevrouteError) -> None:
        if self._done:
            return
        self._done = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        if not self._peer_ended:
            self._sink.on_error(error)

    def pause_source(self) -> None:
        if not self._done:
            self._sink.pause_request()

    def resume_source(self) -> None:
        if not self._done:
            self._sink.resume_request()


class TcpConnection(Connection):
    """The proxy's connection to a service. It reads nothing until `resume`."""

    __slots__ = ("_began", "_peer_ended", "_reading", "_received", "_sent", "_stream")

    def __init__(self, stream: TcpStream, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._stream = stream
        self._began = loop.time()
        self._sent = self._received = self._peer_ended = False
        self._reading = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        enable_keepalive(transport)
        self.pause()

    def send(self, data: bytes) -> None:
        self._sent = True
        self.write(data)

    def end(self) -> None:
        """The laptop has closed its half."""
        self.flush()
        if self._peer_ended:
            self.close()
        elif not self.closed and self.transport.can_write_eof():
            self.transport.write_eof()

    def received(self, data: bytes) -> None:
        self._received = True
        self._stream.received(data)

    @property
    def _refused(self) -> bool:
        early = self._loop.time() - self._began < REFUSED_SECONDS
        return self._sent and not self._received and early and not self._stream.ended

    def eof_received(self) -> bool:
        """True keeps the laptop's half open."""
        self._peer_ended = True
        still_open = not self._stream.ended
        self._stream.peer_ended(refused=self._refused)
        return still_open

    def lost(self, error: Exception | None) -> None:
        complete = error is None and self._peer_ended
        self._stream.lost(complete=complete, refused=self._refused)

    def pause_writing(self) -> None:
        self._stream.pause_source()

    def resume_writing(self) -> None:
        self._stream.resume_source()

    def pause(self) -> None:
        if self._reading and not self.closed:
            self._reading = False
            self.transport.pause_reading()

    def resume(self) -> None:
        if not self._reading and not self.closed:
            self._reading = True
            self.transport.resume_reading()
