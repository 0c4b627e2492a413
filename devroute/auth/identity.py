"""Who somebody is, once a token or a certificate has said so. Pure; how that is found out is
auth/authenticator.py's part, what they may do is policy/policy.py's.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

#: What ssl.SSLSocket.getpeercert() says of a certificate that was verified.
PeerCertificate = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """`subject` is a DNS label; it owns the names `subject` and `subject-*`. `groups` are what the issuer
    says. `expires`: seconds since the epoch, None for never. `token_id` names the static token. `locked`: it
    expires with the certificate that was shown beside a token, which would hold for longer."""

    subject: str
    groups: frozenset[str] = frozenset()
    expires: float | None = None
    token_id: str = ""
    kind: Literal["token", "oidc", "certificate"] = "token"
    locked: bool = False


#: The identity that an Authorization field ("" for none) or else a verified certificate proves.
#: Raises TokenInvalid and its kin.
Authenticate = Callable[[str, PeerCertificate | None], Awaitable[Identity]]
