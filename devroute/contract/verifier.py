"""Signed contracts: compact JWS (RFC 7515), verified. Owns their form, and what of a token has to be right.
Pure; never signs (contract/signer.py), and never judges what a contract asks for (policy/policy.py).

    header   {"alg": "EdDSA" or "ES256", "kid": "...", "typ": "devroute+jwt"}       and nothing else
    payload  {"devroute": {"foo": "alice"}, "sub": "alice", "iat": ..., "exp": ..., "aud": "devroute"}
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from typing import Final, NoReturn

from jwt import InvalidTokenError, PyJWS

from devroute.contract.grammar import (
    DEFAULT_LIMITS,
    WIDEST_LIMITS,
    Contract,
    ContractLimits,
    Entry,
    Signature,
    entries_of,
    is_signed,
    parse,
)
from devroute.contract.keys import ALGORITHMS, NAME, Keys
from devroute.contract.strict_json import JsonObject, load
from devroute.errors import (
    ContractExpired,
    ContractInvalid,
    ContractNotYetValid,
    ContractUntrusted,
)
from devroute.quoting import quote

#: What header and payload say of themselves, so that no other token passes for a contract (RFC 8725 §3.11).
TYPE: Final = "devroute+jwt"
AUDIENCE: Final = "devroute"
#: The claim with the contract itself.
CLAIM: Final = "devroute"
#: Seconds by which the clocks of signer and proxy may differ.
SKEW_S: Final = 30.0
#: Seconds from issue to expiry, where no setting says otherwise: a day of testing.
MAX_TTL_S: Final = 24 * 3600.0
#: Contracts that are remembered as verified; people at work at the same time are far fewer.
MAX_VERIFIED: Final = 1024

_SHAPE: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_HEADER: Final = {"alg", "kid", "typ"}
_JWS: Final = PyJWS(algorithms=list(ALGORITHMS.values()))


# --- contracts ----------------------------------------------------------------------------------------------


def verify(
    raw: str,
    keys: Keys,
    max_ttl: float = MAX_TTL_S,
    unknown: Callable[[], None] = lambda: None,
    limits: ContractLimits = DEFAULT_LIMITS,
) -> Contract:
    """The contract in a signed one, with its signature; all is judged but the time (`check_time`), so that it
    has to be done once for each. `unknown` is called for a key that is not there. Raises ContractInvalid or
    ContractUntrusted."""
    text, header, payload = _parts(raw, limits)
    _check_header(header)
    key = keys.by_id.get(str(header["kid"]))
    if key is None:
        unknown()
        raise ContractUntrusted(
            f"the contract is signed with the key {_shown(header['kid'])}, which is not known here"
        )
    algorithm = key.public.algorithm_name
    if header["alg"] != algorithm:
        raise ContractUntrusted(
            f"the contract names the algorithm {_shown(header['alg'])}, but its key is for {algorithm}"
        )
    try:
        _JWS.decode_complete(text, key.public, [algorithm])
    except InvalidTokenError:
        raise ContractUntrusted(
            "the contract's signature does not match: it was changed, or signed with another key"
        ) from None
    claims = _members(payload, "payload")
    entries, signature = _claims(claims, key.id, max_ttl, limits)
    if key.subject is not None and signature.subject != key.subject:
        raise ContractUntrusted(
            f"the contract is signed as {quote(signature.subject)} with the key of {quote(key.subject)}"
        )
    return Contract(raw, entries, signature)


def check_time(signature: Signature, now: float) -> None:
    """Raises ContractExpired or ContractNotYetValid. `now`: seconds since the epoch."""
    if now >= signature.expires + SKEW_S:
        ago = now - signature.expires
        raise ContractExpired(f"the contract of '{signature.subject}' expired {_span(ago)} ago")
    if now < signature.starts - SKEW_S:
        ahead = signature.starts - now
        raise ContractNotYetValid(f"the contract of '{signature.subject}' is valid in {_span(ahead)} only")


def read_unverified(raw: str) -> Contract:
    """What a signed contract says, for people to read. Nobody vouches for it. Raises ContractInvalid or
    ContractUntrusted."""
    _, header, payload = _parts(raw, WIDEST_LIMITS)
    _check_header(header)
    entries, signature = _claims(
        _members(payload, "payload"), str(header["kid"]), float("inf"), WIDEST_LIMITS
    )
    return Contract(raw, entries, signature)


class Verifier:
    """Reads contracts, signed or not, and remembers which signatures were good for as long as the keys are
    the same. Where there are no keys, signed contracts are invalid."""

    def __init__(
        self,
        keys: Callable[[], Keys],
        max_ttl: float = MAX_TTL_S,
        look_again: Callable[[], None] = lambda: None,
        limits: ContractLimits = DEFAULT_LIMITS,
    ) -> None:
        """`look_again` is called where the keys in force do not have the one that a contract names."""
        self._keys = keys
        self._look_again = look_again
        self._max_ttl = max_ttl
        self._limits = limits
        self._verified_by = keys()
        self._verified: dict[str, Contract] = {}

    def __call__(self, raw: str) -> Contract:
        """Raises ContractInvalid or ContractUntrusted; time is not judged."""
        keys = self._keys()
        signed = is_signed(raw)
        if not (signed and keys.by_id):
            if signed:
                self._look_again()
            return parse(raw, self._limits)
        if keys is not self._verified_by or len(self._verified) >= MAX_VERIFIED:
            self._verified.clear()
            self._verified_by = keys
        contract = self._verified.get(raw)
        if contract is None:
            contract = verify(raw, keys, self._max_ttl, self._look_again, self._limits)
            self._verified[raw] = contract
        return contract


# --- the parts of a token -----------------------------------------------------------------------------------


def _parts(raw: str, limits: ContractLimits) -> tuple[str, dict[str, object], str]:
    """The token, its header and its payload's text. Raises ContractInvalid."""
    limits.check_size(raw)
    text = raw.strip(" \t")
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise ContractInvalid("the signed contract is not three parts of base64url, as a compact JWS is")
    return text, _members(_decoded(match[1], "header"), "header"), _decoded(match[2], "payload")


def _decoded(part: str, which: str) -> str:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), b"-_", validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        raise ContractInvalid(f"the signed contract's {which} cannot be decoded") from None


def _members(text: str, which: str) -> dict[str, object]:
    """Raises ContractInvalid where the text is no JSON object, or names a member twice."""
    try:
        document = load(text)
    except ContractInvalid as error:
        raise ContractInvalid(f"the signed contract's {which}: {error.message}") from None
    if not isinstance(document, JsonObject):
        raise ContractInvalid(f"the signed contract's {which} is not a JSON object")
    members = dict(document)
    if len(members) != len(document):
        raise ContractInvalid(f"the signed contract's {which} names a member twice")
    return members


def _check_header(header: Mapping[str, object]) -> None:
    if header.get("typ") != TYPE:
        kind = _shown(header["typ"]) if "typ" in header else "nothing"
        raise ContractUntrusted(
            f"this is a token of another kind: its typ is {kind}, and a contract's is '{TYPE}'"
        )
    if header.get("alg") not in ALGORITHMS.values():
        raise ContractUntrusted(
            f"the contract names the algorithm {_shown(header.get('alg'))}; use EdDSA or ES256"
        )
    if not isinstance(header.get("kid"), str):
        raise ContractUntrusted("the contract does not say which key signed it (kid)")
    if more := header.keys() - _HEADER:
        raise ContractUntrusted(
            f"the contract's header has {_shown(min(more))}, which is not understood here"
        )


def _claims(
    claims: Mapping[str, object], key: str, max_ttl: float, limits: ContractLimits
) -> tuple[Mapping[str, Entry], Signature]:
    if claims.get("aud") not in (AUDIENCE, [AUDIENCE]):
        raise ContractUntrusted(f"the token is not for devroute: its aud is {_shown(claims.get('aud'))}")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not NAME.fullmatch(subject):
        raise ContractUntrusted(
            "the contract does not say who signed it (sub), in a short text without spaces"
        )
    issued, expires = _seconds(claims, "iat"), _seconds(claims, "exp")
    starts = max(issued, _seconds(claims, "nbf")) if "nbf" in claims else issued
    if not 0 < expires - issued <= max_ttl:
        asked = f"is to hold for {_span(expires - issued)}; this server takes at most {_span(max_ttl)}"
        raise ContractUntrusted(f"the contract {asked if expires > issued else 'expires before it was made'}")
    if CLAIM not in claims:
        raise ContractInvalid(f"the signed contract has no claim '{CLAIM}' with the contract itself")
    return entries_of(claims[CLAIM], limits), Signature(subject, key, starts, expires)


def _seconds(claims: Mapping[str, object], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        _missing(name)
    return float(value)


def _missing(name: str) -> NoReturn:
    raise ContractUntrusted(f"the contract's {name} is missing, or is not a number of seconds")


def _shown(value: object) -> str:
    return quote(value) if isinstance(value, str) else "nothing" if value is None else "not a text"


def _span(seconds: float) -> str:
    """A time as people say it, rounded."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds:.0f} s"
