"""HTTP servers of the demo on loopback, for people and programs on this machine only."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from devroute.inspector.access import is_loopback, is_own_host
from devroute.mesh import testbed

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def _guard(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse a Host that is not this machine's: a web site whose name resolves to 127.0.0.1 (DNS rebinding)
    could read and send what its origin may not."""
    transport = request.transport
    peer, here = (
        transport.get_extra_info(name) if transport is not None else None for name in ("peername", "sockname")
    )
    own = peer and here and is_loopback(peer[0]) and is_own_host(request.headers.get("host"), here[1])
    if not own:
        return web.Response(status=403, text="the demo takes requests to 127.0.0.1 only\n")
    return await handler(request)


@asynccontextmanager
async def served(add_routes: Callable[[web.UrlDispatcher], object]) -> AsyncIterator[str]:
    """The server's URL without a final slash, on a port that the system chooses."""
    application = web.Application(middlewares=[_guard])
    add_routes(application.router)
    async with testbed.app(application) as at:
        yield f"http://{at.host}:{at.port}"
