"""A laptop's way into a mesh that is one hand-written app, over a real link (agent/mesh_links.py)."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from devroute.agent.mesh_links import MeshLinks
from devroute.auth.identity import Identity
from devroute.errors import DevrouteError
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.protocol.handshake import Welcome, decode
from devroute.tunnel.proxy_link import ProxyLink
from devroute.tunnel.served_stream import Finished
from devroute.upstream.interface import Upstream
from tests.support.loopback import App, Site, connect, site


class Mesh:
    """Takes the place of proxy/egress: every service is the same app."""

    def __init__(self, app: Upstream) -> None:
        self.app = app
        self.asked: list[tuple[str, str, bytes]] = []
        self.ended: list[Finished] = []

    def attach(self, link: ProxyLink, laptop: str, identity: Callable[[], Identity]) -> None:
        def choose(service: bytes) -> Upstream:
            self.asked.append((laptop, identity().subject, service))
            return self.app

        link.enable_reach(choose, self.ended.append)

    def review_identity(self, subject: str) -> None:
        """Everything is permitted."""


async def welcomed(where: Site, **hello: Any) -> AgentLink:
    link = await connect(where, {"foo": App()}, reach=True, **hello)
    welcome = decode(Welcome, await link.welcome)
    if "reach" in welcome.features:
        link.enable_reach()
    return link


@asynccontextmanager
async def reaching(app: Upstream) -> AsyncIterator[tuple[Mesh, MeshLinks, AgentLink, Site]]:
    mesh = Mesh(app)
    async with site(reach=mesh) as where:
        link = await welcomed(where)
        yield mesh, MeshLinks(lambda: [link]), link, where
        link.close_with(DevrouteError("the test is over"))
