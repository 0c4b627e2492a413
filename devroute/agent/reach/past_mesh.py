"""The way past the mesh, for names that are outside of it (`--reach-direct`): from this laptop, as without
devroute.
"""

import asyncio

from devroute.agent.reach.mesh_port import MeshPort
from devroute.errors import DevrouteError, TargetUnreachable, UpstreamReset
from devroute.http.aio.connection import Connection, enable_keepalive
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Headers, RequestHead
from devroute.tasks import TaskOwner
from devroute.upstream.dialer import Dialer
from devroute.upstream.interface import ResponseSink, UpstreamStream
from devroute.upstream.negotiating import NegotiatingUpstream

_CONNECTED = parse_response_head(
    b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n", b"GET"
)


class PastTheMesh:
    """To one host and port; implements recorder.App. Bytes (byte_pipe.py) or HTTP."""

    def __init__(self, to: MeshPort) -> None:
        self._dialer = Dialer(to.host, to.port, unreachable=TargetUnreachable)
        self._http = NegotiatingUpstream(self._dialer)
        self._tcp = to.tcp
        self._tasks = TaskOwner()

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        if not self._tcp:
            return self._http.open(head, sink)
        stream = _Stream(sink)
        stream.connecting = self._tasks.start(self._connect(stream))
        return stream

    async def _connect(self, stream: "_Stream") -> None:
        loop = asyncio.get_running_loop()
        try:
            stream.connected(await self._dialer.connect(lambda: _Connection(stream, loop)))
        except DevrouteError as error:
            stream.failed(error)

    async def close(self) -> None:
        await self._tasks.close()
        await self._http.close()


class _Stream:
    """Implements UpstreamStream. Nothing is sent before the 101 (byte_pipe.py)."""

    def __init__(self, sink: ResponseSink) -> None:
        self.sink = sink
        self.connecting: asyncio.Task[None] | None = None
        self.ended = False  # our half
        self.done = False
        self._connection: _Connection | None = None

    def connected(self, connection: "_Connection") -> None:
        self._connection = connection
        self.sink.on_head(_CONNECTED)

    def failed(self, error: DevrouteError) -> None:
        if not self.done:
            self.done = True
            self.sink.on_error(error)

    def send_data(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.write(data)

    def send_end(self, trailers: Headers) -> None:
        self.ended = True
        if self._connection is not None:
            self._connection.end()

    def cancel(self) -> None:
        self.done = True
        if self.connecting is not None:
            self.connecting.cancel()
        if self._connection is not None:
            self._connection.abort()

    def pause_response(self) -> None:
        if self._connection is not None and not self._connection.closed:
            self._connection.transport.pause_reading()

    def resume_response(self) -> None:
        if self._connection is not None and not self._connection.closed:
            self._connection.transport.resume_reading()


class _Connection(Connection):
    __slots__ = ("_peer_ended", "_stream")

    def __init__(self, stream: _Stream, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._stream = stream
        self._peer_ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        enable_keepalive(transport)

    def end(self) -> None:
        self.flush()
        if self._peer_ended:
            self.close()
        elif not self.closed:
            self.transport.write_eof()

    def received(self, data: bytes) -> None:
        if not self._stream.done:
            self._stream.sink.on_data(data)

    def eof_received(self) -> bool:
        self._peer_ended = True
        if not self._stream.done:
            self._stream.done = self._stream.ended
            self._stream.sink.on_end([])
        return not self._stream.ended

    def lost(self, error: Exception | None) -> None:
        if not self._peer_ended or error is not None:
            self._stream.failed(UpstreamReset("the connection was closed"))

    def pause_writing(self) -> None:
        if not self._stream.done:
            self._stream.sink.pause_request()

    def resume_writing(self) -> None:
        if not self._stream.done:
            self._stream.sink.resume_request()
