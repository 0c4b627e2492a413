"""Requests over pooled keep-alive HTTP/1.1 connections to one address: a direct target, or a laptop's app.

The address is judged by the dialer before each connection.
"""

import asyncio
import contextlib
from typing import Final

from devroute.errors import DevrouteError
from devroute.http.message import RequestHead
from devroute.upstream.address_pool import MAX_IN_FLIGHT
from devroute.upstream.dialer import Dialer
from devroute.upstream.http1_connection import Http1Connection
from devroute.upstream.http1_stream import Http1PoolBase, Http1Stream
from devroute.upstream.interface import ResponseSink

#: Less than the 5 s after which Node.js and uvicorn close idle connections.
IDLE_SECONDS: Final = 4.0

#: The same for requests that cannot be sent once more if the app closes the connection at that moment: less
#: than the 2 s of gunicorn.
UNREPEATABLE_IDLE_SECONDS: Final = 1.0

#: An app that has not responded on a new connection for so long may serve one connection at a time, and wait
#: for a request on an idle one.
BLOCKED_SECONDS: Final = 0.05

#: How long `probe` watches a new connection: the port of a container accepts it, and closes it once it finds
#: that the app inside does not listen yet.
WATCH_SECONDS: Final = 0.02

#: More would only occupy sockets of the app; requests beyond it open new connections.
MAX_IDLE: Final = 128


class Http1Pool(Http1PoolBase):
    """A pool of connections to one address; implements Upstream."""

    def __init__(self, dialer: Dialer, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        super().__init__(dialer, max_in_flight)
        self._idle: list[Http1Connection] = []
        # Requests on connections that have never carried a response.
        self._unanswered: dict[Http1Stream, None] = {}
        self._unblocking: asyncio.TimerHandle | None = None

    @property
    def busy(self) -> bool:
        """Whether any connection is open, or being opened."""
        return bool(self.in_flight or self._idle or self._tasks.active)

    def open(self, head: RequestHead, sink: ResponseSink) -> Http1Stream:
        stream = Http1Stream(self, head, sink)
        if (error := self.overload()) is not None:
            self._loop.call_soon(stream.fail, error)
        elif (connection := self._take(stream)) is not None:
            stream.attach(connection, reused=True)
        else:
            self._tasks.start(self._serve(stream))
        return stream

    def retry(self, stream: Http1Stream) -> None:
        """Send the request once more: a pooled connection was closed before any byte of the response."""
        self._tasks.start(self._serve(stream))

    async def probe(self) -> None:
        """Check that the target accepts connections and keeps them open; the pool keeps the connection for
        the next request.

        Raises what `open` would have reported, or the dialer's `unreachable`.
        """
        if self._idle or self.in_flight:
            return
        connection = await self._connect(patient=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WATCH_SECONDS):
                await connection.disconnected()
        if connection.closed and not connection.unsolicited:  # as HTTP/2's settings of a gRPC app
            raise self._dialer.closes_at_once()
        self.release(connection)

    async def close(self) -> None:
        if self._unblocking is not None:
            self._unblocking.cancel()
        await super().close()

    def close_idle(self) -> None:
        super().close_idle()
        for connection in list(self._idle):
            connection.close()

    # --- connections

    def _take(self, stream: Http1Stream) -> Http1Connection | None:
        now = self._loop.time()
        connections = self._idle
        while connections:
            connection = connections.pop()
            if connection.closed:
                continue
            # The others are idle for longer. A connection that is too old is closed, not kept for another
            # request: an app that serves one connection at a time would wait for that.
            idle = now - connection.idle_since
            old = idle > IDLE_SECONDS or (idle > UNREPEATABLE_IDLE_SECONDS and not stream.repeatable)
            if not old and idle <= connection.idle_limit and connection.is_idle():
                return connection
            connection.close()
        return None

    def release(self, connection: Http1Connection) -> None:
        """Take back a connection whose response is complete; a slow client may have left it paused."""
        connection.resume_reading()
        if connection.closed:
            return
        if (
            connection.generation != self._generation
            or len(self._idle) >= MAX_IDLE
            or connection.transport.get_write_buffer_size()
        ):
            # Permitted by an older policy, or with unsent data that would delay the next request.
            connection.close_in_time()
            return
        connection.idle_since = self._loop.time()
        if connection.idle_limit <= 0:
            connection.close()
            return
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = self._loop.call_later(IDLE_SECONDS, self._close_idle)

    def _close_idle(self) -> None:
        oldest = self._loop.time() - IDLE_SECONDS
        for connection in [c for c in self._idle if c.idle_since <= oldest]:
            self._idle.remove(connection)
            connection.close()
        again = bool(self._idle)
        self._sweep = self._loop.call_later(IDLE_SECONDS, self._close_idle) if again else None

    def forget(self, connection: Http1Connection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def answered(self, stream: Http1Stream) -> None:
        self._unanswered.pop(stream, None)

    def _watch_for_a_block(self) -> None:
        if self._unblocking is None:
            self._unblocking = self._loop.call_later(BLOCKED_SECONDS, self._unblock)

    def _unblock(self) -> None:
        """Close idle connections while a request on a new one waits: the app may serve one at a time. Those
        that are in use again at once stay, since other requests may just be slow."""
        self._unblocking = None
        if self._unanswered:
            latest = self._loop.time() - BLOCKED_SECONDS
            for connection in list(self._idle):
                if connection.idle_since <= latest:
                    connection.close()
            self._watch_for_a_block()

    async def _serve(self, stream: Http1Stream) -> None:
        try:
            connection = await self._connect()
        except DevrouteError as error:
            self.understood = False
            stream.fail(error)
            return
        if stream.finished:
            self.release(connection)
        else:
            self._unanswered[stream] = None
            self._watch_for_a_block()
            stream.attach(connection, reused=False)

    async def _connect(self, *, patient: bool = True) -> Http1Connection:
        generation = self._generation
        connection = await self._dialer.connect(lambda: Http1Connection(self, self._loop), patient=patient)
        connection.generation = generation
        return connection
