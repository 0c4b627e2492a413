"""Puts the team's page together: its access, rows and handlers, and what it shares with other replicas."""

import asyncio
import time
from collections.abc import Callable, Mapping

from aiohttp import web

from devroute.proxy.control.tunnels import Tunnels
from devroute.proxy.dashboard.access import Access
from devroute.proxy.dashboard.activity import ReplicaActivity, TotalActivity
from devroute.proxy.dashboard.admin import Admin
from devroute.proxy.dashboard.handlers import Handlers
from devroute.proxy.dashboard.links import measure, round_trips
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
        identities = config.identities
        self._policy = config.policy
        self._tunnels = tunnels
        self._activity = telemetry.activity
        self._blocks = identities.blocks
        self._contracts = contracts
        self._entries = Entries(tunnels.entries, tunnels.entry_links)
        self._loop = asyncio.get_running_loop()
        self._next_tick = 0.0
        self._replicas: Callable[[], int | None] = lambda: None
        self._shared = SharedTeam(self._blocks, self._report, lambda each: admin.enforce(each))
        access = Access(identities.authenticate, identities.check_current, self._shared, telemetry.record)
        admin = Admin(access, config.policy, tunnels, self._blocks, self._shared, telemetry.record)
        self._live = Live(self._shared, self._own, self._rows, lambda: measure(tunnels, self._loop.time()))
        handlers = Handlers(access, admin, self._live, self._about, telemetry.record)
        self.routes: list[web.RouteDef] = [*handlers.routes(), *admin.routes()]
        self.answers: Mapping[bytes, Answer] = {TEAM: self._shared.answer}

    def join(self, peers: Peers | None, replicas: Callable[[], int | None]) -> None:
        """This replica is one of several, unless `peers` is None."""
        self._shared.peers = peers
        self._replicas = replicas

    def tick(self) -> None:
        self._shared.exchange_if_newly_linked()
        now = self._loop.time()
        if now >= self._next_tick:
            self._next_tick = now + TICK_SECONDS
            self._activity.tick()

    def end_pages(self) -> None:
        """The server is about to stop: pages connect to another replica."""
        self._live.end()

    async def close(self) -> None:
        await self._live.close()
        await self._shared.close()

    def _about(self) -> dict[str, object]:
        return {"replicas": self._replicas() or 1, "signed_contracts_only": self._policy().require_signed}

    def _report(self) -> bytes:
        """For another replica, at which a page is open."""
        measure(self._tunnels, self._loop.time())
        return self._own().encode()

    def _own(self) -> ReplicaActivity:
        activity = self._activity
        return ReplicaActivity.model_construct(
            rates=tuple(activity.rates()),
            fallbacks=tuple(map(tuple, activity.fallbacks())),
            round_trips=tuple(round_trips(self._tunnels)),
        )

    def _rows(self, total: TotalActivity) -> dict[str, Row]:
        laptops = self._tunnels.registry.registrations()
        ordered = sorted(laptops, key=lambda each: (each.name, each.generation))
        now = time.time()
        blocks, contracts = self._blocks.current(now), self._contracts.listing(now)
        return rows(one_of_each(ordered), total, blocks, contracts, self._entries)
