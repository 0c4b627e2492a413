"""What one `devroute up` reaches in the mesh, put together from its settings."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

from devroute.agent.mesh_links import MeshLinks, not_supported
from devroute.agent.reach.contract_by_trace import ContractsByTrace
from devroute.agent.reach.mesh_port import MeshPort
from devroute.agent.reach.outside_mesh import app_outside_mesh
from devroute.agent.reach.ports import HOST, LocalPorts
from devroute.agent.reach.reach import LocalPort, Reach
from devroute.agent.reach.rewriting import RewritingUpstream
from devroute.agent.reach.variables import proxy_variables
from devroute.agent.settings import AgentSettings
from devroute.errors import DevrouteError
from devroute.http.message import RequestHead
from devroute.tunnel.protocol.handshake import REACH, Welcome
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream

#: Seconds in which the same failure is reported once; and the number of different ones that are remembered.
REPORT_SECONDS: Final = 60.0
MAX_REPORTED: Final = 256

#: Puts what sees outgoing requests around the upstream of a service.
Around = Callable[[str, Upstream], Upstream]


class ReachReporter(Protocol):
    def reach(self, ports: Sequence[LocalPort], proxy: int | None) -> None:
        """What listens."""

    def reach_failed(self, service: str, error: DevrouteError) -> None:
        """A request or connection that got no further, for a reason that people can do something about."""


class LaptopReach:
    """`around` as of Around; `clock` in seconds; `contract()` names this laptop's services."""

    def __init__(
        self,
        settings: AgentSettings,
        state_folder: Path | None,
        mesh: MeshLinks,
        around: Around,
        reporter: ReachReporter,
        clock: Callable[[], float],
        contract: Callable[[], str],
    ) -> None:
        self._settings = settings
        self._mesh = mesh
        self._around = around
        self._reporter = reporter
        self._entries: Mapping[str, str] = {}
        self._contract = contract
        self._clock = clock
        self._reported: dict[tuple[str, str], float] = {}
        self._contracts = ContractsByTrace(clock)
        self._reach = Reach(
            settings.reach,
            LocalPorts(state_folder, settings.server),
            self._contracts,
            self._way,
            direct=app_outside_mesh if settings.reach_direct else None,
            check_ready=self._check_ready,
            entries=lambda: self._entries.values(),
            failed=self._failed,
        )

    @property
    def urls(self) -> dict[str, str]:
        """Of the local ports for HTTP, by service."""
        return {str(each.to): f"http://{each.address}" for each in self._reach.local if not each.to.tcp}

    @property
    def proxy_url(self) -> str:
        """Of the port for HTTP and SOCKS proxies, "" without one."""
        port = self._reach.proxy_port
        return "" if port is None else f"http://{HOST}:{port}"

    def as_json(self) -> dict[str, object]:
        """What listens, as the event `reach` has it."""
        return {"ports": [each.as_json() for each in self._reach.local], "proxy": self._reach.proxy_port}

    async def open(self) -> None:
        """Raises ConfigInvalid."""
        await self._reach.open(self._settings.reach_port or self._settings.reach_env)

    def welcomed(self, welcome: Welcome) -> None:
        """The first one: `entries` has the URLs at which people call the mesh."""
        self._entries = welcome.entries
        self._reporter.reach(self._reach.local, self._reach.proxy_port)
        if REACH not in welcome.features:
            self._reporter.reach_failed("mesh", not_supported())

    def environment(self) -> dict[str, str]:
        """For the child."""
        found: dict[str, str] = {}
        for each in self._reach.local:
            found |= each.variables
        if self._settings.reach_env and self._reach.proxy_port is not None:
            found |= proxy_variables(self._reach.proxy_port, os.environ)
        return found

    async def close(self) -> None:
        await self._reach.close()

    # --- requests to this laptop's apps

    def watched(self, app: Upstream) -> Upstream:
        """The app, its requests known from their begin to the call of `ended`."""
        return _Watched(app, self._contracts)

    def ended(self, head: bytes) -> None:
        self._contracts.end(head)

    # --- requests from it

    def _way(self, to: MeshPort) -> Upstream:
        way = self._mesh.upstream(str(to))
        if to.tcp:
            return way
        return RewritingUpstream(
            to, self._around(str(to), way), self._contracts, self._own_contract, self._failed
        )

    def _own_contract(self) -> bytes | None:
        if not self._settings.reach_contract or not self._settings.services:
            return None
        return self._contract().encode()

    def _failed(self, name: str, error: DevrouteError) -> None:
        """Report it, but not each attempt of a program that tries again and again."""
        key, now = (name, error.code), self._clock()
        if self._reported.get(key, -REPORT_SECONDS) + REPORT_SECONDS > now:
            return
        if len(self._reported) >= MAX_REPORTED:
            self._reported.clear()
        self._reported[key] = now
        self._reporter.reach_failed(name, error)

    def _check_ready(self) -> None:
        if self._mesh.server_is_older:
            raise not_supported()


class _Watched:
    def __init__(self, app: Upstream, contracts: ContractsByTrace) -> None:
        self._app = app
        self._contracts = contracts

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        self._contracts.begin(head.wire)
        return self._app.open(head, sink)
