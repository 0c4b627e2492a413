"""Signs contracts. Owns private keys and the encoding of the token. Pure; contract/verifier.py verifies.

A private key is a PEM file, as openssl writes it, or a JWK, which may also name its id and its subject.
"""

import base64
import hashlib
import json
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwt import PyJWS
from jwt.algorithms import ECAlgorithm, OKPAlgorithm
from jwt.exceptions import InvalidKeyError

from devroute.contract.grammar import MAX_BYTES, Contract, as_document
from devroute.contract.keys import NAME
from devroute.contract.verifier import AUDIENCE, CLAIM, TYPE
from devroute.errors import ConfigInvalid, ContractInvalid

PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key. `id` is the kid of the tokens that it signs; `subject` is its owner, if the file names
    one."""

    private: PrivateKey
    id: str
    subject: str | None = None

    @classmethod
    def new(cls, subject: str) -> "SigningKey":
        """A new Ed25519 key. Raises ConfigInvalid for an invalid subject."""
        return _named(Ed25519PrivateKey.generate(), None, subject, "the new key")

    @classmethod
    def parse(cls, text: str, source: str) -> "SigningKey":
        """The key in a file's text. Raises ConfigInvalid naming `source`, never the content."""
        if text.lstrip().startswith("{"):
            return _of_jwk(text, source)
        try:
            private = load_pem_private_key(text.encode(), None)
        except TypeError:
            raise ConfigInvalid(
                f"{source}: the key is encrypted",
                hint=f"decrypt it: openssl pkey -in {source} -out plain.pem",
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            raise ConfigInvalid(
                f"{source}: neither a private key in PEM nor a private JWK",
                hint="make a key: devroute sign-key new NAME",
            ) from None
        return _named(private, None, None, source)

    @property
    def algorithm(self) -> str:
        return "EdDSA" if isinstance(self.private, Ed25519PrivateKey) else "ES256"

    def as_jwk(self) -> dict[str, str]:
        """The private key with its id and subject. Only the signer may see it."""
        return _jwk(self.private) | self._names()

    def as_public_jwk(self) -> dict[str, str]:
        """The public key with its id and subject, for the proxy's key file."""
        return _jwk(self.private.public_key()) | {"alg": self.algorithm, "use": "sig"} | self._names()

    def _names(self) -> dict[str, str]:
        return {"kid": self.id} | ({"sub": self.subject} if self.subject is not None else {})


def sign(contract: Contract, key: SigningKey, subject: str, now: float, ttl: float) -> str:
    """The contract as a compact JWS for X-devroute, valid from `now` (seconds since the epoch) for `ttl`
    seconds. Raises ContractInvalid if the token is too long."""
    issued = int(now)
    claims = {
        CLAIM: as_document(contract),
        "sub": subject,
        "iat": issued,
        "exp": issued + round(ttl),
        "aud": AUDIENCE,
    }
    payload = json.dumps(claims, separators=(",", ":")).encode("ascii")
    token = PyJWS().encode(payload, key.private, key.algorithm, {"typ": TYPE, "kid": key.id})
    if len(token) > MAX_BYTES:
        raise ContractInvalid(
            f"the signed contract has {len(token)} characters; at most {MAX_BYTES} are allowed",
            hint="name fewer services: signing makes a contract a third longer",
        )
    return token


def _of_jwk(text: str, source: str) -> SigningKey:
    try:
        jwk = json.loads(text)
        if "d" not in jwk:
            raise ConfigInvalid(
                f"{source}: this is not a private key", hint="make one: devroute sign-key new NAME"
            )
        private = {"OKP": OKPAlgorithm.from_jwk, "EC": ECAlgorithm.from_jwk}[jwk["kty"]](jwk)
    except (ValueError, TypeError, KeyError, RecursionError, InvalidKeyError, UnsupportedAlgorithm):
        raise ConfigInvalid(
            f"{source}: not a private JWK for EdDSA or ES256", hint="make a key: devroute sign-key new NAME"
        ) from None
    return _named(private, jwk.get("kid"), jwk.get("sub"), source)


def _named(private: object, key_id: object, subject: object, source: str) -> SigningKey:
    p256 = isinstance(private, EllipticCurvePrivateKey) and isinstance(private.curve, SECP256R1)
    if not isinstance(private, PrivateKey) or not (p256 or isinstance(private, Ed25519PrivateKey)):
        raise ConfigInvalid(f"{source}: contracts are signed with Ed25519 (EdDSA) or P-256 (ES256) keys")
    for name, value in (("kid", key_id), ("sub", subject)):
        if value is not None and not (isinstance(value, str) and NAME.fullmatch(value)):
            raise ConfigInvalid(f"{source}: {name} is not a short string without spaces")
    return SigningKey(
        private,
        key_id if isinstance(key_id, str) else _thumbprint(private),
        subject if isinstance(subject, str) else None,
    )


def _jwk(key: PrivateKey | Ed25519PublicKey | EllipticCurvePublicKey) -> dict[str, str]:
    if isinstance(key, EllipticCurvePrivateKey | EllipticCurvePublicKey):
        jwk = ECAlgorithm.to_jwk(key, as_dict=True)
    else:
        jwk = OKPAlgorithm.to_jwk(key, as_dict=True)
    return {name: value for name, value in jwk.items() if name in ("kty", "crv", "x", "y", "d")}


def _thumbprint(private: PrivateKey) -> str:
    """The key's thumbprint (RFC 7638 §3, RFC 8037 §2), the same for all files that hold the key."""
    public = _jwk(private.public_key())  # the required members only
    digest = hashlib.sha256(json.dumps(public, separators=(",", ":"), sort_keys=True).encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
