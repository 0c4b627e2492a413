"""Which names of headers, parameters and fields have a secret as their value. Pure; owns the rule.

Names are compared without case and separators, and by default without digits at their end: `accessToken`,
`access_token` and `X-Access-Token-2` are one name. In case of doubt a name is secret.
"""

import re
from collections.abc import Iterable
from typing import Final

from devroute.bounded_cache import BoundedCache

#: The ends of names that are secret: `clientSecret`, `x-password`, `XSRF-TOKEN`.
ENDS: Final = (
    "token", "secret", "secrets", "password", "passwords", "passwd", "passphrase", "passcode", "pwd",
    "credential", "credentials", "authorization", "cookie", "cookies", "assertion", "jwt", "signature",
    *(f"{use}key" for use in (
        "api", "access", "private", "secret", "signing", "encryption", "auth", "session", "account", "shared",
        "master", "subscription", "functions", "publishable", "storage",
    )),
)  # fmt: skip

#: Parts of names that make them secret wherever they are: `password_confirmation`, `passwordHash`.
PARTS: Final = ("password", "passwd", "passphrase")

#: Whole names, also after `x-`: signatures of URLs, sessions, one-time passwords and codes.
WHOLE: Final = frozenset((
    "sig", "sessionid", "jsessionid", "phpsessid", "sessid",
    "authenticationinfo", "otp", "totp", "samlresponse", "codeverifier", "accesstokens", "refreshtokens",
    "pass", "apikeys",
))  # fmt: skip

#: Names that end like a secret, but only say where a list goes on.
NOT_SECRET: Final = frozenset((
    "pagetoken", "nextpagetoken", "prevpagetoken", "previouspagetoken", "nexttoken", "synctoken",
    "nextsynctoken", "continuationtoken", "nextcontinuationtoken", "continuetoken",
))  # fmt: skip

#: In a text in lower case without any of these there is no such name, but for those with `key`.
HINTS: Final = (
    b"token", b"secret", b"pass", b"pwd", b"credential", b"authoriz", b"cookie", b"assertion", b"jwt", b"sig",
    b"sess", b"otp", b"saml", b"verifier",
)  # fmt: skip
_KEY: Final = b"key"
_KEYS = re.compile(
    b"(?:%b)[^a-z0-9]?keys?" % b"|".join(end[:-3].encode() for end in ENDS if end.endswith("key"))
)

#: The end of a name of gRPC's metadata whose value is binary: `x-auth-token-bin`.
_BINARY: Final = "bin"
_SEPARATORS = re.compile(r"[\W_]+")
#: Bytes of the names that are remembered: they are few, but they come from strangers.
_MAX_REMEMBERED: Final = 1024 * 1024


def might_have_secret(low: bytes) -> bool:
    """A cheap test: False means that a text, in lower case, has no secret name of the defaults."""
    find = low.find  # `in` raises and catches an exception each time
    for hint in HINTS:  # any() costs five times as much
        if find(hint) >= 0:
            return True
    return find(_KEY) >= 0 and _KEYS.search(low) is not None


class SecretNames:
    """The defaults, with names that are secret besides them and others that are not."""

    def __init__(self, added: Iterable[str] = (), removed: Iterable[str] = ()) -> None:
        self._added = frozenset(_squeezed(name) for name in added)
        self._removed = frozenset(_squeezed(name) for name in removed)
        self._known: BoundedCache[str, bool] = BoundedCache(_MAX_REMEMBERED)

    def __contains__(self, name: str) -> bool:
        found = self._known.get(name)
        if found is None:
            found = self._is_secret(name)
            self._known.put(name, found, len(name.encode("utf-8", "surrogatepass")))
        return found

    def _is_secret(self, name: str) -> bool:
        squeezed = _squeezed(name)
        for each in (squeezed, squeezed.removesuffix(_BINARY)):
            if each in self._added:
                return True
            if each in self._removed:
                return False
        return is_secret_by_default(squeezed)


def _squeezed(name: str) -> str:
    """The same text for all spellings of a name."""
    return _SEPARATORS.sub("", name.lower())


def is_secret_by_default(name: str) -> bool:
    plain = _squeezed(name).rstrip("0123456789").removesuffix(_BINARY).rstrip("0123456789")
    if plain in WHOLE or plain.removeprefix("x") in WHOLE or any(part in plain for part in PARTS):
        return True
    return plain.endswith(ENDS) and plain not in NOT_SECRET
