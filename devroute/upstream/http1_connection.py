"""One HTTP/1.1 connection to an upstream: idle in its pool, or carrying a request (upstream/http1_stream.py).

Knows its pool (upstream/http1_pool.py) only by its base class `Http1PoolBase`.
"""

import asyncio
import select
from collections.abc import Callable
from functools import partial

from devroute.http.aio.connection import MAX_LINGER_SECONDS, Connection
from devroute.http.aio.peer_watch import forget_peer, watch_peer
from devroute.http.message import NO_LIMIT, ResponseHead
from devroute.upstream.http1_stream import Http1PoolBase, Http1Stream


class Http1Connection(Connection):
    """One connection: idle in its pool, or serving one stream. `idle_limit`: seconds for which it may be idle
    before it is used again; `repeated_head`: the last one that the upstream had sent before;
    `unsolicited`: it has sent something without a request."""

    __slots__ = (
        "_is_readable",
        "_lost",
        "_pool",
        "generation",
        "idle_limit",
        "idle_since",
        "repeated_head",
        "stream",
        "unsolicited",
    )

    def __init__(self, pool: Http1PoolBase, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._pool = pool
        self._is_readable: Callable[[], object] | None = None
        self._lost: asyncio.Future[None] | None = None
        self.idle_since = 0.0
        self.idle_limit = NO_LIMIT
        self.generation = 0
        self.unsolicited = False
        self.repeated_head: ResponseHead | None = None
        self.stream: Http1Stream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        watch_peer(self)

    def is_idle(self) -> bool:
        """Whether neither data nor the end has arrived since the last response, even if not read by the loop
        yet. Unsolicited data would become the response to the next request. Costs 0.3 µs."""
        if self._is_readable is None:
            self._is_readable = _make_readable_check(self.transport.get_extra_info("socket").fileno())
        return not self._is_readable()

    def close_in_time(self) -> None:
        """Close once the app has read what was sent, at the latest after MAX_LINGER_SECONDS: its response is
        complete."""
        self.close()
        if self.transport.get_write_buffer_size():
            self._loop.call_later(MAX_LINGER_SECONDS, self.abort)

    async def disconnected(self) -> None:
        """Wait until the connection is closed."""
        if not self.closed:
            self._lost = self._loop.create_future()
            await self._lost

    def received(self, data: bytes) -> None:
        if self.stream is None:
            self.unsolicited = True
            self.abort()  # unsolicited: it must not become the response to the next request
        else:
            self.stream.received(data)

    def eof_received(self) -> bool:
        return self.stream is not None and self.stream.received_eof()

    def lost(self, error: Exception | None) -> None:
        forget_peer(self)
        self._pool.forget(self)
        if self._lost is not None and not self._lost.done():
            self._lost.set_result(None)
        if error is not None and self.stream is not None:
            self.receive_rest()
        stream, self.stream = self.stream, None
        if stream is not None:
            stream.lost(error)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.stream is not None:
            self.stream.sink.pause_request()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.stream is not None:
            self.stream.sink.resume_request()


def _make_readable_check(number: int) -> Callable[[], object]:
    """A function that returns a true value if there is something to read."""
    if not hasattr(select, "poll"):  # Windows
        return lambda: select.select((number,), (), (), 0)[0]
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return partial(poll.poll, 0)
