"""Detects whether the laptop's link still works after the laptop has slept or changed its network.

Probes the links at once, and wakes the dialler where waiting has become pointless. Never dials
(link_keeper.py does), and ends a link only if its local address is gone.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Final

from devroute.agent.network import Network, is_local_address
from devroute.agent.ui.reporter import Reporter
from devroute.errors import UpstreamReset
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.liveness import PROXY_LIVENESS

#: How often the clocks are compared, the jump that means that the laptop slept, and how soon the link then
#: has to answer a ping. In seconds.
WATCH_SECONDS: Final = 0.25
SLEPT_SECONDS: Final = 5.0
PROBE_SECONDS: Final = 2.0

#: After so many seconds of sleep the proxy has ended the link, which need not be probed first.
LOST_SECONDS: Final = PROXY_LIVENESS.dead_after

#: The same when the network is back: TCP may wait longer before it retransmits, and a new link takes two
#: round trips.
BACK_SECONDS: Final = 1.0

#: The same for a change that need not concern the link, such as a container's interface.
DISTURBED_SECONDS: Final = 4.0

#: The round trip is measured after so many comparisons of the clocks: as often as an idle link pings anyway.
ROUND_TRIP_TICKS: Final = 40


class LinkMonitor:
    """`woken` is set when waiting to dial has become pointless; the waiting side clears it."""

    def __init__(
        self,
        reporter: Reporter,
        loop: asyncio.AbstractEventLoop,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.woken = asyncio.Event()
        self._reporter = reporter
        self._loop = loop
        self._wall_clock = wall_clock
        self._links: list[AgentLink] = []
        self._network = Network(self._changed, self._disturbed)
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0

    def follow(self, link: AgentLink) -> None:
        """Watch this link from now on, too, and the route to its server."""
        self._links = [*self._open(), link]
        self._network.follow(link.transport.get_extra_info("peername")[:2])

    def on_the_network(self) -> AbstractContextManager[None]:
        """Learn of network changes at once, where the system reports them."""
        return self._network.watched(self._loop)

    def start(self) -> None:
        """Compare clocks and check the network periodically."""
        self._tick(self._wall_clock(), self._loop.time())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # --- time

    def _tick(self, wall: float, steady: float) -> None:
        """While a laptop sleeps, its monotonic clock stops, or it runs on and this call comes late: either
        way one of the clocks has advanced by more than the delay."""
        now_wall, now_steady = self._wall_clock(), self._loop.time()
        self._timer = self._loop.call_later(WATCH_SECONDS, self._tick, now_wall, now_steady)
        slept = max(now_wall - wall, now_steady - steady) - WATCH_SECONDS
        if slept > SLEPT_SECONDS:
            self.woken.set()
            if slept > LOST_SECONDS:
                for link in self._open():
                    error = UpstreamReset(f"the laptop has slept for {slept:.0f} s")
                    link.close_with(error, send_close=False)
            else:
                self._probe(PROBE_SECONDS)
        self._network.check()
        self._ticks += 1
        if self._ticks % ROUND_TRIP_TICKS == 1 and (links := self._welcomed()):
            links[0].heartbeat.ping().add_done_callback(self._show_round_trip)

    def _show_round_trip(self, asked: asyncio.Future[None]) -> None:
        if links := self._welcomed():
            self._reporter.round_trip(links[0].heartbeat.round_trip)
            self._reporter.flush()

    def _open(self) -> list[AgentLink]:
        """The links that have not ended, the oldest first."""
        return [link for link in self._links if link.close_error is None]

    def _welcomed(self) -> list[AgentLink]:
        """Those of the open links on which a PING is allowed: not before WELCOME (tunnel/PROTOCOL.md)."""
        return [link for link in self._open() if link.welcome.done()]

    def _probe(self, within: float) -> None:
        for link in self._welcomed():
            link.heartbeat.probe(within)

    # --- the network

    def _changed(self, before: str | None, now: str | None) -> None:
        """The route to the server has changed: wake the dialler, and probe the links.

        A connection from an address that the laptop no longer has is lost. Without any network it may only be
        roaming, and return with the same address."""
        self._reporter.network(before, now)
        if now is not None:
            self.woken.set()
        for link in self._open():
            ours = link.transport.get_extra_info("sockname")[0]
            if now is not None and not is_local_address(ours):
                link.close_with(UpstreamReset("the network has changed"), send_close=False)
        self._probe(PROBE_SECONDS if now is None else BACK_SECONDS)

    def _disturbed(self) -> None:
        """A cable or an interface: the route is the same, and may have stopped or started to work."""
        self._probe(DISTURBED_SECONDS)
        if not self._welcomed():
            self.woken.set()
