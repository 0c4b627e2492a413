"""Authentication: from a static token, an issuer's token (OIDC) or a client certificate to an identity.

Owns the order in which they are tried, and the check whether an identity is still current. Reads no files and
listens nowhere.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devroute.auth.client_certificate import SubjectPart, identity_of, until_expiry_of
from devroute.auth.identity import Identity, PeerCertificate
from devroute.auth.tokens import PREFIX, Tokens, bearer_token
from devroute.errors import TokenExpired, TokenInvalid

if TYPE_CHECKING:  # for those who have an issuer: it imports jwt and cryptography
    from devroute.auth.oidc import IssuerKeys, TokenRules


@dataclass(frozen=True, slots=True)
class Issuer:
    """`keys(kid)`: the issuer's keys, with the one of this id if it exists. Raises KeysUnavailable."""

    rules: "TokenRules"
    keys: "Callable[[str | None], Awaitable[IssuerKeys]]"


class Authenticator:
    """`tokens()`: the static tokens as the file has them now."""

    def __init__(
        self, tokens: Callable[[], Tokens], issuer: Issuer | None = None, certificate: SubjectPart = "off"
    ) -> None:
        self._tokens = tokens
        self._issuer = issuer
        self._part = certificate

    async def authenticate(self, authorization: str, certificate: PeerCertificate | None) -> Identity:
        """Where certificates name a subject, one can take the place of a token; a token sent with it has to
        name the same subject, and both have to be valid. Raises TokenInvalid, TokenExpired, SubjectInvalid or
        KeysUnavailable."""
        secret = bearer_token(authorization)
        if not certificate:
            return await self._by_token(secret)
        if self._part == "off":
            return until_expiry_of(await self._by_token(secret), certificate)
        certified = identity_of(certificate, self._part)
        if not authorization:
            return certified
        named = await self._by_token(secret)
        if named.subject != certified.subject:  # a stolen token is of no use with another certificate
            other = f"the client certificate that of '{certified.subject}'"
            raise TokenInvalid(f"the token is that of '{named.subject}', {other}")
        return until_expiry_of(named, certificate)

    async def _by_token(self, secret: str) -> Identity:
        issuer = self._issuer
        if issuer is None or secret.startswith(PREFIX) or secret.count(".") != 2:
            return self._tokens().identity_of(secret, time.time())
        from devroute.auth.oidc import key_id, verify

        keys = await issuer.keys(key_id(secret, issuer.rules))
        return verify(secret, keys, issuer.rules, time.time())

    def check_current(self, identity: Identity, now: float) -> float | None:
        """Until when the identity is current, in seconds since the epoch; None for without end. Raises
        TokenExpired or TokenInvalid once the token or certificate that proved it is not valid any more."""
        if identity.expires is not None and identity.expires <= now:
            by_certificate = identity.kind == "certificate" or identity.bound_to_certificate
            what = "certificate" if by_certificate else "token"
            raise TokenExpired(f"the {what} of '{identity.subject}' has expired")
        if identity.kind != "token":
            return identity.expires
        record = self._tokens().record_of(identity)
        if record is None:
            raise TokenInvalid(f"the token of '{identity.subject}' was revoked")
        ends = [end for end in (identity.expires, record.expiry) if end is not None]
        if ends and min(ends) <= now:  # the file may have another end than when the identity was proved
            raise TokenExpired(f"the token of '{identity.subject}' has expired")
        return min(ends, default=None)
