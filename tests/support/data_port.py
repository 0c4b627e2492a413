"""The proxy's data port on loopback, with one upstream or a router of the test's own."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from devroute.downstream.context import CompletedExchange, Timeouts
from devroute.downstream.listener import Listener
from devroute.downstream.sampling import Sampler
from devroute.http.message import InboundRequest
from devroute.routing.route import Route
from devroute.upstream.dialer import Dialer
from devroute.upstream.http2_pool import Http2Pool
from devroute.upstream.interface import Upstream
from devroute.upstream.negotiating import NegotiatingUpstream
from tests.support.loopback import tunnel

#: Only ticks of a test let them pass.
TIMEOUTS: Final = Timeouts(head=60, body=10, first_byte=60, idle=60, keep_alive=60, total=1000)

Router = Callable[[InboundRequest], Route]


def always(upstream: Upstream, *, no_store: bool = False) -> Router:
    """A router that takes every request to one upstream, as alice's laptop."""
    route = Route(upstream, "foo", "alice", "laptop", "foo answered by alice", no_store=no_store)
    return lambda request: route


@asynccontextmanager
async def data_port(
    router: Router,
    observe: Callable[[CompletedExchange], None] = lambda exchange: None,
    sampler: Sampler | None = None,
) -> AsyncIterator[tuple[int, Listener]]:
    """Its number, and the listener. Connections that are left are cut at the end."""
    loop = asyncio.get_running_loop()
    server = Listener(router, TIMEOUTS, observe, loop.time(), sampler=sampler)
    listening = await loop.create_server(server.accept, "127.0.0.1", 0)
    try:
        yield listening.sockets[0].getsockname()[1], server
    finally:
        listening.close()
        for connection in list(server.connections):
            connection.abort()


@asynccontextmanager
async def app_behind(port: int, way: str) -> AsyncIterator[tuple[Upstream, NegotiatingUpstream]]:
    """The upstream of an app at a port of this machine, `direct` or by a `tunnel`, and its connections. As in
    the proxy and the agent, HTTP/2 is there from the start or loaded when it is needed."""
    dialer = Dialer("127.0.0.1", port)
    pool = NegotiatingUpstream(dialer, http2=Http2Pool(dialer) if way == "direct" else None)
    try:
        if way == "direct":
            yield pool, pool
        else:
            async with tunnel(pool) as (where, _):
                yield where.upstream(), pool
    finally:
        await pool.close()
