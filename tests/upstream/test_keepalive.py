"""A peer that vanishes, without a FIN or a reset, is detected on every connection that waits for one."""

import asyncio
import socket
from collections.abc import Callable

import pytest

from devroute.http.aio.connection import Connection
from devroute.upstream.dialer import Dialer
from devroute.upstream.http1_connection import Http1Connection
from devroute.upstream.http1_pool import Http1Pool
from devroute.upstream.http2_connection import Http2UpstreamConnection
from devroute.upstream.http2_pool import Http2Pool
from tests.support.loopback import App, tunnel

#: Seconds within which a vanished peer has to be an error.
WITHIN = 60


def check(connection: Connection) -> None:
    sock = connection.transport.get_extra_info("socket")

    def option(name: str) -> int:
        value: int = sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
        return value

    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert option("TCP_KEEPIDLE") + option("TCP_KEEPINTVL") * option("TCP_KEEPCNT") < WITHIN
    assert 0 < option("TCP_USER_TIMEOUT") < WITHIN * 1000


pytestmark = pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the options are Linux's")


@pytest.mark.parametrize(
    "make",
    [
        lambda loop: Http1Connection(Http1Pool(Dialer("127.0.0.1", 1)), loop),
        lambda loop: Http2UpstreamConnection(Http2Pool(Dialer("127.0.0.1", 1)), loop),
    ],
    ids=["HTTP/1.1", "HTTP/2"],
)
async def test_an_upstream_that_vanishes_is_detected(
    make: Callable[[asyncio.AbstractEventLoop], Connection],
) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    _, connection = await loop.create_connection(lambda: make(loop), *server.sockets[0].getsockname())
    check(connection)
    connection.abort()
    server.close()


async def test_a_laptop_and_a_proxy_that_vanish_are_detected() -> None:
    async with tunnel(App()) as (site, agent):
        check(agent)
        (link,) = site.tunnels.links
        check(link)
