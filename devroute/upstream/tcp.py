"""Bytes to one host and port: a connection behind a 101, in both directions, each of which ends by itself."""

import asyncio
from typing import Final

from devroute.errors import CircuitOpen, DevrouteError, RequestMalformed, UpstreamReset
from devroute.http.aio.paused_connection import PausedConnection
from devroute.http.aio.peer_watch import forget_peer, watch_peer
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, Headers, RequestHead
from devroute.tasks import TaskOwner
from devroute.upstream.dialer import Dialer, peer_vanished
from devroute.upstream.interface import NO_SINK, ResponseSink, UpstreamStream
from devroute.upstream.quota import RefusedStream

#: A server that refuses the bytes of a connection closes it at the first ones: at the latest after so many
#: seconds.
REFUSED_SECONDS: Final = 5.0

_CONNECTED: Final = parse_response_head(
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n", b"GET"
)


class TcpUpstream:
    """One destination, by its name in messages; implements Upstream."""

    def __init__(self, name: str, dialer: Dialer) -> None:
        self._name = name
        self._dialer = dialer
        self._tasks = TaskOwner()

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        if head.framing is not Framing.UPGRADE:
            return RefusedStream(sink, RequestMalformed("a stream to tcp:// begins with an upgrade"))
        stream = self.stream(sink)
        stream.connecting = self._tasks.start(self._connect(stream))
        return stream

    def stream(self, sink: ResponseSink) -> "TcpStream":
        return TcpStream(self._name, sink)

    def objection(self, connection: "TcpConnection") -> DevrouteError | None:
        """Why a connection that was made is not used, None if it is."""
        return None

    async def _connect(self, stream: "TcpStream") -> None:
        loop = asyncio.get_running_loop()
        try:
            connection = await self._dialer.connect(lambda: TcpConnection(stream, loop))
        except DevrouteError as error:
            if isinstance(error, CircuitOpen):
                error.hint = "it is tried again in a moment"
            stream.fail(error)
            return
        if (objection := self.objection(connection)) is None:
            stream.connected(connection)
        else:
            connection.abort()
            stream.fail(objection)

    async def close(self) -> None:
        await self._tasks.close()


class TcpStream:
    """One connection as the client sees it; implements UpstreamStream."""

    __slots__ = (
        "_connection", "_done", "_ended", "_name", "_paused", "_peer_ended", "_sink", "_unsent", "connecting",
    )  # fmt: skip

    def __init__(self, name: str, sink: ResponseSink) -> None:
        self._name = name
        self._sink = sink
        self._connection: TcpConnection | None = None
        self._unsent: list[bytes] = []  # before it is connected; the source is paused after the first
        self._ended = False  # the client's half
        self._peer_ended = False
        self._paused = False
        self._done = False
        self.connecting: asyncio.Task[None] | None = None

    @property
    def ended(self) -> bool:
        """Whether the client has closed its half."""
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
        if unsent and not connection.write_paused:
            self._sink.resume_request()
        if self._ended:
            connection.end()
        if not self._paused:
            connection.resume_reading()

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
        self._sink = NO_SINK
        if self.connecting is not None:
            self.connecting.cancel()
        if self._connection is not None:
            self._connection.abort()

    def pause_response(self) -> None:
        self._paused = True
        if self._connection is not None:
            self._connection.pause_reading()

    def resume_response(self) -> None:
        self._paused = False
        if self._connection is not None:
            self._connection.resume_reading()

    # --- from the connection

    def received(self, data: bytes) -> None:
        if not self._done:
            self._sink.on_data(data)

    def peer_ended(self, *, refused: bool) -> None:
        """The server has closed its half; `refused`: at the client's first bytes."""
        if self._done:
            return
        if refused and (error := self.refused()) is not None:
            self.fail(error)
            return
        self._peer_ended = True
        self._done = self._ended
        self._sink.on_end([])

    def lost(self, cause: Exception | None, *, complete: bool, refused: bool) -> None:
        """The connection is closed; `complete`: in order, after both halves."""
        if not self._done and not complete:
            error = peer_vanished(self._name, cause) or (self.refused() if refused else None)
            self.fail(error or UpstreamReset(f"{self._name} closed the connection"))
        self._done = True
        self._connection = None
        self._sink = NO_SINK

    def refused(self) -> DevrouteError | None:
        """The error for a server that closes the connection at the client's first bytes; None where that is
        an end like any other."""
        return None

    def fail(self, error: DevrouteError) -> None:
        if self._done:
            return
        self._done = True
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
        sink, self._sink = self._sink, NO_SINK
        if not self._peer_ended:
            sink.on_error(error)

    def pause_source(self) -> None:
        if not self._done:
            self._sink.pause_request()

    def resume_source(self) -> None:
        if not self._done:
            self._sink.resume_request()


class TcpConnection(PausedConnection):
    """The connection to the server. It passes nothing on until `resume_reading`."""

    __slots__ = ("_began", "_peer_ended", "_received", "_sent", "_stream")

    def __init__(self, stream: TcpStream, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._stream = stream
        self._began = loop.time()
        self._sent = self._received = self._peer_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        watch_peer(self)

    def send(self, data: bytes) -> None:
        self._sent = True
        self.write(data)

    def end(self) -> None:
        """The client has closed its half."""
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

    def received_end(self) -> bool:
        self._peer_ended = True
        still_open = not self._stream.ended
        self._stream.peer_ended(refused=self._refused)
        return still_open

    def lost(self, error: Exception | None) -> None:
        forget_peer(self)
        complete = error is None and self._peer_ended
        self._stream.lost(error, complete=complete, refused=self._refused)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stream.pause_source()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stream.resume_source()
