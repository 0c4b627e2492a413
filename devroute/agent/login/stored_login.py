"""What `devroute login` was granted, one private file for each server, and its renewal.

A refresh token may be good for one use: issuers that rotate them end the whole login if one is used twice. So
one process at a time renews, under a lock, and the others take what it has saved.
"""

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from devroute import private_files
from devroute.agent.login.device_flow import LoginSettings, TokenResponse, refresh, revoke_token
from devroute.agent.login.issuer_client import IssuerClient
from devroute.agent.settings import ClientSettings
from devroute.agent.token_source import UNKNOWN_LIFETIME, expiry, renewal_delay
from devroute.errors import ConfigInvalid, DevrouteError, LoginFailed, LoginRequired, ServerUnreachable

#: Seconds to wait for another process that renews, and between two looks at its lock.
LOCK_SECONDS: Final = 30.0
LOCK_PAUSE: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredLogin:
    """`server`: the proxy's URL, the only one that `token` is sent to. The refresh token is sent only to
    `issuer`. Times in seconds since the epoch; `expires` is None if nothing says when."""

    server: str
    issuer: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    scopes: tuple[str, ...] = ()
    kind: str = "id_token"
    token: str = field(repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    obtained: float
    expires: float | None = None

    @property
    def settings(self) -> LoginSettings:
        return LoginSettings.model_validate(
            {
                "issuer": self.issuer,
                "client_id": self.client_id,
                "client_secret": self.client_secret,
                "scopes": self.scopes,
                "token": self.kind,
            }
        )

    @property
    def renew_at(self) -> float:
        lifetime = UNKNOWN_LIFETIME if self.expires is None else self.expires - self.obtained
        return self.obtained + renewal_delay(lifetime)


def granted(
    server: str, settings: LoginSettings, response: TokenResponse, now: float, before: str | None = None
) -> StoredLogin:
    """A login of what the issuer has sent. `before`: the refresh token that stays valid if there is no newer
    one (RFC 6749 §6). Raises LoginFailed."""
    token = response.id_token if settings.token == "id_token" else response.access_token
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        hint = "oidc_scopes has to name openid" if settings.token == "id_token" else None
        raise LoginFailed(f"the issuer '{settings.issuer}' sent no {settings.token}", hint=hint)
    expires = expiry(token)
    if expires is None and response.expires_in is not None:
        expires = now + response.expires_in
    return StoredLogin(
        server=server,
        issuer=settings.issuer,
        client_id=settings.client_id,
        client_secret=settings.client_secret,
        scopes=settings.scopes,
        kind=settings.token,
        token=token,
        refresh_token=response.refresh_token or before,
        obtained=now,
        expires=expires,
    )


# --- files --------------------------------------------------------------------------------------------------


def file_of(folder: Path, server: str) -> Path:
    """Where the login for a server is kept. `server`: one spelling of its URL for all."""
    return folder / f"{hashlib.sha256(server.encode()).hexdigest()[:32]}.json"


def save(file: Path, login: StoredLogin) -> None:
    """Readable by its owner only. Raises ConfigInvalid."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        private_files.replace(file, json.dumps(asdict(login)).encode())
    except OSError as error:
        raise ConfigInvalid(f"{file}: cannot be written: {error.strerror}") from error


def load(file: Path) -> StoredLogin | None:
    """None if there is none, or nothing that can be read: it is not worth more than another login."""
    try:
        document = json.loads(file.read_text("utf-8"))
        document["scopes"] = tuple(document["scopes"])
        return StoredLogin(**document)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def all_logins(folder: Path) -> Iterator[tuple[Path, StoredLogin]]:
    for file in sorted(folder.glob("*.json")):
        if (login := load(file)) is not None:
            yield file, login


def forget(file: Path) -> None:
    """The lock stays: another process may wait for it. Raises ConfigInvalid."""
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigInvalid(f"{file}: cannot be removed: {error.strerror}") from error


# --- renewal ------------------------------------------------------------------------------------------------


class LoginTokens:
    """The token of a stored login, renewed before it expires."""

    def __init__(self, file: Path, settings: ClientSettings, now: Callable[[], float] = time.time) -> None:
        self._file = file
        self._settings = settings
        self._now = now
        self._last = ""

    async def get(self, *, newer: bool = False) -> tuple[str, bool]:
        """A token, and whether it differs from the last one. `newer`: that one is to be replaced. Raises
        LoginRequired, LoginFailed and ServerUnreachable."""
        login = self._stored()
        if self._is_due(login, newer):
            login = await self._renewed(login, newer)
        is_new, self._last = login.token != self._last, login.token
        return login.token, is_new

    def _is_due(self, login: StoredLogin, newer: bool) -> bool:
        return (newer and login.token == self._last) or self._now() >= login.renew_at

    def _stored(self) -> StoredLogin:
        if (login := load(self._file)) is None:
            raise LoginRequired("this laptop is not logged in any more")
        return login

    async def _renewed(self, login: StoredLogin, newer: bool) -> StoredLogin:
        async with _held(self._file.with_suffix(".lock")):
            login = self._stored()
            if not self._is_due(login, newer):
                return login  # another process was faster
            still_valid = login.expires is None or self._now() < login.expires
            if login.refresh_token is None:
                if still_valid:
                    return login
                raise LoginRequired(
                    f"your login at '{login.issuer}' has expired, and it has no refresh token"
                )
            try:
                login = await self._refreshed(login, login.refresh_token)
            except ServerUnreachable:
                if newer or not still_valid:
                    raise
                return login
            save(self._file, login)
            return login

    async def _refreshed(self, login: StoredLogin, token: str) -> StoredLogin:
        client, settings = IssuerClient(self._settings), login.settings
        provider = await client.discover(settings)
        response = await refresh(provider, settings, token, client.post)
        return granted(login.server, settings, response, self._now(), before=token)


@contextlib.asynccontextmanager
async def _held(file: Path) -> AsyncIterator[None]:
    """Hold a lock. Raises ServerUnreachable if another process has it for too long."""
    try:
        async with asyncio.timeout(LOCK_SECONDS):
            while (lock := private_files.hold(file)) is None:  # noqa: ASYNC110  # another process has it
                await asyncio.sleep(LOCK_PAUSE)
    except TimeoutError:
        raise ServerUnreachable(f"another process has renewed this login for {LOCK_SECONDS:g} s") from None
    except OSError as error:
        raise ConfigInvalid(f"{file}: cannot be written: {error.strerror}") from error
    with lock:
        yield


# --- the end ------------------------------------------------------------------------------------------------


async def revoke(login: StoredLogin, settings: ClientSettings) -> bool:
    """End the login at the issuer too (RFC 7009), if it can; whether it could."""
    if login.refresh_token is None:
        return False
    client, granted_by = IssuerClient(settings), login.settings
    try:
        provider = await client.discover(granted_by)
        return await revoke_token(provider, granted_by, login.refresh_token, client.post)
    except DevrouteError:
        return False
