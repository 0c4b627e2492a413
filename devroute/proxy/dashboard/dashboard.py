"""The state of the team's page: its rows, and what it shares with other replicas. pages.py serves it."""

import asyncio
import time
from collections.abc import Callable, Mapping

from devroute.proxy.control.tunnels import Tunnels
from devroute.proxy.dashboard.activity import ReplicaActivity, TotalActivity
from devroute.proxy.dashboard.links import end_blocked, measure, round_trips
from devroute.proxy.dashboard.live import Live
from devroute.proxy.dashboard.rows import Entries, Row, rows
from devroute.proxy.dashboard.shared import Peers, SharedTeam
from devroute.proxy.reload import LiveConfig
from devroute.proxy.telemetry.activity import TICK_SECONDS
from devroute.proxy.telemetry.telemetry import Telemetry
from devroute.replicas.node import TEAM
from devroute.replicas.peers import Answer
from devroute.routing.named_contracts import NamedContracts
from devroute.routing.registration import one_of_each


class Dashboard:
    """`answers` are for other replicas, `contracts` those that people have saved. `tick` is to be called
    about twice a second."""

    def __init__(
        self,
        config: LiveConfig,
        tunnels: Tunnels,
        telemetry: Telemetry,
        contracts: NamedContracts,
    ) -> None:
        self.config = config
        self.tunnels = tunnels
        self.record = telemetry.record
        self._activity = telemetry.activity
        self._blocks = config.identities.blocks
        self._contracts = contracts
        self._entries = Entries(tunnels.entries, tunnels.entry_links)
        self._loop = asyncio.get_running_loop()
        self._next_tick = 0.0
        self._replicas: Callable[[], int | None] = lambda: None
        self.shared = SharedTeam(self._blocks, self._report, lambda each: end_blocked(tunnels, each))
        self.live = Live(self.shared, self._own, self._rows, lambda: measure(tunnels, self._loop.time()))
        self.answers: Mapping[bytes, Answer] = {TEAM: self.shared.answer}

    def join(self, peers: Peers | None, replicas: Callable[[], int | None]) -> None:
        """This replica is one of several, unless `peers` is None."""
        self.shared.peers = peers
        self._replicas = replicas

    def tick(self) -> None:
        self.shared.exchange_if_newly_linked()
        now = self._loop.time()
        if now >= self._next_tick:
            self._next_tick = now + TICK_SECONDS
            self._activity.tick()

    def end_pages(self) -> None:
        """The server is about to stop: pages connect to another replica."""
        self.live.end()

    async def close(self) -> None:
        await self.live.close()
        await self.shared.close()

    def about(self) -> dict[str, object]:
        """What the page shows besides its rows."""
        return {
            "replicas": self._replicas() or 1,
            "signed_contracts_only": self.config.policy().require_signed,
        }

    def _report(self) -> bytes:
        """For another replica, at which a page is open."""
        measure(self.tunnels, self._loop.time())
        return self._own().encode()

    def _own(self) -> ReplicaActivity:
        activity = self._activity
        return ReplicaActivity.model_construct(
            rates=tuple(activity.rates()),
            fallbacks=tuple(map(tuple, activity.fallbacks())),
            round_trips=tuple(round_trips(self.tunnels)),
        )

    def _rows(self, total: TotalActivity) -> dict[str, Row]:
        laptops = self.tunnels.registry.registrations()
        ordered = sorted(laptops, key=lambda each: (each.name, each.generation))
        now = time.time()
        blocks, contracts = self._blocks.current(now), self._contracts.listing(now)
        return rows(one_of_each(ordered), total, blocks, contracts, self._entries)
