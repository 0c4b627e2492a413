"""The laptop's side of what it reaches in the mesh: local ports of forwards, and the one for SOCKS and HTTP
proxies. All are on loopback, and end with `devroute up`.
"""

import asyncio
import re
import socket
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from devroute.agent.reach.browsers import BrowserGuard
from devroute.agent.reach.byte_pipe import BytePipe
from devroute.agent.reach.contract_by_trace import ContractsByTrace
from devroute.agent.reach.http_port import listener, route_to
from devroute.agent.reach.mesh_port import Forward, MeshPort, is_of_the_mesh
from devroute.agent.reach.ports import HOST, LocalPorts
from devroute.agent.reach.proxy_port import ProxyConnection, split_authority
from devroute.agent.reach.variables import variables
from devroute.contract.destination import parse_destination
from devroute.contract.target import Malformed
from devroute.downstream.listener import Listener
from devroute.errors import DevrouteError, NotSupported, ReachOutside, RequestMalformed, TargetOverloaded
from devroute.http.message import InboundRequest
from devroute.inspector.recorder import App
from devroute.platforms import stop_listening
from devroute.routing.route import Route, Router
from devroute.tasks import TaskOwner
from devroute.upstream.interface import Upstream

#: Destinations that clients of that port have named.
MAX_DESTINATIONS: Final = 256


@dataclass(frozen=True, slots=True)
class LocalPort:
    """A forward that listens. `wanted`: the port that it would have, were that free."""

    to: MeshPort
    port: int
    wanted: int
    variables: Mapping[str, str]

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def as_json(self) -> dict[str, object]:
        return {
            "service": str(self.to),
            "local": self.address,
            "wanted": self.wanted,
            "variables": dict(self.variables),
        }


@dataclass(slots=True)
class _Way:
    """To a destination that a client of the proxy port has named; `past`: the upstream if that goes past the
    mesh."""

    upstream: Upstream
    route: Route
    past: App | None
    listener: Listener | None = None


class Reach:
    """`way(to)` leads to a destination; `direct(to)` does so past the mesh, None where that is not wanted.
    `failed` gets what was refused here, or could not be connected, by its name."""

    def __init__(
        self,
        forwards: Iterable[Forward],
        ports: LocalPorts,
        contracts: ContractsByTrace,
        way: Callable[[MeshPort], Upstream],
        *,
        direct: Callable[[MeshPort], App] | None = None,
        check_ready: Callable[[], None],
        entries: Callable[[], Iterable[str]],
        failed: Callable[[str, DevrouteError], None],
    ) -> None:
        self._forwards = tuple(forwards)
        self._ports = ports
        self._contracts = contracts
        self._way = way
        self._direct = direct
        self._check_ready = check_ready
        self._entries = entries
        self.failed = failed
        self.local: list[LocalPort] = []
        self.proxy_port: int | None = None
        self.pipes: set[BytePipe] = set()
        self._undecided: set[ProxyConnection] = set()
        self._named: dict[MeshPort, _Way] = {}
        self._listeners: list[Listener] = []
        self._servers: list[asyncio.Server] = []
        self._tasks = TaskOwner()

    async def open(self, proxy_port: bool | int) -> None:
        """Listen; for proxy clients at this port, at the first free one from PROXY_PORT on (True), or at none
        (False). Raises ConfigInvalid."""
        bound = [(each, *self._ports.bind(each)) for each in self._forwards]
        places = [(forward.to, sock.getsockname()[1]) for forward, sock, _ in bound]
        names = variables(places)
        for (forward, sock, wanted), (to, port), named in zip(bound, places, names, strict=True):
            await self._serve(sock, self._protocol(forward.to))
            self.local.append(LocalPort(to, port, wanted, named))
        if proxy_port is not False:
            sock = self._ports.bind_proxy(None if proxy_port is True else proxy_port)
            self.proxy_port = sock.getsockname()[1]
            requests = self._listen(self._route)
            await self._serve(
                sock, lambda: ProxyConnection(self, self._undecided, requests, asyncio.get_running_loop())
            )
        if self._servers:
            self._tasks.start(self._tick())

    async def _serve(self, sock: socket.socket, protocol: Callable[[], asyncio.BaseProtocol]) -> None:
        self._servers.append(await asyncio.get_running_loop().create_server(protocol, sock=sock))

    def _protocol(self, to: MeshPort) -> Callable[[], asyncio.BaseProtocol]:
        upstream = self._way(to)
        loop = asyncio.get_running_loop()
        guard = BrowserGuard(to, self._entries, self._contracts.find)
        if to.tcp:
            return lambda: BytePipe(loop, self.pipes, upstream, to, self.failed, admit=guard.is_admitted)
        route = route_to(upstream, str(to))

        def routed(request: InboundRequest) -> Route:
            try:
                guard.check(request.raw)
            except DevrouteError as error:
                self.failed(str(to), error)
                raise
            return route

        return self._listen(routed).accept

    def _listen(self, router: Router) -> Listener:
        made = listener(router)
        self._listeners.append(made)
        return made

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(1.0)
            now = loop.time()
            for each in self._listeners:
                each.tick(now)
            for connection in list(self._undecided):
                connection.check(now)

    async def close(self) -> None:
        """End all connections."""
        for server in self._servers:
            await stop_listening(server)
        await self._tasks.close()
        for each in self._listeners:
            for client in list(each.connections):
                client.abort()
        for connection in [*self.pipes, *self._undecided]:
            connection.abort()
        for way in self._named.values():
            if way.past is not None:
                await way.past.close()

    # --- clients of the proxy port (proxy_port.Ways)

    @property
    def connections(self) -> int:
        return len(self.pipes) + sum(len(each.connections) for each in self._listeners)

    def destination(self, host: str, port: int, *, literal: bool) -> MeshPort:
        """Raises ReachOutside."""
        if literal and self._direct is None:
            raise ReachOutside(
                f"{host} is an address, and services of the mesh are reached by name",
                hint="let the name be resolved there: socks5h:// in place of socks5://",
            )
        to = MeshPort(host.lower(), port)
        try:
            if "/" in host:  # the client's bytes show what it speaks
                raise Malformed("a name has no scheme")
            if not literal:
                parse_destination(str(to))
        except Malformed as problem:
            raise ReachOutside(f"this is no name of a service: {problem}") from None
        if not self._is_inside(to) and self._direct is None:
            raise ReachOutside(
                f"{to.host} is no service of the mesh",
                hint="a service is NAME or NAME.NAMESPACE; other names go past the mesh with --reach-direct,"
                f" and into it with --reach {to}",
            )
        return to

    def _is_inside(self, to: MeshPort) -> bool:
        return is_of_the_mesh(to.host) or any(each.to.host == to.host for each in self._forwards)

    def is_bytes(self, to: MeshPort) -> bool:
        if not self._is_inside(to):
            return True
        return any(each.to.tcp and each.to.address == to.address for each in self._forwards)

    def check_ready(self, to: MeshPort) -> None:
        if self._is_inside(to):
            self._check_ready()
        self._make_room(to)

    def upstream(self, to: MeshPort) -> Upstream:
        to = MeshPort(to.host, to.port, tcp=True)
        return self._named_way(to).upstream

    def listener(self, to: MeshPort) -> Listener:
        way = self._named_way(to)
        if way.listener is None:
            way.listener = self._listen(lambda request: way.route)
        return way.listener

    def _route(self, request: InboundRequest) -> Route:
        """Of a request in absolute form: one in origin form is meant for this port itself, and a page may
        have sent it."""
        form = request.raw.split(b" ", 2)[1][:8].lower()
        if request.http2 or form[:1] in (b"/", b"*"):
            raise RequestMalformed(
                "this port is a proxy, and no service",
                hint="set it as a SOCKS 5 or HTTP proxy: curl --proxy socks5h://127.0.0.1:PORT http://c.shop/",
            )
        if form == b"https://":
            raise NotSupported(
                "an https URL goes through a proxy by CONNECT, so that TLS ends at the service"
            )
        url = request.raw.split(b" ", 2)[1].decode("latin-1")
        authority = re.split("[/?#]", url.partition("://")[2], maxsplit=1)[0]
        try:
            host, port, literal = split_authority(authority, 80)
            return self._named_way(self.destination(host, port, literal=literal)).route
        except DevrouteError as error:
            self.failed(authority, error)
            raise

    def _named_way(self, to: MeshPort) -> _Way:
        found = self._named.get(to)
        if found is None:
            self._make_room(to)
            past = None if self._direct is None or self._is_inside(to) else self._direct(to)
            upstream = self._way(to) if past is None else past
            found = self._named[to] = _Way(upstream, route_to(upstream, str(to)), past)
        return found

    def _make_room(self, to: MeshPort) -> None:
        """For one more destination. Raises TargetOverloaded."""
        full = to not in self._named and len(self._named) >= MAX_DESTINATIONS
        if full and not self._forget_idle():
            raise TargetOverloaded(f"{MAX_DESTINATIONS} destinations are in use at this port")

    def _forget_idle(self) -> bool:
        """Forget a destination without connections of its own."""
        for to, way in self._named.items():
            if way.listener is None or not way.listener.connections:
                del self._named[to]
                if way.listener is not None:
                    self._listeners.remove(way.listener)
                return True
        return False
