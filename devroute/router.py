"""Which upstream a detoured request gets: parse, permit, choose. Never trusts the sidecar's own decision.

Judging a contract costs more than relaying its request, so each judgement is kept by the header's raw bytes
for as long as its policy is in force. Who is online is asked for every request.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from devroute.contract import Address, Entry, parse
from devroute.errors import (
    ContractInvalid,
    ContractMissing,
    MarkerMissing,
    RequestMalformed,
    ServiceNotInContract,
)
from devroute.h2_upstream import H2Upstream
from devroute.http1 import InboundRequest
from devroute.policy import Policy
from devroute.pool import DirectUpstream
from devroute.relay import Route
from devroute.routing import Directory, Served, permit_entry, printable, way_to
from devroute.upstream import Upstream

#: Contracts that are remembered; people at work at the same time are far fewer.
MAX_REMEMBERED: Final = 4096

#: A pool for each service and address that somebody uses.
MAX_POOLS: Final = 4096


Pool = DirectUpstream | H2Upstream
P = TypeVar("P", DirectUpstream, H2Upstream)


class Pools:
    """The connections to direct targets, by service and address, and apart from each other those of HTTP/1.1
    and of HTTP/2. Asks `policy` about every IP address."""

    def __init__(self, policy: Callable[[], Policy], *, connect_timeout: float, max_in_flight: int) -> None:
        self._policy = policy
        self._connect_timeout = connect_timeout
        self._max_in_flight = max_in_flight
        self._pools: dict[tuple[type[Pool], str, Address], Pool] = {}

    def get(self, service: str, address: Address) -> DirectUpstream:
        return self._get(DirectUpstream, service, address)

    def get_http2(self, service: str, address: Address) -> H2Upstream:
        return self._get(H2Upstream, service, address)

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

    def close_idle(self) -> None:
        """A new policy: what was connected under the old one is not used again."""
        for pool in self._pools.values():
            pool.close_idle()

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()


@dataclass(slots=True)
class _Judged:
    """A contract's entry that policy permits, and the route that was last made of it."""

    entry: Entry
    served: Served | None = None
    route: Route | None = None


class ContractRouter:
    """Implements devroute.relay.Router for requests that a sidecar detoured."""

    def __init__(self, directory: Directory, policy: Callable[[], Policy], pools: Pools) -> None:
        self._directory = directory
        self._policy = policy
        self._pools = pools
        self._judged: dict[tuple[bytes, bytes], _Judged] = {}

    def forget(self) -> None:
        """A new policy is in force."""
        self._judged.clear()

    def __call__(self, request: InboundRequest) -> Route:
        """Raises the errors of contract, policy and directory, and MarkerMissing."""
        contract = request.contract
        matched = request.matched
        if len(contract) != 1 or len(matched) != 1:
            raise _miscounted(request)
        key = (contract[0], matched[0])
        judged = self._judged.get(key)
        if judged is None:
            judged = _Judged(self._judge(*key))
            if len(self._judged) >= MAX_REMEMBERED:
                self._judged.clear()
            self._judged[key] = judged
        entry = judged.entry
        if isinstance(entry.target, Address):
            if judged.route is None:
                judged.route = self._route(entry, entry.target)
            return judged.route
        served = self._directory.lookup(str(entry.target), entry.service)
        if judged.route is None or judged.served is not served:
            judged.route = self._route(entry, way_to(entry, served, self._policy()))
            judged.served = served
        return judged.route

    def _route(self, entry: Entry, way: Address | Upstream) -> Route:
        target = str(entry.target)
        http2: Upstream | None = None
        if isinstance(way, Address):
            who = target if target == str(way) else f"{target} ({way})"
            http2 = self._pools.get_http2(entry.service, way)
            way = self._pools.get(entry.service, way)
        else:
            who = f"{target} (tunnel)"
        reason = printable(f"{entry.key} answered by {who}").encode("ascii")
        marks = b"x-devroute-result: laptop\r\nx-devroute-reason: %b\r\n" % reason
        label = f'"service": {json.dumps(entry.key)}, "target": {json.dumps(target)}'.encode()
        return Route(way, entry.key, target, marks, label, http2)

    def _judge(self, raw: bytes, matched: bytes) -> Entry:
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise ContractInvalid("the contract is not UTF-8") from None
        service = matched.decode("latin-1")
        contract = parse(text)
        entry = contract.entries.get(service)
        if entry is None:
            names = ", ".join(contract.entries) or "none"
            raise ServiceNotInContract(
                f"the sidecar matched '{service}', but the contract names {names}", service=service
            )
        permit_entry(entry, self._policy())
        return entry


def _miscounted(
    request: InboundRequest,
) -> ContractMissing | ContractInvalid | MarkerMissing | RequestMalformed:
    if not request.contract:
        return ContractMissing("the header X-devroute is missing")
    if len(request.contract) > 1:
        return ContractInvalid(f"the header X-devroute is there {len(request.contract)} times")
    if not request.matched:
        return MarkerMissing("the header X-devroute-matched is missing: no sidecar matched this request")
    return RequestMalformed(f"the header X-devroute-matched is there {len(request.matched)} times")
