"""An issuer's keys, fetched over HTTP and cached, so that tokens keep working while the issuer is down. Owns
when to fetch, and how long keys are used; auth/jwks_fetch.py fetches.

Keys are fetched every REFRESH_SECONDS, and when a token names an unknown one, but at most every
COOLDOWN_SECONDS, so invented key ids cannot cause more requests. Without a new response keys are used for
`max_age` seconds.
"""

import asyncio
import random
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

import structlog

from devroute.errors import ConfigInvalid, KeysUnavailable
from devroute.tasks import TaskOwner, import_in_thread

#: Seconds between two fetches, and after one that failed.
REFRESH_SECONDS: Final = 300.0
RETRY_SECONDS: Final = 15.0
#: The least number of seconds between two fetches, however many tokens name unknown keys.
COOLDOWN_SECONDS: Final = 1.0
#: Requests that may wait for a fetch at once; each holds a connection.
MAX_WAITING: Final = 256

log = structlog.stdlib.get_logger("devroute.jwks")


class KeySet(Protocol):
    """Public keys: for tokens, or for contracts."""

    @property
    def by_id(self) -> Mapping[str, object]: ...
    def get(self, kid: str | None) -> object | None: ...


K = TypeVar("K", bound=KeySet)


@dataclass(kw_only=True, eq=False)
class RemoteKeys(Generic[K]):
    """`problem`: why the newest fetch failed, None if it did not. `clock()`: seconds of a monotonic clock.
    `parse(text, url)` makes keys of a response, or raises ConfigInvalid. `empty`: no keys. Without `url`, it
    is taken from the issuer's discovery document (OpenID Connect Discovery 1.0 §4)."""

    issuer: str
    url: str | None
    max_age: float
    clock: Callable[[], float]
    parse: Callable[[str, str], K]
    empty: K
    interval: float = REFRESH_SECONDS
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        self.problem: str | None = None
        self._keys = self.empty
        self._fetched: float | None = None
        self._fetch_started: float | None = None
        self._tasks = TaskOwner()
        self._fetching: asyncio.Task[None] | None = None
        self._waiting = 0

    @property
    def current(self) -> K:
        """The keys that may be used now; waits for nothing."""
        return self._keys if self.usable else self.empty

    async def keys(self, kid: str | None) -> K:
        """Keys to verify a token with, fetched first if that of this id is missing. Raises
        KeysUnavailable."""
        if not self.usable or self._keys.get(kid) is None:
            failed_just_now = self.problem is not None and self._cooldown() > 0
            if self._waiting >= MAX_WAITING:
                raise KeysUnavailable("too many tokens wait for the issuer's keys")
            if self.usable or not failed_just_now:
                await self._refreshed()
        if not self.usable:
            raise KeysUnavailable(f"the keys of the tokens' issuer are not available: {self.problem}")
        return self._keys

    def refresh(self) -> "asyncio.Task[None]":
        """Fetch as soon as the cool-down allows; one fetch serves all that wait for it."""
        if self._fetching is None or self._fetching.done():
            self._fetching = self._tasks.start(self._fetch())
        return self._fetching

    async def run(self) -> None:
        """Refresh the keys periodically, until cancelled."""
        try:
            while True:
                await self._refreshed()
                pause = self.interval if self.problem is None else RETRY_SECONDS
                await asyncio.sleep(pause * random.uniform(0.9, 1.1))
        finally:
            await self._tasks.close()

    def status(self) -> dict[str, object]:
        """For /readyz."""
        return {
            "problem": self.problem,
            "keys": len(self._keys.by_id),
            "age_s": self.age_s,
            "usable": self.usable,
        }

    @property
    def age_s(self) -> int | None:
        """Seconds since the keys were fetched; None before that."""
        return None if self._fetched is None else round(self.clock() - self._fetched)

    @property
    def usable(self) -> bool:
        """Whether keys were fetched, and not too long ago."""
        return self._fetched is not None and self.clock() - self._fetched <= self.max_age

    def _cooldown(self) -> float:
        """Seconds until the next fetch may start."""
        return 0.0 if self._fetch_started is None else self._fetch_started + COOLDOWN_SECONDS - self.clock()

    async def _refreshed(self) -> None:
        """Wait for a fetch, which others may share; cancelling the wait does not cancel it."""
        self._waiting += 1
        try:
            await asyncio.shield(self.refresh())
        finally:
            self._waiting -= 1

    async def _fetch(self) -> None:
        if (pause := self._cooldown()) > 0:
            await asyncio.sleep(pause)
        self._fetch_started = self.clock()
        try:
            # It imports aiohttp, which takes long: not at a start without an issuer.
            await import_in_thread("devroute.auth.jwks_fetch")
            from devroute.auth.jwks_fetch import fetch

            keys = await fetch(self.issuer, self.url, self.parse, self.tls)
        except ConfigInvalid as error:
            if error.message != self.problem:
                problem, usable = error.message, self.usable
                log.error("oidc.keys_unavailable", issuer=self.issuer, problem=problem, usable=usable)
            self.problem = error.message
            return
        if self.problem is not None or keys.by_id.keys() != self._keys.by_id.keys():
            log.info("oidc.keys_loaded", issuer=self.issuer, keys=sorted(keys.by_id))
        self._keys, self._fetched, self.problem = keys, self.clock(), None
