"""The keys of an issuer, fetched over HTTP and kept: while it cannot answer, people's tokens go on working.
Owns when to ask, what to believe of the answer, and for how long.

Keys are fetched again every REFRESH_SECONDS, and when a token names one that is not there, but never more
often than every COOLDOWN_SECONDS: invented key ids get nothing fetched more often. While the issuer is down
the old keys are good for `max_age` seconds.
"""

import asyncio
import json
import random
import ssl
from collections.abc import Callable, Mapping
from typing import Final, Generic, Protocol, TypeVar

import aiohttp
import structlog

from devroute.auth.tls import is_exposed
from devroute.errors import ConfigInvalid, KeysUnavailable

#: Seconds between two looks at the issuer when all is well, and after one that failed.
REFRESH_SECONDS: Final = 300.0
RETRY_SECONDS: Final = 15.0
#: The least time between two fetches, in seconds: an issuer sees one request in so long, whoever asks us.
COOLDOWN_SECONDS: Final = 1.0
#: For one request to the issuer, in seconds: two and the cool-down end before a head's deadline (10 s).
FETCH_SECONDS: Final = 3.5
#: Bytes of an answer; ten keys have some 10 KiB.
MAX_ANSWER: Final = 256 * 1024
#: Requests that may wait for a fetch at once; they hold a connection each.
MAX_WAITING: Final = 256

_DISCOVERY: Final = "/.well-known/openid-configuration"

log = structlog.stdlib.get_logger("devroute.jwks")


class KeySet(Protocol):
    """Public keys, whatever they verify."""

    @property
    def by_id(self) -> Mapping[str, object]: ...
    def get(self, kid: str | None) -> object | None: ...


K = TypeVar("K", bound=KeySet)


class RemoteKeys(Generic[K]):
    """`problem` says why the newest fetch failed, if it did; `clock` gives seconds of a steady clock. `parse`
    makes keys of an answer's text and URL, or raises ConfigInvalid; `empty` are none."""

    def __init__(
        self,
        *,
        issuer: str,
        url: str | None,
        max_age: float,
        clock: Callable[[], float],
        parse: Callable[[str, str], K],
        empty: K,
        refresh: float = REFRESH_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Without `url`, the issuer's discovery document names it (OpenID Connect Discovery 1.0 §4)."""
        self.problem: str | None = None
        self._issuer = issuer
        self._url = url
        self._max_age = max_age
        self._clock = clock
        self._tls = tls
        self._parse = parse
        self._empty = self._keys = empty
        self._refresh = refresh
        self._fetched: float | None = None
        self._asked: float | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._waiting = 0

    @property
    def current(self) -> K:
        """The keys that are good now, without waiting for others."""
        return self._keys if self._good else self._empty

    async def keys(self, kid: str | None) -> K:
        """Keys to verify a token with; fetched first if that of this id is not among them.
        Raises KeysUnavailable."""
        if not self._good or self._keys.get(kid) is None:
            failed_just_now = self.problem is not None and self._cooling() > 0
            if self._waiting >= MAX_WAITING:
                raise KeysUnavailable("too many tokens wait for their issuer's keys")
            if self._good or not failed_just_now:
                await self._fetched_again()
        if not self._good:
            raise KeysUnavailable(f"the keys of the tokens' issuer cannot be had: {self.problem}")
        return self._keys

    def refresh(self) -> "asyncio.Task[None]":
        """Have them fetched as soon as that may be; once, however many ask for it."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
        return self._fetching

    async def run(self) -> None:
        """Keep the keys fresh until cancelled; the owner's task."""
        try:
            while True:
                await self._fetched_again()
                pause = self._refresh if self.problem is None else RETRY_SECONDS
                await asyncio.sleep(pause * random.uniform(0.9, 1.1))
        finally:
            if self._fetching is not None:
                self._fetching.cancel()

    def status(self) -> dict[str, object]:
        """For /readyz."""
        age = None if self._fetched is None else round(self._clock() - self._fetched)
        return {"problem": self.problem, "keys": len(self._keys.by_id), "age_s": age, "usable": self._good}

    @property
    def _good(self) -> bool:
        return self._fetched is not None and self._clock() - self._fetched <= self._max_age

    def _cooling(self) -> float:
        """Seconds until the issuer may be asked again."""
        return 0.0 if self._asked is None else self._asked + COOLDOWN_SECONDS - self._clock()

    async def _fetched_again(self) -> None:
        """Returns after a fetch that others may have asked for, too; whoever waits may give up meanwhile."""
        self._waiting += 1
        try:
            await asyncio.shield(self.refresh())
        finally:
            self._waiting -= 1

    async def _fetch(self) -> None:
        if (pause := self._cooling()) > 0:
            await asyncio.sleep(pause)
        self._asked = self._clock()
        try:
            keys = await self._download()
        except (ConfigInvalid, TimeoutError, OSError, aiohttp.ClientError, ValueError) as error:
            problem = _words(error)
            if problem != self.problem:
                log.error("oidc.keys_unavailable", issuer=self._issuer, problem=problem, usable=self._good)
            self.problem = problem
            return
        if self.problem is not None or keys.by_id.keys() != self._keys.by_id.keys():
            log.info("oidc.keys_loaded", issuer=self._issuer, keys=sorted(keys.by_id))
        self._keys, self._fetched, self.problem = keys, self._clock(), None

    async def _download(self) -> K:
        timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
        async with aiohttp.ClientSession(
            timeout=timeout, auto_decompress=False, headers={"accept-encoding": "identity"}
        ) as session:
            url = self._url
            if url is None:
                url = await self._discover(session)
            return self._parse(await self._get(session, url), url)

    async def _discover(self, session: aiohttp.ClientSession) -> str:
        where = self._issuer.rstrip("/") + _DISCOVERY
        try:
            document = json.loads(await self._get(session, where))
        except RecursionError:
            raise ConfigInvalid(f"{where}: not JSON") from None
        if not isinstance(document, dict) or document.get("issuer") != self._issuer:
            raise ConfigInvalid(f"{where}: it is not the document of the issuer '{self._issuer}'")
        url = document.get("jwks_uri")
        if not isinstance(url, str):
            raise ConfigInvalid(f"{where}: it has no jwks_uri")
        if not url.startswith(("https://", "http://")) or is_exposed(url):
            raise ConfigInvalid(f"{where}: its jwks_uri is not https")
        return url

    async def _get(self, session: aiohttp.ClientSession, url: str) -> str:
        tls = self._tls if self._tls is not None else True
        async with session.get(url, allow_redirects=False, ssl=tls) as response:
            if response.status != 200:
                raise ConfigInvalid(f"{url}: it answered {response.status}")
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > MAX_ANSWER:
                    raise ConfigInvalid(f"{url}: its answer is longer than {MAX_ANSWER} bytes")
        return body.decode()


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {FETCH_SECONDS:g} s"
    if isinstance(error, ConfigInvalid):
        return error.message
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    return " ".join(str(error).split()) or type(error).__name__
