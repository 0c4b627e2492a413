"""Local clients of HTTP/1.1 and HTTP/2: listeners of forwards, each for one destination."""

import asyncio
from typing import Final

from devroute.downstream.context import Timeouts
from devroute.downstream.listener import Listener
from devroute.routing.route import Route, Router
from devroute.upstream.interface import Upstream

#: As on the proxy's data port, but for the client's body, which a person may send by hand.
TIMEOUTS: Final = Timeouts(head=10, body=3600, first_byte=3600, idle=3600, keep_alive=620, total=86_400)


def listener(router: Router) -> Listener:
    """What is to be seen of its exchanges, agent/outgoing.py sees."""
    return Listener(router, TIMEOUTS, lambda exchange: None, asyncio.get_running_loop().time())


def route_to(upstream: Upstream, service: str) -> Route:
    """A route whose responses get no headers of devroute: those of the mesh say who answered."""
    reason = f"{service} answered"
    return Route(upstream, service, "the mesh", "service", reason, response_headers=b"")


def adopt(listening: Listener, transport: asyncio.Transport, data: bytes) -> None:
    """Have a listener serve a connection that has sent `data` already."""
    connection = listening.accept()
    transport.set_protocol(connection)
    connection.connection_made(transport)
    connection.received(data)
    connection.flush()
