"""Replicas in the test's own process: a registry, a control port for agents, and the links between them; the
laptops' apps are hand-written."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from devroute.http.spans import AgentSpan
from devroute.policy.policy import Policy
from devroute.replicas.local_laptops import LocalLaptops
from devroute.replicas.reports import Reported
from devroute.replicas.shared_registry import SharedRegistry
from devroute.routing.named_contracts import NamedContracts
from devroute.routing.shadow.traffic import ShadowTraffic
from devroute.routing.trace import KnownServices, Traces
from devroute.tunnel.agent_link import AgentLink
from devroute.upstream.interface import ProbedUpstream, Upstream
from devroute.upstream.pools import Pools
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.loopback import Site, connect, start_site
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer


class Replica:
    """One of several replicas; `data` is a port on which nothing but accepting happens, `policies` the one in
    force, `spans` what it reports of sampled requests that others forward to it."""

    def __init__(
        self,
        site: Site,
        shared: SharedRegistry,
        data: asyncio.Server,
        reported: Reported,
        shadow: ShadowTraffic,
        policies: list[Policy],
        contracts: NamedContracts,
        spans: list[AgentSpan],
    ) -> None:
        self.spans = spans
        self.policies = policies
        self.traces, self.services, _ = reported
        self.shadow = shadow
        self.contracts = contracts
        self.site = site
        self.registry = site.registry
        self.shared = shared
        self._data = data
        port = data.sockets[0].getsockname()[1]
        self.place = f"127.0.0.1:{port}"

    def names(self) -> list[str]:
        """Of all laptops that it knows."""
        return sorted({each.name for each in self.registry.registrations()})

    def upstream(self, name: str = "alice", service: str = "foo") -> ProbedUpstream:
        upstream = self.registry.lookup(name, service).upstream
        assert upstream is not None
        return upstream

    async def connect(self, services: Mapping[str, Upstream], **options: Any) -> AgentLink:
        link = await connect(self.site, services, **options)
        await link.welcome
        return link

    async def start(self, peer_port: int) -> None:
        await self.shared.start(self.place, f"127.0.0.1:{peer_port}")

    async def kill(self) -> None:
        """As the kernel ends a process: no message is sent."""
        await self.shared.tasks.close()
        await self.shared.links.tasks.close()
        self._data.close()
        await self.shared.links.stop_listening()
        for link in list(self.shared.links.links):
            link.transport.abort()

    def drop_agents(self) -> None:
        """The agents' side of that: their connections are reset."""
        for link in list(self.site.tunnels.links):
            link.transport.abort()

    async def stop(self) -> None:
        self._data.close()
        await self.site.stop()
        await self.shared.stop()

    def linked(self, *others: "Replica") -> bool:
        """Whether all others have dialled it."""
        known = self.shared.remote.known
        return all(other.shared.id in known and known[other.shared.id].node.link for other in others)


@asynccontextmanager
async def replicas(
    server: RedisServer | str, count: int = 2, prefix: str = "test"
) -> AsyncIterator[list[Replica]]:
    """So many replicas, linked with each other."""
    loop = asyncio.get_running_loop()
    started: list[Replica] = []
    try:
        for _ in range(count):
            site = await start_site()
            policies = [Policy()]
            pools = Pools(lambda found=policies: found[0], connect_timeout=PATIENCE_S, max_in_flight=100)  # type: ignore[misc]
            spans: list[AgentSpan] = []
            laptops = LocalLaptops(site.registry, pools, spans.append)
            url = server if isinstance(server, str) else server.url
            traces, shadow = Traces(), ShadowTraffic(loop.time)
            site.registry.observers.append(shadow)
            services = KnownServices()
            reported = Reported(traces, services, shadow.comparisons)
            names = NamedContracts()
            arrived = site.tunnels.succession.arrived
            shared = SharedRegistry(url, prefix, laptops, reported, arrived, names)
            site.tunnels.claims = shared
            data = await loop.create_server(asyncio.Protocol, "127.0.0.1", free_port())
            replica = Replica(site, shared, data, reported, shadow, policies, names, spans)
            peer_port = await shared.listen("127.0.0.1", free_port())
            await replica.start(peer_port)
            started.append(replica)
        for each in started:
            others = [other for other in started if other is not each]
            await eventually(lambda each=each, others=others: each.linked(*others), "links between replicas")
        yield started
    finally:
        for each in started:
            await each.stop()
