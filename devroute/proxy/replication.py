"""This process as one of several replicas, if the settings say so; with the registry in memory all of this
does nothing, and costs nothing.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from devroute.contract.target import Address
from devroute.errors import ConfigInvalid
from devroute.metrics import table
from devroute.metrics.table import Metric
from devroute.proxy.control.tunnels import Tunnels
from devroute.proxy.settings import MEMORY, ProxySettings
from devroute.replicas.local_laptops import LocalLaptops
from devroute.replicas.redis_url import places
from devroute.replicas.reports import Reported
from devroute.routing.named_contracts import NamedContracts

if TYPE_CHECKING:
    from devroute.replicas.peers import Answer, Peers
    from devroute.replicas.reports import SharedReports
    from devroute.replicas.shared_contracts import SharedContracts
    from devroute.replicas.shared_registry import SharedRegistry

#: Seconds of which each laptop that is to dial another replica adds as many to the time in which all do: a
#: registration costs the other replica some milliseconds.
DIAL_PACE: Final = 0.005


class Replication:
    """`shared` is None with the registry in memory."""

    def __init__(
        self,
        settings: ProxySettings,
        laptops: LocalLaptops,
        reported: Reported,
        tunnels: Tunnels,
        names: NamedContracts,
        answers: Mapping[bytes, "Answer"],
    ) -> None:
        """`answers`: to questions of other replicas, by their prefix. Raises ConfigInvalid."""
        self._settings = settings
        self._tunnels = tunnels
        self._laptops = laptops
        self.peer_port = 0
        self.shared: SharedRegistry | None = None
        if settings.registry != MEMORY:
            from devroute.replicas import shared_registry

            self.shared = tunnels.claims = shared_registry.SharedRegistry(
                settings.registry,
                settings.registry_prefix,
                self._laptops,
                reported,
                tunnels.succession.arrived,
                names,
                answers,
            )

    @property
    def peers(self) -> "Peers | None":
        return None if self.shared is None else self.shared.peers

    @property
    def reports(self) -> "SharedReports | None":
        return None if self.shared is None else self.shared.reports

    @property
    def contracts(self) -> "SharedContracts | None":
        return None if self.shared is None else self.shared.contracts

    def for_laptops(self) -> dict[str, object]:
        """For GET /api/status: what all who have a token may know of the replicas, so no address of Redis."""
        if self.shared is None:
            return {}
        available = self.shared.problem is None
        return {
            "replicas": self.shared.replicas,
            "registry": "available" if available else "unavailable",
        }

    def count(self) -> int | None:
        """How many replicas there are, None with the registry in memory."""
        return None if self.shared is None else self.shared.replicas

    async def start(self, data_port: int) -> None:
        """Raises ConfigInvalid."""
        settings = self._settings
        if self.shared is None:
            return
        host = await _advertised(settings)
        self.peer_port = await self.shared.listen(settings.peer_host, settings.peer_port)
        await self.shared.start(str(Address(host, data_port)), str(Address(host, self.peer_port)))

    async def hand_over(self, seconds: float) -> None:
        """Before the stop: have the laptops dial the other replicas, if there are any; returns once they
        have. `seconds`: that there are for it, of which the laptops spread their dialling over a part."""
        if self.shared is not None and self.shared.replicas > 1:
            within = min(seconds / 4, len(self._tunnels.links) * DIAL_PACE)
            await self._tunnels.hand_over(within)

    async def stop(self) -> None:
        if self.shared is not None:
            await self.shared.stop()

    def status(self) -> dict[str, object]:
        """For /readyz. A replica without Redis stays ready: its laptops, and those that it knows, are
        served."""
        if self.shared is None:
            return {}
        return {"registry_problem": self.shared.problem, "replicas": self.shared.replicas}

    @property
    def ready(self) -> bool:
        """Whether requests that meet this replica reach the laptops of the others."""
        return self.shared is None or self.shared.ready

    def metrics(self) -> dict[Metric, float]:
        """Those that only a shared registry has."""
        if self.shared is None:
            return {}
        return {
            table.REPLICAS: self.shared.replicas,
            table.REGISTRY_UP: int(self.shared.problem is None),
            table.REGISTRY_LAG: self.shared.lag,
            table.FORWARDED: self._laptops.forwarded,
        }


async def _advertised(settings: ProxySettings) -> str:
    """The address by which others reach this replica: as set, or that of the interface towards Redis. Raises
    ConfigInvalid."""
    if settings.advertise_host is not None:
        return settings.advertise_host
    if not ipaddress.ip_address(settings.data_host).is_unspecified:
        return settings.data_host
    host, port = places(settings.registry)[0]
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        with socket.socket(found[0][0], socket.SOCK_DGRAM) as towards:
            towards.connect(found[0][4])  # sends nothing
            return str(towards.getsockname()[0])
    except OSError as error:
        raise ConfigInvalid(
            f"the address of this replica is not known: {error.strerror or error}",
            hint="set advertise_host to the pod's address (DEVROUTE_ADVERTISE_HOST, from status.podIP)",
        ) from None
