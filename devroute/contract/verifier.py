"""Verifies signed contracts, which are compact JWS (RFC 7515). Owns the form of the token and its checks.
Pure; never signs (contract/signer.py) and never checks whether targets are permitted (policy/policy.py).

    header   {"alg": "EdDSA" or "ES256", "kid": "...", "typ": "devroute+jwt"}       no other members
    payload  {"devroute": {"b": "alice"}, "sub": "alice", "iat": ..., "exp": ..., "aud": "devroute"}
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Final

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
from devroute.contract.name import is_named, parse_name
from devroute.contract.strict_json import JsonObject, load
from devroute.contract.trace_id import split_trace
from devroute.contract.validity import duration
from devroute.errors import ContractInvalid, ContractUntrusted
from devroute.quoting import quote

if TYPE_CHECKING:  # jwt is imported with the first key: not every proxy trusts one
    from jwt import PyJWS

#: The token's type and audience, so that no other token passes for a contract (RFC 8725 §3.11).
TYPE: Final = "devroute+jwt"
AUDIENCE: Final = "devroute"
#: The claim that holds the contract.
CLAIM: Final = "devroute"
#: Seconds from issue to expiry, by default: a day of testing.
MAX_TTL_S: Final = 24 * 3600.0
#: Verified contracts in the cache: far more than are in use at the same time.
MAX_VERIFIED: Final = 1024

_SHAPE: Final = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_HEADER: Final = {"alg", "kid", "typ"}


@cache
def _jws() -> "PyJWS":
    from jwt import PyJWS

    return PyJWS(algorithms=list(ALGORITHMS.values()))


# --- contracts ----------------------------------------------------------------------------------------------


def verify(
    raw: str,
    keys: Keys,
    max_ttl: float = MAX_TTL_S,
    on_unknown_key: Callable[[], None] = lambda: None,
    limits: ContractLimits = DEFAULT_LIMITS,
) -> Contract:
    """The contract in a token, with its signature verified. The time is not checked (`check_time` does), so
    that the result can be cached. `on_unknown_key` is called if `keys` lacks the token's key. Raises
    ContractInvalid or ContractUntrusted."""
    text, header, payload = _parts(raw, limits)
    _check_header(header)
    key = keys.by_id.get(str(header["kid"]))
    if key is None:
        on_unknown_key()
        raise ContractUntrusted(
            f"the contract is signed with the key {_shown(header['kid'])}, which this server does not know"
        )
    algorithm = key.public.algorithm_name
    if header["alg"] != algorithm:
        raise ContractUntrusted(
            f"the contract names the algorithm {_shown(header['alg'])}, but its key is for {algorithm}"
        )
    from jwt import InvalidTokenError  # already imported with the key

    try:
        _jws().decode_complete(text, key.public, [algorithm])
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


def check_written(contract: str) -> None:
    """Refuse a contract with a mistake before it is sent: a name, JSON or a signed one. What only a server
    knows (its keys, its saved names) is not asked. Raises ContractInvalid or ContractUntrusted."""
    if is_named(contract):
        parse_name(contract)
    else:
        read_any(contract)


def read_any(raw: str) -> Contract:
    """The contract in JSON, of any size that a server may accept, or in a token whose signature is not
    verified. Raises ContractInvalid or ContractUntrusted."""
    return read_unverified(raw) if is_signed(raw) else parse(raw, WIDEST_LIMITS)


def read_unverified(raw: str) -> Contract:
    """The contract in a token whose signature is not verified; only for showing it. Raises ContractInvalid or
    ContractUntrusted."""
    _, header, payload = _parts(raw, WIDEST_LIMITS)
    _check_header(header)
    entries, signature = _claims(
        _members(payload, "payload"), str(header["kid"]), float("inf"), WIDEST_LIMITS
    )
    return Contract(raw, entries, signature)


class Verifier:
    """Reads contracts, signed or not. Caches verified ones until the keys change. Where there are no keys,
    signed contracts are invalid."""

    def __init__(
        self,
        keys: Callable[[], Keys],
        max_ttl: float = MAX_TTL_S,
        on_unknown_key: Callable[[], None] = lambda: None,
        limits: ContractLimits = DEFAULT_LIMITS,
    ) -> None:
        """`keys` gives those in force; it may raise KeysUnavailable. `on_unknown_key` is called if they lack
        the one that a contract names."""
        self._keys = keys
        self._on_unknown_key = on_unknown_key
        self._max_ttl = max_ttl
        self._limits = limits
        self._verified_by: Keys | None = None
        self._verified: dict[str, Contract] = {}

    def __call__(self, raw: str) -> Contract:
        """The contract without a trace's id, its signature verified but not its time. Raises ContractInvalid,
        ContractUntrusted, or KeysUnavailable for a signed one."""
        raw, _ = split_trace(raw)
        if not is_signed(raw):
            return parse(raw, self._limits)
        keys = self._keys()
        if not keys.by_id:
            self._on_unknown_key()
            return parse(raw, self._limits)
        if keys is not self._verified_by or len(self._verified) >= MAX_VERIFIED:
            self._verified.clear()
            self._verified_by = keys
        contract = self._verified.get(raw)
        if contract is None:
            contract = verify(raw, keys, self._max_ttl, self._on_unknown_key, self._limits)
            self._verified[raw] = contract
        return contract


# --- the parts of a token -----------------------------------------------------------------------------------


def _parts(raw: str, limits: ContractLimits) -> tuple[str, dict[str, object], str]:
    """The token, its header and its payload's text. Raises ContractInvalid."""
    raw, _ = split_trace(raw)
    limits.check_size(raw)
    text = raw.strip(" \t")
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise ContractInvalid("the signed contract is not a compact JWS (three parts of base64url)")
    return text, _members(_decoded(match[1], "header"), "header"), _decoded(match[2], "payload")


def _decoded(part: str, which: str) -> str:
    try:
        return base64.b64decode(part + "=" * (-len(part) % 4), b"-_", validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        raise ContractInvalid(f"the signed contract's {which} cannot be decoded") from None


def _members(text: str, which: str) -> dict[str, object]:
    """The members of a JSON object. Raises ContractInvalid for other JSON, and for a member that occurs
    twice."""
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
        raise ContractUntrusted(
            f"the token is not a contract: its typ is {_shown(header.get('typ'))}, not '{TYPE}'"
        )
    if header.get("alg") not in ALGORITHMS.values():
        raise ContractUntrusted(f"the contract's alg is {_shown(header.get('alg'))}; use EdDSA or ES256")
    if not isinstance(header.get("kid"), str):
        raise ContractUntrusted("the contract does not name the key that signed it (kid)")
    if more := header.keys() - _HEADER:
        raise ContractUntrusted(f"the contract's header has the unknown member {_shown(min(more))}")


def _claims(
    claims: Mapping[str, object], key: str, max_ttl: float, limits: ContractLimits
) -> tuple[Mapping[str, Entry], Signature]:
    if claims.get("aud") not in (AUDIENCE, [AUDIENCE]):
        raise ContractUntrusted(f"the token is not for devroute: its aud is {_shown(claims.get('aud'))}")
    subject = claims.get("sub")
    if not isinstance(subject, str) or not NAME.fullmatch(subject):
        raise ContractUntrusted(
            "the contract does not name its signer (sub) in a short string without spaces"
        )
    issued, expires = _seconds(claims, "iat"), _seconds(claims, "exp")
    starts = max(issued, _seconds(claims, "nbf")) if "nbf" in claims else issued
    if not 0 < expires - issued <= max_ttl:
        if expires <= issued:
            raise ContractUntrusted("the contract expires before it was issued")
        lifetime = f"{duration(expires - issued)}; this server accepts at most {duration(max_ttl)}"
        raise ContractUntrusted(f"the contract is valid for {lifetime}")
    if CLAIM not in claims:
        raise ContractInvalid(f"the signed contract has no claim '{CLAIM}', which holds the contract")
    return entries_of(claims[CLAIM], limits), Signature(subject, key, starts, expires)


def _seconds(claims: Mapping[str, object], name: str) -> float:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise ContractUntrusted(f"the contract's {name} is missing, or is not a number of seconds")
    return float(value)


def _shown(value: object) -> str:
    return quote(value) if isinstance(value, str) else "missing" if value is None else "not a string"
