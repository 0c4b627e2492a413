"""Where saved contracts are kept: here, or in what replicas share (replicas/shared_contracts.py)."""

import time
from collections.abc import Callable
from typing import Protocol

from devroute.routing.named_contracts import NamedContract, NamedContracts


class ContractStore(Protocol):
    """Where saved contracts are kept."""

    async def save(self, draft: NamedContract, *, admin: bool) -> NamedContract | None:
        """Returns what it has replaced. Raises ContractNotOwned, TooManyContracts or ContractsUnavailable."""

    async def delete(self, name: str, subject: str, *, admin: bool) -> NamedContract:
        """Returns what it was. Raises ContractUnknown, ContractNotOwned or ContractsUnavailable."""


class LocalContracts:
    """A ContractStore that is this process's memory."""

    def __init__(self, names: NamedContracts, clock: Callable[[], float] = time.time) -> None:
        self._names = names
        self._clock = clock

    async def save(self, draft: NamedContract, *, admin: bool) -> NamedContract | None:
        before = self._names.permit_save(draft, self._clock(), admin=admin)
        self._names.put(draft)
        return before

    async def delete(self, name: str, subject: str, *, admin: bool) -> NamedContract:
        now = self._clock()
        found = self._names.find(name, now)
        self._names.permit_change(name, subject, now, admin=admin)
        self._names.remove(name, now)
        return found
