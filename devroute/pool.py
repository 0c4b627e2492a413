"""DirectUpstream: requests over pooled keep-alive HTTP/1.1 connections to one address.

The proxy uses it for direct targets, the agent for the app on the laptop. It never decides who may be
reached: the caller's `permit` sees every address that a name resolves to, and the connection goes to one that
was checked.
"""

import asyncio
import socket
from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from devroute.body import BodyReader, CloseBody, body_reader, encode_last_chunk
from devroute.connection import Connection
from devroute.errors import DevrouteError, TargetOverloaded, TargetUnreachable, UpstreamInvalid, UpstreamReset
from devroute.http1 import (
    END_OF_HEAD,
    MAX_HEAD_BYTES,
    Framing,
    Headers,
    RequestHead,
    parse_response_head,
)
from devroute.upstream import ResponseSink

#: Below the 5 s after which Node.js and uvicorn close an idle connection.
IDLE_SECONDS: Final = 4.0

#: More would only hold sockets of the app; bursts above it open connections of their own.
MAX_IDLE: Final = 128

CONNECT_SECONDS: Final = 5.0

#: A laptop's app that has this many requests open is stuck, and more of them would not help it.
MAX_IN_FLIGHT: Final = 2048

#: Safe to send again on a new connection (RFC 9110 §9.2.2); requests with a body are never sent twice.
_IDEMPOTENT: Final = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))

Permit = Callable[[str, int], None]


class _State(Enum):
    CONNECTING = auto()
    HEAD = auto()
    BODY = auto()
    DONE = auto()


class UpstreamConnection(Connection):
    """One connection: idle in its pool, or serving one stream."""

    __slots__ = ("_pool", "_reading_paused", "idle_since", "stream")

    def __init__(self, pool: "DirectUpstream", loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._pool = pool
        self._reading_paused = False
        self.idle_since = 0.0
        self.stream: DirectStream | None = None

    def received(self, data: bytes) -> None:
        if self.stream is None:
            self.abort()  # nobody asked: whatever it is, it must not become the next request's answer
        else:
            self.stream.received(data)

    def eof_received(self) -> bool:
        return self.stream is not None and self.stream.ended()

    def lost(self, error: Exception | None) -> None:
        self._pool.forget(self)
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.lost()

    def pause_writing(self) -> None:
        if self.stream is not None:
            self.stream.sink.pause_request()

    def resume_writing(self) -> None:
        if self.stream is not None:
            self.stream.sink.resume_request()

    def pause_reading(self) -> None:
        if not self._reading_paused and not self.closed:
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused and not self.closed:
            self._reading_paused = False
            self.transport.resume_reading()


class DirectStream:
    """One request on a connection; implements devroute.upstream.UpstreamStream."""

    __slots__ = (
        "_chunked",
        "_connection",
        "_head",
        "_held",
        "_keep_alive",
        "_paused",
        "_pending",
        "_pool",
        "_reader",
        "_request_done",
        "_reused",
        "_state",
        "sink",
    )

    def __init__(self, pool: "DirectUpstream", head: RequestHead, sink: ResponseSink) -> None:
        self._pool = pool
        self._head = head
        self.sink = sink
        self._connection: UpstreamConnection | None = None
        self._state = _State.CONNECTING
        self._chunked = head.framing is Framing.CHUNKED
        self._request_done = head.framing is Framing.NONE
        self._pending: list[bytes] | None = None
        self._held = b""
        self._reader: BodyReader = CloseBody()
        self._keep_alive = False
        self._paused = False
        self._reused = False

    # --- the request

    def attach(self, connection: UpstreamConnection, *, reused: bool) -> None:
        self._connection = connection
        self._reused = reused
        self._state = _State.HEAD
        connection.stream = self
        connection.write(self._head.wire)
        if self._pending is not None:
            for piece in self._pending:
                connection.write(piece)
            self._pending = None
            self.sink.resume_request()
        if self._paused:
            connection.pause_reading()

    def send_data(self, data: bytes) -> None:
        if self._state is _State.DONE:
            return
        if self._chunked:
            self._write(b"%x\r\n" % len(data))
            self._write(data)
            self._write(b"\r\n")
        else:
            self._write(data)

    def send_end(self, trailers: Headers) -> None:
        if self._state is _State.DONE:
            return
        self._request_done = True
        if self._chunked:
            self._write(encode_last_chunk(trailers))
        elif self._head.framing is Framing.UPGRADE and self._connection is not None:
            self._connection.flush()
            if self._connection.transport.can_write_eof():
                self._connection.transport.write_eof()
            if self._reader.done:
                self._connection.close()

    def _write(self, data: bytes) -> None:
        if self._connection is not None:
            self._connection.write(data)
        elif self._pending is None:
            self._pending = [data]
            self.sink.pause_request()
        else:
            self._pending.append(data)

    def cancel(self) -> None:
        if self._state is _State.DONE:
            return
        self._state = _State.DONE
        self._pending = None
        connection = self._detach()
        if connection is not None:
            connection.abort()

    def pause_response(self) -> None:
        self._paused = True
        if self._connection is not None:
            self._connection.pause_reading()

    def resume_response(self) -> None:
        self._paused = False
        if self._connection is not None:
            self._connection.resume_reading()

    # --- the response

    def received(self, data: bytes) -> None:
        try:
            while self._state is _State.HEAD and data:
                data = self._receive_head(data)
            if self._state is not _State.BODY:
                return
            body, rest = self._reader.feed(data) if data else (b"", b"")
        except UpstreamInvalid as error:
            self.fail(error)
            return
        if body:
            self.sink.on_data(body)
        if self._reader.done and not self.finished:  # the sink may have cancelled
            self._finish(reusable=not rest)

    def _receive_head(self, data: bytes) -> bytes:
        """Take one head off `data`; what is left is body, or the head after a 1xx."""
        if self._held:
            data = self._held + data
        end = data.find(END_OF_HEAD)
        if end < 0:
            if len(data) > MAX_HEAD_BYTES:
                raise UpstreamInvalid(f"the answer's head is longer than {MAX_HEAD_BYTES} bytes")
            self._held = data
            return b""
        self._held = b""
        end += 4
        head = parse_response_head(data[:end], self._head.method)
        if head.status < 200 and head.status != 101:
            self.sink.on_informational(head)
            return data[end:]
        if head.status == 101 and self._head.framing is not Framing.UPGRADE:
            raise UpstreamInvalid("the answer switches protocols (101), but nobody asked for it")
        self._state = _State.BODY
        self._keep_alive = head.keep_alive
        self._reader = body_reader(head.framing, head.length, UpstreamInvalid)
        self.sink.on_head(head)
        return data[end:]

    def ended(self) -> bool:
        """The other side will send nothing more. True keeps our half open."""
        if self._state is _State.BODY and isinstance(self._reader, CloseBody):
            if (
                self._head.framing is Framing.UPGRADE
                and not self._request_done
                and self._connection is not None
            ):
                self._reader.done = True
                self.sink.on_end([])
                return True
            self._finish(reusable=False)
        return False

    def lost(self) -> None:
        """The connection is gone; `ended` ran before where that was in order."""
        self._connection = None
        if self._state is _State.DONE:
            return
        if self._state is _State.HEAD and self._may_retry():
            self._state = _State.CONNECTING
            self._pool.retry(self)
        elif self._state is _State.BODY and self._reader.done:
            self._state = _State.DONE  # an upgrade whose other half had ended before
            self._pool.ended()
        else:
            when = "before it answered" if self._state is _State.HEAD else "in the middle of its answer"
            self.fail(UpstreamReset(f"{self._pool.label} closed the connection {when}"))

    def _may_retry(self) -> bool:
        head = self._head
        return self._reused and not self._held and head.framing is Framing.NONE and head.method in _IDEMPOTENT

    def fail(self, error: DevrouteError) -> None:
        if self._state is _State.DONE:
            return
        self._state = _State.DONE
        connection = self._detach()
        if connection is not None:
            connection.abort()
        self.sink.on_error(error)

    def _finish(self, *, reusable: bool) -> None:
        self._state = _State.DONE
        trailers = self._reader.trailers
        connection = self._detach()
        if connection is not None:
            if reusable and self._keep_alive and self._request_done:
                self._pool.release(connection)
            else:
                connection.close()
        self.sink.on_end(trailers)

    def _detach(self) -> UpstreamConnection | None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.stream = None
        self._pool.ended()
        return connection

    @property
    def finished(self) -> bool:
        return self._state is _State.DONE


class DirectUpstream:
    """A pool of connections to one address; implements devroute.upstream.Upstream.

    `permit(ip, port)` is asked for every address that `host` resolves to and raises TargetDenied; without it
    the host is trusted (the agent's own app). `unreachable` is the class of the error for refused and
    timed-out connections. Times in seconds.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        unreachable: type[DevrouteError] = TargetUnreachable,
        permit: Permit | None = None,
        connect_timeout: float = CONNECT_SECONDS,
        max_in_flight: int = MAX_IN_FLIGHT,
    ) -> None:
        self.label = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self._host = host
        self._port = port
        self._unreachable = unreachable
        self._permit = permit
        self._connect_timeout = connect_timeout
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._idle: list[UpstreamConnection] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    @property
    def busy(self) -> bool:
        """Whether anything is connected, or about to be."""
        return bool(self._in_flight or self._idle or self._tasks)

    @property
    def in_flight(self) -> int:
        return self._in_flight

    def open(self, head: RequestHead, sink: ResponseSink) -> DirectStream:
        self._in_flight += 1
        stream = DirectStream(self, head, sink)
        if self._in_flight > self._max_in_flight:
            message = f"{self.label} has {self._max_in_flight} requests in flight already"
            self._loop.call_soon(stream.fail, TargetOverloaded(message))
        elif (connection := self._take()) is not None:
            stream.attach(connection, reused=True)
        else:
            self._start(self._serve(stream))
        return stream

    def retry(self, stream: DirectStream) -> None:
        """A pooled connection died before any byte of the answer: once more, on a new one."""
        self._start(self._serve(stream))

    async def probe(self) -> None:
        """See that the target accepts connections; the one made for it waits in the pool for the request.

        Raises what `open` would have reported.
        """
        if not self._idle and not self._in_flight:
            self.release(await self._connect())

    def close_idle(self) -> None:
        for connection in list(self._idle):
            connection.close()

    async def close(self) -> None:
        """Close idle connections and give up pending ones; streams that are under way are their owners'."""
        if self._sweep is not None:
            self._sweep.cancel()
        self.close_idle()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- connections

    def _take(self) -> UpstreamConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed and not connection.transport.is_closing():
                return connection
        return None

    def release(self, connection: UpstreamConnection) -> None:
        """Take back a connection whose exchange is complete; a slow client may have left it paused."""
        connection.resume_reading()
        if connection.closed or connection.transport.is_closing():
            return
        if len(self._idle) >= MAX_IDLE:
            connection.close()
            return
        connection.idle_since = self._loop.time()
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

    def forget(self, connection: UpstreamConnection) -> None:
        if connection in self._idle:
            self._idle.remove(connection)

    def ended(self) -> None:
        self._in_flight -= 1

    def _start(self, work: "asyncio._CoroutineLike[None]") -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, stream: DirectStream) -> None:
        try:
            connection = await self._connect()
        except DevrouteError as error:
            stream.fail(error)
            return
        if stream.finished:
            self.release(connection)
        else:
            stream.attach(connection, reused=False)

    async def _connect(self) -> UpstreamConnection:
        try:
            async with asyncio.timeout(self._connect_timeout):
                if self._permit is None:
                    return await self._dial(self._host)
                return await self._dial_permitted(self._permit)
        except TimeoutError:
            why = f"did not accept a connection within {self._connect_timeout:g} s"
        except socket.gaierror:
            why = "is a name that does not resolve"
        except OSError as error:
            why = (
                "refused the connection"
                if isinstance(error, ConnectionRefusedError)
                else f"failed: {error.strerror}"
            )
        raise self._unreachable(f"{self.label} {why}")

    async def _dial_permitted(self, permit: Permit) -> UpstreamConnection:
        """Resolve, check every address, and connect to one that was checked: what a name means may change."""
        found = await self._loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            permit(address, self._port)
        refused: OSError | None = None
        for address in addresses:
            try:
                return await self._dial(address)
            except OSError as error:
                refused = error
        raise refused or OSError("no address")

    async def _dial(self, host: str) -> UpstreamConnection:
        loop = self._loop
        _, connection = await loop.create_connection(
            lambda: UpstreamConnection(self, loop), host, self._port, happy_eyeballs_delay=0.25
        )
        return connection
