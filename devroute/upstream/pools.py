"""The connections to direct targets: a pool (upstream/http1_pool.py, upstream/http2_pool.py) for each
service and address that is in
use. Never decides where a request goes, and connects to no IP address that policy does not permit.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from devroute.contract.target import Address
from devroute.policy.policy import Policy
from devroute.upstream.http1_pool import Http1Pool
from devroute.upstream.http2_pool import Http2Pool

#: A pool for each service and address that somebody uses.
MAX_POOLS: Final = 4096

Pool = Http1Pool | Http2Pool
P = TypeVar("P", Http1Pool, Http2Pool)


class Pools:
    """The connections to direct targets, by service and address, and apart from each other those of HTTP/1.1
    and of HTTP/2. Asks `policy` about every IP address."""

    def __init__(self, policy: Callable[[], Policy], *, connect_timeout: float, max_in_flight: int) -> None:
        self._policy = policy
        self._connect_timeout = connect_timeout
        self._max_in_flight = max_in_flight
        self._pools: dict[tuple[type[Pool], str, Address], Pool] = {}

    def get(self, service: str, address: Address) -> Http1Pool:
        return self._get(Http1Pool, service, address)

    def get_http2(self, service: str, address: Address) -> Http2Pool:
        return self._get(Http2Pool, service, address)

    def _get(self, kind: type[P], service: str, address: Address) -> P:
        key = (kind, service, address)
        pool = self._pools.get(key)
        if pool is None:
            if len(self._pools) >= MAX_POOLS:
                self.prune()
            pool = self._pools[key] = kind(
                address.host,
                address.port,
                permit=lambda ip, port: self._policy().permit_address(ip, port, service=service),
                connect_timeout=self._connect_timeout,
                max_in_flight=self._max_in_flight,
            )
        assert isinstance(pool, kind)
        return pool

    async def probe(self, address: Address, service: str) -> None:
        """Raises TargetUnreachable or TargetDenied."""
        await self.get(service, address).probe()

    def prune(self) -> None:
        """Forget the pools that nobody uses."""
        for key, pool in list(self._pools.items()):
            if not pool.busy:
                del self._pools[key]

    def limit(self, max_in_flight: int) -> None:
        """Requests in flight to one target; those that are under way go on."""
        self._max_in_flight = max_in_flight
        for pool in self._pools.values():
            pool.max_in_flight = max_in_flight

    def close_idle(self) -> None:
        """A new policy: what was connected under the old one is not used again."""
        for pool in self._pools.values():
            pool.close_idle()

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()
