"""A verified identity. Pure; auth/authenticator.py verifies it, policy/policy.py says what it may do."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

#: A verified certificate, as ssl.SSLSocket.getpeercert() returns it.
PeerCertificate = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """`subject`: a DNS label, which owns the names `subject` and `subject--*`. `groups`: from the issuer.
    `expires`: seconds since the epoch, None for never. `token_id`: of a static token. `bound_to_certificate`:
    it expires with the client certificate, before its token does."""

    subject: str
    groups: frozenset[str] = frozenset()
    expires: float | None = None
    token_id: str = ""
    kind: Literal["token", "oidc", "certificate"] = "token"
    bound_to_certificate: bool = False

    def expires_in(self, now: float) -> float | None:
        """Seconds, 0 once it has expired."""
        return None if self.expires is None else max(0.0, self.expires - now)


#: The identity that an Authorization field ("" for none) or else a verified certificate proves.
#: Raises TokenInvalid, TokenExpired, SubjectInvalid or KeysUnavailable.
Authenticate = Callable[[str, PeerCertificate | None], Awaitable[Identity]]
