"""Whether the laptop's link still works: it may have slept, or be in another network.

Owns those doubts, and makes the link prove itself at once; whoever waits to dial again is told when that has
become pointless. Never dials (agent/app.py), and ends a link only where its address is gone.
"""

import asyncio
import time
from contextlib import AbstractContextManager
from typing import Final

from devroute.agent.network import Network, is_local_address
from devroute.agent.ui.reporter import Reporter
from devroute.errors import UpstreamReset
from devroute.tunnel.agent_link import AgentLink

#: How often the clocks are compared, the jump that means the laptop slept, and how soon the link then has to
#: answer. In seconds.
WATCH_SECONDS: Final = 1.0
SLEPT_SECONDS: Final = 5.0
PROBE_SECONDS: Final = 2.0

#: How soon the link has to answer when the network is back, in seconds: TCP itself may wait longer before it
#: tries again, and a new link is made in two round trips.
BACK_SECONDS: Final = 1.0

#: The same where something about the network changed that need not concern us: a container's interface.
STIRRED_SECONDS: Final = 4.0

#: After so many looks at the clock the tunnel is asked how long its round trip takes: as often as an idle one
#: asks for a sign anyway.
ASK_TICKS: Final = 10


class LinkMonitor:
    """`woken` is set when something happened that makes waiting pointless; who waits clears it."""

    def __init__(self, report: Reporter, loop: asyncio.AbstractEventLoop) -> None:
        self.woken = asyncio.Event()
        self._report = report
        self._loop = loop
        self._link: AgentLink | None = None
        self._network = Network(self._moved, self._stirred)
        self._timer: asyncio.TimerHandle | None = None
        self._ticks = 0

    def follow(self, link: AgentLink) -> None:
        """Watch this link from now on, and the way to its server."""
        self._link = link
        self._network.follow(link.transport.get_extra_info("peername")[:2])

    def on_the_network(self) -> AbstractContextManager[None]:
        """Hear at once what the system says of its network, where it says so."""
        return self._network.watched(self._loop)

    def start(self) -> None:
        """Look at the clock and the network now and then."""
        self._tick(time.time(), self._loop.time())

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # --- time

    def _tick(self, wall: float, steady: float) -> None:
        """The steady clock stands still while a laptop sleeps, or it runs on and this call comes late: either
        way more time has gone by than we waited for."""
        now_wall, now_steady = time.time(), self._loop.time()
        if max(now_wall - wall, now_steady - steady) > WATCH_SECONDS + SLEPT_SECONDS:
            self.woken.set()
            if self._link is not None:
                self._link.heartbeat.probe(PROBE_SECONDS)
        self._network.look()
        self._ticks += 1
        if self._ticks % ASK_TICKS == 1 and self._link is not None and self._link.close_error is None:
            self._link.heartbeat.ping().add_done_callback(self._show_round_trip)
        self._timer = self._loop.call_later(WATCH_SECONDS, self._tick, now_wall, now_steady)

    def _show_round_trip(self, asked: asyncio.Future[None]) -> None:
        if self._link is not None:
            self._report.round_trip(self._link.heartbeat.round_trip)
            self._report.flush()

    # --- the network

    def _moved(self, before: str | None, now: str | None) -> None:
        """The way to the server is another one: waiting is pointless, and the link has to prove itself.

        A connection from an address that we no longer have is lost; while there is no network at all it may
        only be roaming, and come back with the same address."""
        link = self._link
        self._report.network(before, now)
        if now is not None:
            self.woken.set()
        if link is not None and link.close_error is None:
            ours = link.transport.get_extra_info("sockname")[0]
            if now is not None and not is_local_address(ours):
                link.close_with(UpstreamReset("the network has changed"), send_close=False)
            else:
                link.heartbeat.probe(PROBE_SECONDS if now is None else BACK_SECONDS)

    def _stirred(self) -> None:
        """A cable or an interface: the way looks the same, and may not work, or work again."""
        link = self._link
        if link is not None and link.close_error is None:
            link.heartbeat.probe(STIRRED_SECONDS)
        else:
            self.woken.set()
