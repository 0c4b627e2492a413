"""The contracts that people have saved, shared by all replicas: written to Redis, whole in the memory of
each, so that no request and no /resolve waits for Redis.

Changes arrive by pub/sub. What counts is the key: once a second its version is compared with the one that is
known, and all of it is read again if they differ. If Redis was emptied, or has come back empty, each replica
that finds the key gone adds those contracts that the key lacks: whichever is first makes it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Final

from devroute.errors import ContractNotOwned, ContractsUnavailable, TooManyContracts
from devroute.replicas.contract_store import ContractKey, ContractsMissing, Full, Rewritten, State
from devroute.replicas.record import decode_contract, encode_contract
from devroute.replicas.store import Change, RegistryUnavailable, Store
from devroute.routing.named_contracts import MAX_CONTRACTS, NamedContract, NamedContracts

#: Attempts to change a contract that others change at the same time.
MAX_ATTEMPTS: Final = 8
#: Seconds after which one that has expired is removed from Redis: clocks differ.
GRACE_SECONDS: Final = 60.0
#: Contracts that are read in one turn of the loop; each costs some 50 µs.
AT_ONCE: Final = 50


class SharedContracts:
    """Implements devroute.proxy.control.contract_store.ContractStore. The holder of `_lock` alone changes
    what is known of the key."""

    def __init__(self, names: NamedContracts, store: Store, clock: Callable[[], float] = time.time) -> None:
        """`clock` gives seconds since the epoch."""
        names.complete = False
        self._names = names
        self._key = ContractKey(store)
        self._clock = clock
        self._values: dict[str, bytes] = {}  # what Redis has, also what this release cannot read
        self._expires: dict[str, float] = {}  # of what it can read
        self._known = State("", 0)
        self._lock = asyncio.Lock()

    # --- for people

    async def save(self, draft: NamedContract, *, admin: bool) -> NamedContract | None:
        """Raises ContractNotOwned, TooManyContracts or ContractsUnavailable."""
        value, ttl_ms = encode_contract(draft), round((draft.expires - draft.saved) * 1000)

        def permitted() -> NamedContract | None:
            self._check_readable(draft.name)
            return self._names.permit_save(draft, self._clock(), admin=admin)

        return await self._change(draft.name, value, ttl_ms, permitted)

    async def delete(self, name: str, subject: str, *, admin: bool) -> NamedContract:
        """Raises ContractUnknown, ContractNotOwned or ContractsUnavailable."""

        def permitted() -> NamedContract:
            self._check_readable(name)
            now = self._clock()
            found = self._names.find(name, now)
            self._names.permit_change(name, subject, now, admin=admin)
            return found

        found = await self._change(name, b"", 0, permitted)
        assert found is not None
        return found

    async def _change(
        self, name: str, value: bytes, ttl_ms: int, permitted: Callable[[], NamedContract | None]
    ) -> NamedContract | None:
        """Write a value, unless `permitted` raises for the contract that it would replace."""
        async with self._lock:
            try:
                for _ in range(MAX_ATTEMPTS):
                    before = permitted()
                    if await self._write(name, value, ttl_ms):
                        return before
            except RegistryUnavailable:
                raise ContractsUnavailable(
                    "saved contracts cannot be changed: the replicas' registry is not reached"
                ) from None
        raise ContractsUnavailable(f"others change the contract '@{name}' at the same time")

    async def _write(self, name: str, value: bytes, ttl_ms: int) -> bool:
        """Whether it was written; if not, what is known has become newer."""
        seen, generation = self._values.get(name, b""), self._known.generation
        past = self._clock() - GRACE_SECONDS
        expired = {
            each: self._values[each] for each, at in self._expires.items() if at < past and each != name
        }
        try:
            state = await self._key.write(generation, name, seen, value, ttl_ms, expired)
        except ContractsMissing:
            await self._restore()
            return False
        except Full:
            raise TooManyContracts("as many contracts are saved as there may be; there is no room") from None
        except Rewritten as found:
            self._learn(name, found.value)
            return False
        follows = state == State(generation or state.generation, self._known.version + 1)
        self._learn(name, value)
        if follows:
            self._known = state
        return True  # else the next refresh reads what came in between

    def _check_readable(self, name: str) -> None:
        """Raises ContractNotOwned."""
        if name in self._values and name not in self._expires:
            raise ContractNotOwned(
                f"the contract '@{name}' was saved by a newer release of devroute than this replica is",
                hint="use another name, or try again once all replicas are upgraded",
            )

    # --- what is in Redis

    async def refresh(self) -> None:
        """Once a second. Raises RegistryUnavailable."""
        async with self._lock:
            state = await self._key.state()
            if state.generation != self._known.generation:
                await self._restore()
            elif state != self._known or len(self._values) > 2 * MAX_CONTRACTS:  # most of them have expired
                await self._read(state)
            self._names.complete = True

    async def apply(self, change: Change) -> None:
        """A message on the channel of changes. Raises RegistryUnavailable."""
        async with self._lock:
            if change.name and change.version == self._known.version + 1 and self._known.generation:
                self._learn(change.name, change.value)
                self._known = self._known._replace(version=change.version)
            elif change.version > self._known.version or not change.name:
                await self._read(await self._key.state())

    async def _restore(self) -> None:
        """Another key is there than the one that is known, or none: add what it lacks, then read it."""
        now = self._clock()
        own = {name: self._values[name] for name, at in self._expires.items() if now < at}
        if own:
            last = max(self._expires[name] for name in own)
            await self._key.merge(own, round((last - now) * 1000))
        await self._read(await self._key.state())

    async def _read(self, state: State) -> None:
        found = await self._key.read()
        gone = self._values.keys() - found.keys()
        for at, (name, value) in enumerate([*((name, b"") for name in gone), *found.items()]):
            self._learn(name, value)
            if at % AT_ONCE == 0:
                await asyncio.sleep(0)
        self._known = state

    def _learn(self, name: str, value: bytes) -> None:
        """What Redis has under a name."""
        if value == self._values.get(name, b""):
            return
        now, contract = self._clock(), None
        self._values.pop(name, None)
        self._expires.pop(name, None)
        if value:
            self._values[name] = value
            with contextlib.suppress(ValueError):  # of another release, or of another program
                contract = decode_contract(name, value)
                self._expires[name] = contract.expires
        if contract is not None and now < contract.expires and self._names.has_room(contract):
            self._names.put(contract)
        else:
            self._names.remove(name, now)
