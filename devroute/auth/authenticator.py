"""From what a laptop sends to who it is: a static token, one of the issuer's (OIDC), or a client certificate.

Owns the order in which they are tried, and says whether an identity is still in force. Reads no files and
listens nowhere; proxy/control/api.py and proxy/control/tunnels.py ask it for each request and each link.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from devroute.auth.client_certificate import Part, check_same, identity_of, locked
from devroute.auth.identity import Identity, PeerCertificate
from devroute.auth.oidc import IssuerKeys, Rules, read, verify
from devroute.auth.tokens import PREFIX, Tokens, bearer
from devroute.errors import TokenExpired, TokenInvalid


class KeySource(Protocol):
    async def keys(self, kid: str | None) -> IssuerKeys:
        """The issuer's keys, that of this id among them if there is one. Raises KeysUnavailable."""


@dataclass(frozen=True, slots=True)
class Issuer:
    rules: Rules
    source: KeySource


class Authenticator:
    """`tokens()` are the static ones in force."""

    def __init__(
        self, tokens: Callable[[], Tokens], issuer: Issuer | None = None, certificate: Part = "off"
    ) -> None:
        self._tokens = tokens
        self._issuer = issuer
        self._part = certificate

    async def authenticate(self, authorization: str, certificate: PeerCertificate | None) -> Identity:
        """Where a certificate is an identity, it is one in place of a token, and a token beside it has to be
        of the same subject; both have to hold. Raises TokenInvalid, TokenExpired, SubjectInvalid,
        KeysUnavailable."""
        secret = bearer(authorization)
        if not certificate:
            return await self._by_token(secret)
        if self._part == "off":
            return locked(await self._by_token(secret), certificate)
        shown = identity_of(certificate, self._part)
        if not authorization:
            return shown
        named = await self._by_token(secret)
        check_same(named, shown)
        return locked(named, certificate)

    async def _by_token(self, secret: str) -> Identity:
        issuer = self._issuer
        if issuer is None or secret.startswith(PREFIX) or secret.count(".") != 2:
            return self._tokens().identity_of(secret, time.time())
        keys = await issuer.source.keys(read(secret, issuer.rules))
        return verify(secret, keys, issuer.rules, time.time())

    def check_current(self, identity: Identity, now: float) -> None:
        """Raises TokenExpired or TokenInvalid for an identity that may no longer be online."""
        if identity.expires is not None and identity.expires <= now:
            by_certificate = identity.kind == "certificate" or identity.locked
            what = "certificate" if by_certificate else "token"
            raise TokenExpired(f"the {what} of '{identity.subject}' has expired")
        if identity.kind == "token" and not self._tokens().has(identity):
            raise TokenInvalid(f"the token of '{identity.subject}' was revoked")
