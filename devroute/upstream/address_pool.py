"""What the pools of both HTTP versions share: connections to one address, and a limit of open requests."""

import asyncio
from typing import Final

from devroute.errors import TargetOverloaded
from devroute.tasks import TaskOwner
from devroute.upstream.dialer import Dialer

#: A laptop's app with this many open requests is stuck.
MAX_IN_FLIGHT: Final = 2048


def is_tls(data: bytes) -> bool:
    """Whether these are the first bytes of a server that speaks TLS: a handshake or an alert (RFC 8446
    §5.1)."""
    return data[:2] in (b"\x16\x03", b"\x15\x03")


class AddressPool:
    """Counts requests in flight. Never decides which address may be reached: the dialer's `permit` does.

    Each connection has the generation in which it was begun: one of an older generation serves no further
    request."""

    def __init__(self, dialer: Dialer, max_in_flight: int = MAX_IN_FLIGHT) -> None:
        self._dialer = dialer
        self.label = dialer.label
        self.max_in_flight = max_in_flight
        self.in_flight = 0
        self._generation = 0  # the number of calls of `close_idle`
        self._tasks = TaskOwner()
        self._sweep: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()

    def overload(self) -> TargetOverloaded | None:
        """Count one more request; the error for it if there are too many."""
        self.in_flight += 1
        if self.in_flight <= self.max_in_flight:
            return None
        return TargetOverloaded(f"{self.label} has {self.max_in_flight} requests in flight already")

    def ended(self) -> None:
        """A request has ended, in whatever way."""
        self.in_flight -= 1

    def close_idle(self) -> None:
        """Close idle connections, and use those that are busy or being opened for no further request."""
        self._generation += 1

    async def close(self) -> None:
        """Close idle connections and cancel those being opened; open streams belong to their sinks."""
        if self._sweep is not None:
            self._sweep.cancel()
        self.close_idle()
        await self._tasks.close()
