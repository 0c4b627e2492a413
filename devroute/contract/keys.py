"""The public keys that may sign contracts: a JWKS (RFC 7517 §5). Pure; proxy/reload.py reads the file
and watches it for changes.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from devroute.errors import ConfigInvalid
from devroute.quoting import quote

if TYPE_CHECKING:
    from jwt import PyJWK

#: The algorithm for a key's type and curve. The key decides it, never the token (RFC 8725 §3.1).
ALGORITHMS: Final[Mapping[tuple[object, object], str]] = {
    ("OKP", "Ed25519"): "EdDSA",
    ("EC", "P-256"): "ES256",
}
#: Keys in a file: one for each developer of a large company.
MAX_KEYS: Final = 1024
#: Bytes of a key file: the largest ConfigMap.
MAX_FILE: Final = 1024 * 1024
#: A key's id or subject: short and printable, because logs show it.
NAME: Final = re.compile(r"[!-~]{1,253}")

#: Private members of a JWK (RFC 7518 §6.2.2, §6.3.2, §6.4.1).
_PRIVATE: Final = ("d", "k", "p", "q")
_HINT: Final = "devroute sign-key new NAME writes such a file"


@dataclass(frozen=True, slots=True)
class Key:
    """A public key that may sign contracts: for one `subject`, or for any if that is None."""

    id: str
    public: "PyJWK"
    subject: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """The keys in force, by id. Compared by identity, so that verified contracts can be cached for each
    set."""

    by_id: Mapping[str, Key] = field(default_factory=dict)

    def get(self, kid: str | None) -> Key | None:
        return None if kid is None else self.by_id.get(kid)

    @classmethod
    def parse(cls, text: str, source: str = "contract-keys.json") -> "Keys":
        """The keys in a JWKS (RFC 7517 §5), without those for other algorithms. Raises ConfigInvalid naming
        `source` and the key's index, never its content."""
        if len(text) > MAX_FILE:
            raise ConfigInvalid(f"{source}: larger than {MAX_FILE} bytes")
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise ConfigInvalid(f"{source}: not JSON", hint=_HINT) from None
        listed = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(listed, list):
            raise ConfigInvalid(f'{source}: write a JWKS, {{"keys": [...]}}', hint=_HINT)
        if len(listed) > MAX_KEYS:
            raise ConfigInvalid(f"{source}: {len(listed)} keys; at most {MAX_KEYS} are allowed")
        found: dict[str, Key] = {}
        for index, jwk in enumerate(listed):
            key = read_key(jwk, f"{source}: keys.{index}")
            if key is None:
                continue
            if key.id in found:
                raise ConfigInvalid(f"{source}: keys.{index}: another key has the kid {quote(key.id)}")
            found[key.id] = key
        return cls(MappingProxyType(found))


def is_for_verification(jwk: Mapping[str, object]) -> bool:
    """Whether a JWK may verify signatures, by `use` and `key_ops` (RFC 7517 §4.2, §4.3)."""
    operations = jwk.get("key_ops", ["verify"])
    return jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations


def read_key(jwk: object, place: str) -> Key | None:
    """The public key in a JWK, or None if it cannot sign contracts. Raises ConfigInvalid naming `place`."""
    if not isinstance(jwk, dict):
        raise ConfigInvalid(f"{place}: not an object")
    if any(member in jwk for member in _PRIVATE):
        raise ConfigInvalid(
            f"{place}: this is a private key",
            hint="keep public keys here: devroute sign-key public FILE prints one",
        )
    key_type = jwk.get("kty"), jwk.get("crv")
    algorithm = ALGORITHMS.get(key_type) if all(isinstance(each, str) for each in key_type) else None
    if algorithm is None or jwk.get("alg", algorithm) != algorithm or not is_for_verification(jwk):
        return None
    key_id, subject = jwk.get("kid"), jwk.get("sub")
    if not isinstance(key_id, str) or not NAME.fullmatch(key_id):
        raise ConfigInvalid(f"{place}: kid is missing, or is not a short string without spaces")
    if subject is not None and not (isinstance(subject, str) and NAME.fullmatch(subject)):
        raise ConfigInvalid(f"{place}: sub is not a short string without spaces")
    # A tenth of the start of a proxy, which may trust no key.
    from cryptography.exceptions import UnsupportedAlgorithm
    from jwt import PyJWK
    from jwt.exceptions import PyJWTError

    try:
        return Key(key_id, PyJWK(jwk, algorithm), subject)
    except (PyJWTError, UnsupportedAlgorithm):
        raise ConfigInvalid(f"{place}: not a valid key of the type {jwk.get('kty')}") from None
