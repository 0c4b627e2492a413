"""Static tokens, kept as hashes only. Pure: reads no file.

The file is a YAML list, so that a new token can be appended as text and comments stay:

    - subject: alice
      sha256: 3f2a...
      created: '2026-01-31'
      expires: '2026-03-01T00:00:00Z'       # optional
"""

import hashlib
import hmac
import re
import secrets
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from devroute.auth.identity import Identity
from devroute.contract.target import SUFFIX_SEPARATOR, Malformed, check_subject
from devroute.errors import ConfigInvalid, TokenExpired, TokenInvalid
from devroute.yaml_text import read_document

#: Random bytes of a secret: 256 bits cannot be guessed, so a plain unsalted hash is safe to keep.
ENTROPY = 32
#: The start of each secret, by which people and secret scanners recognise one.
PREFIX = "dvr_"
#: Characters of a secret that is checked; ours are shorter.
MAX_SECRET = 256
#: Digits of its hash that are a token's id; unlikely to be the same for two tokens of a team.
ID_DIGITS = 10
#: Bytes of a token file; a Kubernetes Secret cannot be larger.
MAX_FILE = 1024 * 1024


def _digest(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("not a SHA-256 in 64 hexadecimal digits; make a token with: devroute token new NAME")
    return value


def _expiry(value: object) -> str:
    """A time as ISO 8601 in UTC; without quotes YAML parses it as a date."""
    moment = value
    if isinstance(value, str):
        with suppress(ValueError):
            moment = datetime.fromisoformat(value)
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
    if isinstance(moment, date):
        return f"{moment.isoformat()}T00:00:00Z"
    raise ValueError("not a time; write it like '2026-03-01T00:00:00Z'")


class TokenRecord(BaseModel):
    """A token in the file. `created`: a date, for people to read. `expires`: a time in UTC."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    subject: Annotated[str, BeforeValidator(str), AfterValidator(check_subject)]
    sha256: Annotated[str, BeforeValidator(_digest)]
    created: Annotated[str, BeforeValidator(str)] = ""
    expires: Annotated[str, BeforeValidator(_expiry)] | None = None

    @property
    def id(self) -> str:
        """The token's id for people; it reveals nothing of the secret."""
        return self.sha256[:ID_DIGITS]

    @property
    def expiry(self) -> float | None:
        """`expires` in seconds since the epoch."""
        return None if self.expires is None else datetime.fromisoformat(self.expires).timestamp()

    def as_yaml(self) -> str:
        """The record as an item of the file's list."""
        return yaml.safe_dump([self.model_dump(exclude_none=True)], sort_keys=False)


_RECORDS = TypeAdapter(tuple[TokenRecord, ...])


def new_token(
    subject: str, created: str = "", expires: str | None = None, *, entropy: int = ENTROPY
) -> tuple[str, TokenRecord]:
    """A new secret for `subject` with `entropy` random bytes, and its record for the file. Raises
    ConfigInvalid for an invalid subject."""
    secret = PREFIX + secrets.token_hex(entropy)
    try:
        check_subject(subject)
    except Malformed as problem:
        raise ConfigInvalid(f"subject '{subject[:63]}': {problem}") from None
    return secret, TokenRecord(subject=subject, sha256=_hash(secret), created=created, expires=expires)


def owns(subject: str, name: str) -> bool:
    """Whether `subject` may register a laptop as `name`: as `subject` or `subject--*` only. At most one
    subject owns a name."""
    return name.partition(SUFFIX_SEPARATOR)[0] == subject


@dataclass(frozen=True, slots=True)
class Tokens:
    """The valid tokens. A subject may have several, to replace one without an interruption."""

    records: tuple[TokenRecord, ...] = ()

    @classmethod
    def parse(cls, text: str, source: str = "tokens.yaml") -> "Tokens":
        """The tokens in a file's text, which may be empty. Raises ConfigInvalid with file and field."""
        if len(text) > MAX_FILE:
            raise ConfigInvalid(f"{source}: larger than {MAX_FILE} bytes")
        document, _ = read_document(text, source)  # its errors quote nothing: the text may hold a secret
        if document is None:
            return cls()
        if not isinstance(document, list):
            raise ConfigInvalid(f"{source}: write a list of tokens; make one with: devroute token new NAME")
        try:
            return cls(_RECORDS.validate_python(document))
        except ValidationError as error:
            first = error.errors(include_input=False)[0]
            place = ".".join(str(step) for step in first["loc"])
            raise ConfigInvalid(f"{source}: {place}: {first['msg'].removeprefix('Value error, ')}") from None

    def identity_of(self, secret: str, now: float) -> Identity:
        """The identity that a secret proves. Takes the same time wherever in the file its record is. `now`:
        seconds since the epoch. Raises TokenInvalid or TokenExpired."""
        if not secret:
            raise TokenInvalid("the token is missing; send Authorization: Bearer TOKEN")
        digest = _hash(secret[:MAX_SECRET])
        found = None
        for record in self.records:
            if hmac.compare_digest(record.sha256, digest) and len(secret) <= MAX_SECRET:
                found = record
        if found is None:
            raise TokenInvalid("the token is not known to this server")
        if found.expiry is not None and found.expiry <= now:
            raise TokenExpired(f"the token of '{found.subject}' expired at {found.expires}")
        return Identity(found.subject, expires=found.expiry, token_id=found.id)

    def record_of(self, identity: Identity) -> TokenRecord | None:
        """That of the token which proved this identity; None once it is not in the file."""
        for record in self.records:
            if record.id == identity.token_id and record.subject == identity.subject:
                return record
        return None


def bearer_token(authorization: str) -> str:
    """The secret in an Authorization field (RFC 6750 §2.1), "" for none or another scheme."""
    scheme, _, secret = authorization.strip().partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
