"""Who is let in, as the settings say: the token file and the issuer's keys, watched while the proxy runs.

Owns what has to be kept up to date for that; the judgement itself is auth/authenticator.py's.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

from devroute.auth.authenticator import Authenticator, Issuer
from devroute.auth.jwks import RemoteKeys
from devroute.auth.oidc import IssuerKeys, Rules
from devroute.auth.tls import trusting
from devroute.auth.tokens import Tokens
from devroute.proxy.settings import ProxySettings
from devroute.proxy.watched_file import WatchedFile


class FileKeys:
    """The issuer's keys in a file, for a proxy that cannot reach the issuer."""

    def __init__(self, path: Path) -> None:
        """Raises ConfigInvalid."""
        self.file = WatchedFile(path, IssuerKeys.parse, IssuerKeys())

    async def keys(self, kid: str | None) -> IssuerKeys:
        return self.file.value

    def status(self) -> dict[str, object]:
        return {"problem": self.file.problem, "keys": len(self.file.value.by_id), "usable": True}


class IdentitySources:
    """`start` begins to fetch the issuer's keys, `stop` ends it; `files` are to be looked at now and then."""

    def __init__(self, settings: ProxySettings) -> None:
        """Raises ConfigInvalid for a file that cannot be used."""
        self._tokens = WatchedFile(settings.tokens, Tokens.parse, Tokens())
        self._keys = _key_source(settings)
        self._fetching: asyncio.Task[None] | None = None
        issuer = None
        if self._keys is not None and settings.oidc_issuer is not None:
            rules = Rules(
                issuer=settings.oidc_issuer,
                audience=settings.oidc_audience,
                subject_claim=settings.oidc_subject_claim,
                email_domain=settings.oidc_email_domain,
                groups_claim=settings.oidc_groups_claim,
                skew=settings.oidc_clock_skew,
            )
            issuer = Issuer(rules, self._keys)
        authenticator = Authenticator(lambda: self._tokens.value, issuer, settings.tls_client_subject)
        self.authenticate = authenticator.authenticate
        self.still_in_force = authenticator.still_in_force

    @property
    def tokens(self) -> Tokens:
        """Those in force; another object once the file has changed."""
        return self._tokens.value

    def start(self) -> None:
        """A proxy does not wait for the issuer: it says in /readyz that it has no keys, and goes on."""
        if isinstance(self._keys, RemoteKeys):
            self._fetching = asyncio.get_running_loop().create_task(self._keys.run())

    async def stop(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._fetching

    def files(self) -> list[tuple[str, WatchedFile[Any]]]:
        """What is read again when it changes, as the audit trail names it."""
        keys = [("oidc-keys", self._keys.file)] if isinstance(self._keys, FileKeys) else []
        return [("tokens", self._tokens), *keys]

    def status(self) -> dict[str, object]:
        """For /readyz."""
        return {
            "tokens_problem": self._tokens.problem,
            "oidc": None if self._keys is None else self._keys.status(),
        }


def _key_source(settings: ProxySettings) -> RemoteKeys[IssuerKeys] | FileKeys | None:
    if settings.oidc_issuer is None:
        return None
    where = settings.oidc_jwks
    if where is not None and "://" not in where:
        return FileKeys(Path(where))
    return RemoteKeys(
        issuer=settings.oidc_issuer,
        url=where,
        max_age=settings.oidc_keys_max_age,
        clock=asyncio.get_running_loop().time,
        parse=IssuerKeys.parse,
        empty=IssuerKeys(),
        tls=trusting(settings.oidc_ca_file) if settings.oidc_ca_file is not None else None,
    )
