"""Accepts connections of clients, enforces their timeouts, and drains them: the data port of the proxy."""

import asyncio

from devroute.downstream.context import Context
from devroute.downstream.http1 import Http1ServerConnection


class Listener(Context):
    """What accepts connections, apart from its socket."""

    def accept(self) -> Http1ServerConnection:
        """The protocol of a new connection, of either HTTP version, which its first bytes show."""
        return Http1ServerConnection(self, asyncio.get_running_loop())

    def tick(self, now: float) -> None:
        """Move the clock and enforce timeouts; to be called about once a second."""
        self.now = now
        for connection in list(self.connections):
            connection.check(now)

    def drain(self) -> None:
        """Close idle connections now, and the others when their requests are complete; sets `drained`."""
        self.draining = True
        for connection in list(self.connections):
            connection.drain()
        self.exchange_ended()
