"""Requests over a few shared HTTP/2 connections to one address, in cleartext with prior knowledge: for gRPC.

The address is judged by the dialer before each connection.
"""

import asyncio
from collections import deque
from typing import Final

from devroute.errors import DevrouteError, TargetOverloaded, UpstreamInvalid
from devroute.http.message import RequestHead
from devroute.upstream.address_pool import MAX_IN_FLIGHT, AddressPool
from devroute.upstream.dialer import Dialer
from devroute.upstream.http2_connection import Http2UpstreamConnection, Http2UpstreamStream
from devroute.upstream.interface import ResponseSink

#: Servers send GOAWAY before they close, so idle connections can be kept longer than in HTTP/1.1.
IDLE_SECONDS: Final = 60.0

#: For apps that allow few streams on one connection; further requests wait.
MAX_CONNECTIONS: Final = 32


class Http2Pool(AddressPool):
    """A few connections to one address; implements Upstream."""

    def __init__(self, dialer: Dialer, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        super().__init__(dialer, max_in_flight)
        self._connections: list[Http2UpstreamConnection] = []
        self._waiting: deque[Http2UpstreamStream] = deque()
        self._connecting = False  # at most one connection at a time

    @property
    def busy(self) -> bool:
        """Whether any connection is open, or being opened."""
        return bool(self.in_flight or self._connections or self._connecting)

    def open(self, head: RequestHead, sink: ResponseSink) -> Http2UpstreamStream:
        stream = Http2UpstreamStream(self, head, sink)
        if (error := self.overload()) is not None:
            self._loop.call_soon(stream.fail, error)
        else:
            self.queue(stream)
        return stream

    @property
    def connected(self) -> bool:
        """Whether there is a connection for further requests."""
        return any(not connection.draining for connection in self._connections)

    async def probe(self, seconds: float | None = None) -> None:
        """Check that the target speaks HTTP/2, within so many seconds from the connection on; the pool keeps
        the connection for the next request.

        Raises what `open` would have reported.
        """
        if not self.connected:
            self._admit(await self._connect(seconds))

    def close_idle(self) -> None:
        super().close_idle()
        for connection in list(self._connections):
            connection.retire()

    async def close(self) -> None:
        await super().close()
        self._connecting = False

    # --- streams

    def queue(self, stream: Http2UpstreamStream) -> None:
        self._waiting.append(stream)
        self.assign_waiting()

    def assign_waiting(self) -> None:
        """Assign waiting requests to connections, or open another connection for them."""
        waiting = self._waiting
        while waiting:
            if waiting[0].done:
                waiting.popleft()
                continue
            for connection in self._connections:
                if connection.room > 0:
                    break
            else:
                if not self._connecting and len(self._connections) < MAX_CONNECTIONS:
                    self._connecting = True
                    self._tasks.start(self._add_connection())
                return
            waiting.popleft().attach(connection, connection.next_number())

    # --- connections

    async def _add_connection(self) -> None:
        try:
            connection = await self._connect()
            if connection.room <= 0:
                connection.close()
                raise TargetOverloaded(f"{self.label} allows no requests on a new connection")
        except DevrouteError as error:
            self._connecting = False
            waiting, self._waiting = self._waiting, deque()
            for stream in waiting:
                stream.fail(error)
        else:
            self._connecting = False
            self._admit(connection)

    async def _connect(self, seconds: float | None = None) -> Http2UpstreamConnection:
        loop, generation = self._loop, self._generation
        seconds = seconds or self._dialer.connect_timeout
        connection = await self._dialer.connect(lambda: Http2UpstreamConnection(self, loop), "h2")
        connection.generation = generation
        try:
            async with asyncio.timeout(seconds):
                await connection.ready
        except TimeoutError:
            connection.abort()
            raise UpstreamInvalid(
                f"{self.label} accepted the connection, but did not speak HTTP/2 within {seconds:g} s"
            ) from None
        except asyncio.CancelledError:
            connection.abort()
            raise
        return connection

    def _admit(self, connection: Http2UpstreamConnection) -> None:
        if connection.generation != self._generation:
            connection.retire()
        if connection.closed:
            self.assign_waiting()
            return
        connection.idle_since = self._loop.time()
        self._connections.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(IDLE_SECONDS, self._close_idle)
        self.assign_waiting()

    def _close_idle(self) -> None:
        oldest = self._loop.time() - IDLE_SECONDS
        for connection in list(self._connections):
            if not connection.streams and connection.idle_since <= oldest:
                connection.retire()
        again = bool(self._connections)
        self._sweep = self._loop.call_later(IDLE_SECONDS, self._close_idle) if again else None

    def forget(self, connection: Http2UpstreamConnection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self.assign_waiting()
