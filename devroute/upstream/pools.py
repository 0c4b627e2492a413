"""The connections to direct targets: an upstream for each service and address in use.

Never decides where a request goes, and connects to no IP address that policy does not permit.
"""

from collections.abc import Callable
from typing import Final

from devroute.contract.target import Address
from devroute.policy.policy import Policy
from devroute.upstream.dialer import Dialer
from devroute.upstream.http2_pool import Http2Pool
from devroute.upstream.negotiating import NegotiatingUpstream
from devroute.upstream.resolver import Resolver

#: Services and addresses with an upstream of their own; unused ones are removed beyond this number.
MAX_POOLS: Final = 4096


class Pools:
    """Upstreams by service and address. Asks `policy` about every IP address. `observers`: called once pools
    were removed, for those that keep what `get` has returned: one address is to have one pool."""

    def __init__(
        self,
        policy: Callable[[], Policy],
        *,
        connect_timeout: float,
        max_in_flight: int,
        retry_refused: float = 0.0,
    ) -> None:
        """`connect_timeout` and `retry_refused` in seconds; `max_in_flight` requests to one target."""
        self._policy = policy
        self._connect_timeout = connect_timeout
        self._retry_refused = retry_refused
        self._max_in_flight = max_in_flight
        self._resolver = Resolver()
        self._pools: dict[tuple[str, Address], NegotiatingUpstream] = {}
        self.observers: list[Callable[[], None]] = []

    def get(self, service: str, address: Address) -> NegotiatingUpstream:
        key = (service, address)
        pool = self._pools.get(key)
        if pool is None:
            if len(self._pools) >= MAX_POOLS:
                self.prune()
            dialer = Dialer(
                address.host,
                address.port,
                permit=lambda ip, port: self._policy().permit_address(ip, port, service=service),
                connect_timeout=self._connect_timeout,
                resolver=self._resolver,
                retry_refused=self._retry_refused,
            )
            most = self._max_in_flight
            pool = self._pools[key] = NegotiatingUpstream(dialer, most, Http2Pool(dialer, most))
        return pool

    async def probe(self, address: Address, service: str) -> None:
        """Raises TargetUnreachable or TargetDenied."""
        await self.get(service, address).probe()

    def prune(self) -> None:
        """Remove unused pools."""
        unused = [key for key, pool in self._pools.items() if not pool.busy]
        for key in unused:
            del self._pools[key]
        if unused:
            for observer in self.observers:
                observer()

    def limit(self, max_in_flight: int) -> None:
        """The number of requests in flight to one target; those beyond it are not interrupted."""
        self._max_in_flight = max_in_flight
        for pool in self._pools.values():
            pool.limit(max_in_flight)

    def close_idle(self) -> None:
        """After a change of policy: connections made under the old one serve no further request."""
        for pool in self._pools.values():
            pool.close_idle()

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()
