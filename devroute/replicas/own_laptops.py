"""What this replica has registered, as it stands in Redis: written when it changes, and all of it again where
the replica's key has gone.
"""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Final

from devroute.replicas.record import ReplicaRecord, encode_processes
from devroute.replicas.store import OwnKeyMissing, Store
from devroute.routing.registration import Registration, settle
from devroute.routing.registry import Registry
from devroute.tasks import TaskOwner

#: Names that are written or read in one turn of the loop; each costs some 50 µs.
AT_ONCE: Final = 50

#: Runs what may fail without Redis, and reports that.
Attempt = Callable[[Coroutine[None, None, None]], Coroutine[None, None, None]]


class OwnLaptops:
    """Implements RegistryObserver. `written`: values by name, and `claimed` the names of those that the other
    replicas do not know of. The holder of `lock` alone writes. `record` is set before the first
    announcement."""

    def __init__(self, registry: Registry, store: Store, attempt: Attempt) -> None:
        self.record: ReplicaRecord | None = None
        self.written: dict[str, bytes] = {}
        self.claimed: set[str] = set()
        self.lock = asyncio.Lock()
        self._registry = registry
        self._store = store
        self._attempt = attempt
        self._changed: set[str] = set()  # names that are to be written
        self._touched: set[str] | None = None  # names that have changed while all is being written
        self._version = 0
        self._writing: asyncio.Task[None] | None = None
        self._tasks = TaskOwner()
        registry.observers.append(self)

    async def close(self) -> None:
        await self._tasks.close()

    def registered(self, registration: Registration) -> None:
        if not registration.remote:
            self.write_soon(registration.name)

    def unregistered(self, registration: Registration) -> None:
        if not registration.remote:
            self.write_soon(registration.name)

    def write_soon(self, name: str) -> None:
        if self._touched is not None:
            self._touched.add(name)
        if not self._is_news(name, self.value(name)):
            return
        self._changed.add(name)
        if (self._writing is None or self._writing.done()) and self.record is not None:
            self._writing = self._tasks.start(self._attempt(self._write()))

    def _is_news(self, name: str, value: bytes) -> bool:
        return name in self.claimed or value != self.written.get(name, b"")

    def value(self, name: str, more: Registration | None = None) -> bytes:
        """What is to be written under a name; b"" if this replica has nothing of it."""
        own = [each for each in self._registry.processes(name) if not each.remote]
        if more is not None:
            own, _ = settle([*own, more])
        return encode_processes(own) if own else b""

    async def _write(self) -> None:
        """Write what has changed, until nothing has."""
        while self._changed:
            async with self.lock:
                names, self._changed = self._changed, set()
                found = [(name, self.value(name)) for name in names]
                values = [(name, value) for name, value in found if self._is_news(name, value)]
                try:
                    await self._store.write(values)
                except OwnKeyMissing:
                    await self.announce()
                else:
                    self._keep(values)

    def _keep(self, values: list[tuple[str, bytes]]) -> None:
        for name, value in values:
            self.claimed.discard(name)
            if value:
                self.written[name] = value
            else:
                self.written.pop(name, None)

    async def announce(self) -> None:
        """Write all that this replica has; under `lock`."""
        assert self.record is not None
        names = {each.name for each in self._registry.registrations() if not each.remote}
        touched = self._touched = set[str]()
        values = dict[str, bytes]()
        try:
            for at, name in enumerate(names):
                if value := self.value(name):
                    values[name] = value
                if at % AT_ONCE == 0:
                    await asyncio.sleep(0)
            self._version = max(self._version + 1, int(time.time() * 1e3))
            await self._store.announce(self.record.encode(), self._version, values)
        finally:
            self._touched = None
        self.written = values
        self.claimed.clear()
        for name in touched:
            self.write_soon(name)
