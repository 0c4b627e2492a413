"""Public keys from where a setting names them: a file that is watched, or a URL that is fetched periodically.

Owns the task that fetches. What the keys verify is decided in auth/oidc.py and contract/verifier.py.
"""

import asyncio
from typing import Any, Generic

from devroute.auth.jwks import K, RemoteKeys
from devroute.errors import KeysUnavailable
from devroute.proxy.watched_file import WatchedFile
from devroute.tasks import TaskOwner


class PublicKeySource(Generic[K]):
    """Keys of one purpose; `name` is that of the file in the audit trail."""

    def __init__(self, name: str, source: RemoteKeys[K] | WatchedFile[K]) -> None:
        self._name = name
        self._source = source
        self._remote = source if isinstance(source, RemoteKeys) else None
        self._tasks = TaskOwner()
        self._fetching: asyncio.Task[None] | None = None

    def current(self) -> K:
        """The keys in force; another object once they have changed."""
        return self._source.current

    def usable(self) -> K:
        """As `current`. Raises KeysUnavailable where keys of a URL are not fetched, or too old."""
        if self._remote is not None and not self._remote.usable:
            self.look_again()
            raise KeysUnavailable(f"the keys in {self._name} are not available")
        return self.current()

    async def keys(self, kid: str | None) -> K:
        """The keys in force, fetched first where that of this id is missing. Raises KeysUnavailable."""
        return self.current() if self._remote is None else await self._remote.keys(kid)

    def start(self) -> None:
        """Begin to fetch. The proxy does not wait for it: /readyz shows that keys are missing."""
        if self._remote is not None:
            self._fetching = self._tasks.start(self._remote.run())

    async def stop(self) -> None:
        await self._tasks.close()

    def look_again(self) -> None:
        """Fetch soon, since a key was named that is not known; returns at once."""
        if self._remote is not None and self._fetching is not None:
            self._remote.refresh()

    def files(self) -> list[tuple[str, WatchedFile[Any]]]:
        return [(self._name, self._source)] if isinstance(self._source, WatchedFile) else []

    @property
    def problem(self) -> str | None:
        """Why the newest version is not in force."""
        return self._source.problem

    @property
    def age_s(self) -> int | None:
        """Seconds since what is in force was last known to be the newest version; None without a source."""
        return self._source.age_s

    def status(self) -> dict[str, object]:
        """For /readyz."""
        if self._remote is not None:
            return self._remote.status()
        keys = len(self.current().by_id)
        return {"problem": self.problem, "keys": keys, "age_s": self.age_s, "usable": True}
