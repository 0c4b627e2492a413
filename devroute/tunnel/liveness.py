"""Checks whether the other end of a link still responds: a PING after a time without bytes, an error after a
longer one.

Owns the link's liveness timer and its outstanding ping. Neither writes nor closes: the link does both.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Liveness:
    """Seconds without a byte from the peer until a PING is sent, and until the link counts as dead."""

    ping_after: float = 10.0
    dead_after: float = 15.0


AGENT_LIVENESS: Final = Liveness()

#: Longer than the agent's: the agent pings first, and its PING shows the proxy that it is alive. That halves
#: the cost of thousands of idle links.
PROXY_LIVENESS: Final = Liveness(ping_after=12.0)

#: The share of the time until a PING by which it may be early: the loop looks at all links of such a span at
#: once. To wake up for each of thousands of idle links costs more than the look.
EARLY: Final = 1 / 500


class Heartbeat:
    """`send_ping()` sends a PING; `dead(error message)` is called once, when the peer has been idle for too
    long. The link sets `last_received` and clears `ping_outstanding` whenever bytes arrive."""

    __slots__ = (
        "_dead",
        "_limits",
        "_loop",
        "_pong",
        "_send_ping",
        "_timer",
        "last_received",
        "observe",
        "ping_outstanding",
        "pinged_at",
        "round_trip",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        limits: Liveness,
        send_ping: Callable[[], None],
        dead: Callable[[str], None],
    ) -> None:
        self.last_received = loop.time()
        self.ping_outstanding = False
        self.pinged_at = 0.0  # when the newest PING was sent, by the loop's clock; 0: never
        self.round_trip: float | None = None  # of the newest PING that was answered, in seconds
        self.observe: Callable[[float], object] | None = None  # called with each round trip
        self._loop = loop
        self._limits = limits
        self._send_ping = send_ping
        self._dead = dead
        self._timer: asyncio.TimerHandle | None = None  # None: not started yet, or stopped
        self._pong: asyncio.Future[None] | None = None

    def start(self) -> None:
        self.last_received = self._loop.time()
        self._schedule()

    def stop(self) -> None:
        """The link has ended; a ping that is awaited is done."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._resolve()

    @property
    def idle(self) -> float:
        """Seconds since the last byte was received."""
        return self._loop.time() - self.last_received

    def ping(self) -> "asyncio.Future[None]":
        """Send a PING unless one is outstanding. Done when its PONG arrives, which sets `round_trip`, or when
        the link ends."""
        if self._pong is None or self._pong.done():
            self._pong = self._loop.create_future()
            self.pinged_at = self._loop.time()
            self._send_ping()
        return self._pong

    def pong_received(self) -> None:
        if self._pong is not None and not self._pong.done():
            self.round_trip = self._loop.time() - self.pinged_at
            if self.observe is not None:
                self.observe(self.round_trip)
            self._resolve()

    def probe(self, within: float) -> None:
        """Ping now; the link counts as dead unless a byte arrives within so many seconds."""
        if self._timer is not None:
            self.ping_outstanding = True
            self.last_received = self._loop.time() - self._limits.dead_after + within
            self.ping()
            self._timer.cancel()
            self._schedule()

    def _resolve(self) -> None:
        if self._pong is not None and not self._pong.done():
            self._pong.set_result(None)

    def _schedule(self) -> None:
        due = self.last_received + self._limits.dead_after if self.ping_outstanding else self._ping_due
        self._timer = self._loop.call_at(due, self._check)

    @property
    def _ping_due(self) -> float:
        due = self.last_received + self._limits.ping_after
        return due - due % (self._limits.ping_after * EARLY)

    def _check(self) -> None:
        idle = self.idle
        if idle >= self._limits.dead_after:
            self._dead(f"the tunnel has been idle for {idle:.0f} s")
            return
        if not self.ping_outstanding and self._loop.time() >= self._ping_due:
            self.ping_outstanding = True
            self.ping()
        self._schedule()
