"""The sources of identities: the token file and the issuer's keys, kept up to date while the proxy runs.

Whether a token is valid is decided in auth/authenticator.py.
"""

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devroute.auth.authenticator import Authenticator, Issuer
from devroute.auth.blocks import Blocks
from devroute.auth.identity import Identity, PeerCertificate
from devroute.auth.jwks import RemoteKeys
from devroute.auth.tls import client_context
from devroute.auth.tokens import Tokens
from devroute.proxy.public_keys import PublicKeySource
from devroute.proxy.settings import ProxySettings
from devroute.proxy.watched_file import WatchedFile

if TYPE_CHECKING:  # imported where an issuer is configured: a tenth of the start of a proxy
    from devroute.auth.oidc import IssuerKeys, TokenRules


class IdentitySources:
    """`keys` are the issuer's, to be started and stopped; `files` are to be refreshed periodically. `blocks`
    are the subjects that administrators have blocked."""

    def __init__(self, settings: ProxySettings) -> None:
        """Raises ConfigInvalid for a file that cannot be used."""
        self._tokens = WatchedFile(settings.tokens, Tokens.parse, Tokens())
        issuer = None
        self.keys: PublicKeySource[IssuerKeys] | None = None
        if settings.oidc_issuer is not None:
            self.keys = PublicKeySource("oidc-keys", _issuer_keys(settings, settings.oidc_issuer))
            issuer = Issuer(_rules(settings, settings.oidc_issuer), self.keys.keys)
        self.blocks = Blocks()
        self._authenticator = Authenticator(lambda: self._tokens.current, issuer, settings.tls_client_subject)

    async def authenticate(self, authorization: str, certificate: PeerCertificate | None) -> Identity:
        """Raises what Authenticator.authenticate raises, and SubjectBlocked."""
        identity = await self._authenticator.authenticate(authorization, certificate)
        self.blocks.check(identity.subject, time.time())
        return identity

    def check_current(self, identity: Identity, now: float) -> float | None:
        """As Authenticator.check_current. Raises TokenExpired, TokenInvalid or SubjectBlocked."""
        expires = self._authenticator.check_current(identity, now)
        self.blocks.check(identity.subject, now)
        return expires

    @property
    def tokens(self) -> Tokens:
        """The tokens in force; another object once the file has changed."""
        return self._tokens.current

    def files(self) -> list[tuple[str, WatchedFile[Any]]]:
        """The files, by their names in the audit trail."""
        return [("tokens", self._tokens), *(self.keys.files() if self.keys is not None else ())]

    def status(self) -> dict[str, object]:
        """For /readyz."""
        return {
            "tokens_problem": self._tokens.problem,
            "tokens_age_s": self._tokens.age_s,
            "oidc": None if self.keys is None else self.keys.status(),
        }


def login_settings(settings: ProxySettings) -> dict[str, object] | None:
    """What `devroute login` needs to know; None without a client for it. The secret is none, as for every
    program that people install (RFC 8252 §8.5)."""
    if settings.oidc_client_id is None:
        return None
    secret = settings.oidc_client_secret
    return {
        "issuer": settings.oidc_issuer,
        "client_id": settings.oidc_client_id,
        **({} if secret is None else {"client_secret": secret}),
        "scopes": list(settings.oidc_scopes),
        "token": settings.oidc_login_token,
    }


def _rules(settings: ProxySettings, issuer: str) -> "TokenRules":
    from devroute.auth.oidc import TokenRules

    return TokenRules(
        issuer=issuer,
        audience=settings.oidc_audience,
        subject_claim=settings.oidc_subject_claim,
        email_domain=settings.oidc_email_domain,
        groups_claim=settings.oidc_groups_claim,
        skew=settings.oidc_clock_skew,
    )


def _issuer_keys(settings: ProxySettings, issuer: str) -> "RemoteKeys[IssuerKeys] | WatchedFile[IssuerKeys]":
    from devroute.auth.oidc import IssuerKeys

    location = settings.oidc_jwks
    if location is not None and "://" not in location:
        return WatchedFile(Path(location), IssuerKeys.parse, IssuerKeys())
    return RemoteKeys(
        issuer=issuer,
        url=location,
        max_age=settings.oidc_keys_max_age,
        clock=asyncio.get_running_loop().time,
        parse=IssuerKeys.parse,
        empty=IssuerKeys(),
        tls=client_context(settings.oidc_ca_file) if settings.oidc_ca_file is not None else None,
    )
