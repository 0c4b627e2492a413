"""From what a laptop sends to who it is: static tokens, the issuer's (OIDC), or a client certificate.

Owns the order in which they are tried, and says whether an identity is still in force. Reads no files and
listens nowhere; control.py and tunnel/accept.py ask it for each request and each link.
"""

import time
from collections.abc import Callable

from devroute.auth import Tokens, bearer
from devroute.errors import TokenExpired, TokenInvalid
from devroute.identity import Identity, PeerCertificate


class Authenticator:
    """`tokens()` are the static ones in force."""

    def __init__(self, tokens: Callable[[], Tokens]) -> None:
        self._tokens = tokens

    async def authenticate(self, authorization: str, certificate: PeerCertificate | None) -> Identity:
        """Raises TokenInvalid, TokenExpired."""
        return self._tokens().identity_of(bearer(authorization), time.time())

    def still_in_force(self, identity: Identity, now: float) -> None:
        """Raises TokenExpired or TokenInvalid for an identity that may no longer be online."""
        if identity.expires is not None and identity.expires <= now:
            raise TokenExpired(f"the token of '{identity.subject}' has expired")
        if identity.kind == "token" and not self._tokens().has(identity):
            raise TokenInvalid(f"the token of '{identity.subject}' was revoked")
