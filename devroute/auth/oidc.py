"""Tokens of an issuer (OIDC): JWTs signed by a key of its JWKS. Owns what is checked of a token, and how its
claims become an identity. Pure; auth/jwks.py fetches the keys.

RS256, ES256 and EdDSA are accepted. The key determines its algorithm, never the token (RFC 8725 §3.1): `none`
is not possible, and a public key is never used as an HMAC's secret.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from jwt import InvalidTokenError, PyJWK, PyJWS
from jwt.exceptions import PyJWTError

from devroute.auth.identity import Identity
from devroute.contract.keys import is_for_verification
from devroute.contract.target import Malformed, check_subject
from devroute.errors import ConfigInvalid, SubjectInvalid, TokenExpired, TokenInvalid
from devroute.quoting import MAX_QUOTED, quote

#: A key's algorithm, by its type and curve.
ALGORITHMS: Final[Mapping[tuple[object, object], str]] = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}
#: Characters of a token. It has to fit into the head of an upgrade and a RENEW; groups make some tokens
#: large.
MAX_TOKEN: Final = 8 * 1024
#: Keys of one issuer that are read; an issuer has a handful.
MAX_KEYS: Final = 64
#: RFC 7518 §3.3.
MIN_RSA_BITS: Final = 2048
#: Kinds of tokens (`typ`) that name a person or program. A signed contract is of another kind, with other
#: keys.
TYPES: Final = frozenset({"JWT", "AT+JWT", "APPLICATION/AT+JWT"})

#: Members of a key that are used; all are strings (RFC 7518 §6).
_MEMBERS: Final = ("kty", "crv", "alg", "use", "kid", "n", "e", "x", "y")

_JWS: Final = PyJWS(algorithms=list(ALGORITHMS.values()))


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What a token has to contain. `skew`: seconds by which our clock and the issuer's may differ."""

    issuer: str
    audience: tuple[str, ...]
    subject_claim: str = "sub"
    email_domain: str | None = None
    groups_claim: str = "groups"
    skew: float = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class IssuerKeys:
    """`by_id`: "" is the id of a key without one."""

    by_id: Mapping[str, PyJWK] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, source: str) -> "IssuerKeys":
        """The keys in a JWKS (RFC 7517 §5) that can verify tokens; others are ignored, as the RFC requires.
        Raises ConfigInvalid with `source` if there is none."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise ConfigInvalid(f"{source}: not JSON") from None
        listed = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(listed, list):
            raise ConfigInvalid(f"{source}: not a JWKS: it has no list of keys")
        found: dict[str, PyJWK] = {}
        for jwk in listed[:MAX_KEYS]:
            key = _usable(jwk)
            if key is not None:
                found.setdefault(key.key_id or "", key)
        if not found:
            raise ConfigInvalid(f"{source}: it has no key for RS256 (2048 bits), ES256 or EdDSA")
        return cls(found)

    def get(self, kid: str | None) -> PyJWK | None:
        """The key of that id; without an id, the only key."""
        if kid is None:
            return next(iter(self.by_id.values())) if len(self.by_id) == 1 else None
        return self.by_id.get(kid)


def _usable(jwk: object) -> PyJWK | None:
    if not isinstance(jwk, dict) or not all(isinstance(jwk.get(name, ""), str) for name in _MEMBERS):
        return None
    if not is_for_verification(jwk):
        return None
    algorithm = ALGORITHMS.get((jwk.get("kty"), jwk.get("crv")))
    if algorithm is None or jwk.get("alg", algorithm) != algorithm or "d" in jwk:
        return None
    try:
        key = PyJWK(jwk, algorithm)
    except (PyJWTError, UnsupportedAlgorithm):
        return None
    return None if algorithm == "RS256" and key.key.key_size < MIN_RSA_BITS else key


def key_id(token: str, rules: TokenRules) -> str | None:
    """The id of the key that a token names, None if it names none. First checks what needs no key, so that
    keys are not fetched for a token that cannot be valid. Raises TokenInvalid."""
    if len(token) > MAX_TOKEN:
        raise TokenInvalid(
            f"the token is longer than {MAX_TOKEN} characters",
            hint="the token lists too many groups: have the issuer put fewer into it",
        )
    try:
        unverified = _JWS.decode_complete(token, options={"verify_signature": False})
    except (InvalidTokenError, ValueError, RecursionError):
        raise TokenInvalid("the token is neither a devroute token nor a JWT that can be read") from None
    header = unverified["header"]
    if header.get("alg") not in ALGORITHMS.values():
        raise TokenInvalid(
            f"the token's algorithm is {_shown(header.get('alg'))}; RS256, ES256 and EdDSA are accepted"
        )
    if str(header.get("typ", "JWT")).upper() not in TYPES:
        raise TokenInvalid(f"this is a token of another kind: its typ is {_shown(header['typ'])}")
    if "crit" in header or header.get("b64", True) is not True:
        raise TokenInvalid("the token's header requires an extension that is not supported (crit)")
    issuer = _claims(unverified["payload"]).get("iss")
    if issuer != rules.issuer:
        raise TokenInvalid(f"the token was issued by {_shown(issuer)}, not by '{rules.issuer}'")
    kid = header.get("kid")
    return kid if isinstance(kid, str) else None


def verify(token: str, keys: IssuerKeys, rules: TokenRules, now: float) -> Identity:
    """The identity that the token proves. `now`: seconds since the epoch. Raises TokenInvalid, TokenExpired
    or SubjectInvalid."""
    kid = key_id(token, rules)
    key = keys.get(kid)
    if key is None:
        raise TokenInvalid(f"the token is signed with the key {_shown(kid)}, which its issuer does not list")
    try:
        claims = _claims(_JWS.decode_complete(token, key, [key.algorithm_name])["payload"])
    except InvalidTokenError:
        raise TokenInvalid("the token's signature does not match its issuer's key") from None
    expires = _check_times(claims, rules.skew, now)
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if not any(each in rules.audience for each in audiences if isinstance(each, str)):
        raise TokenInvalid(
            f"the token is for {_shown(audience)}, not for {' or '.join(rules.audience)} (aud)",
            hint="ask the issuer for a token for that audience, such as: "
            "gcloud auth print-identity-token --audiences=...",
        )
    return Identity(subject_of(claims, rules), _groups(claims, rules), expires, kind="oidc")


def _claims(payload: bytes) -> Mapping[str, object]:
    try:
        claims = json.loads(payload)
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise TokenInvalid("the token's payload is not a JSON object")
    return claims


def _check_times(claims: Mapping[str, object], skew: float, now: float) -> float:
    """When the token expires, by our clock, with the skew."""
    expires = _seconds(claims, "exp")
    if expires is None:
        raise TokenInvalid("the token does not say when it expires (exp)")
    if now >= expires + skew:
        raise TokenExpired(f"the token expired {now - expires:.0f} s ago")
    for name in ("nbf", "iat"):
        starts = _seconds(claims, name)
        if starts is not None and now < starts - skew:
            raise TokenInvalid(
                f"the token is not valid for another {starts - now:.0f} s ({name})",
                hint="are the clocks of the issuer and of the proxy right?",
            )
    return expires + skew


def _seconds(claims: Mapping[str, object], name: str) -> float | None:
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise TokenInvalid(f"the token's {name} is not a time")
    return float(value)


def subject_of(claims: Mapping[str, object], rules: TokenRules) -> str:
    """A DNS label. Of an email address: the part before the @, with hyphens for dots. Any other claim has to
    be one already, so that two people never get the same subject."""
    name = rules.subject_claim
    value = claims.get(name)
    if not isinstance(value, str):
        raise SubjectInvalid(f"the token names no subject: it has no text in the claim '{name}'")
    text = _local_part(claims, value, rules) if name == "email" else value
    try:
        return check_subject(text)
    except Malformed as problem:
        raise SubjectInvalid(f"the token's {name} is {quote(value)}: {problem}") from None


def _local_part(claims: Mapping[str, object], email: str, rules: TokenRules) -> str:
    if not email.isascii():  # lower() makes ASCII of some other letters, and so one person of two
        raise SubjectInvalid(f"the token's email {quote(email)} has other characters than ASCII")
    local, at, domain = email.lower().rpartition("@")
    if not at or domain != rules.email_domain:
        raise SubjectInvalid(f"the token's email {quote(email)} is not one of @{rules.email_domain}")
    if claims.get("email_verified", True) not in (True, "true"):
        raise SubjectInvalid("the token's issuer has not verified your email address")
    return local.replace(".", "-")


def _groups(claims: Mapping[str, object], rules: TokenRules) -> frozenset[str]:
    value = claims.get(rules.groups_claim)
    groups = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
    return frozenset(group for group in groups if isinstance(group, str))


def _shown(value: object) -> str:
    if isinstance(value, list):
        value = ", ".join(str(each) for each in value)
    return quote(value[: MAX_QUOTED + 1]) if isinstance(value, str) else "not given"
