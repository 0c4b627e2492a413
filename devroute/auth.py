"""Who may register a laptop: static tokens, kept as hashes only. Pure; whoever reads the file watches it and
calls `Tokens.parse` again.

The file is a YAML list, so that a new token is a piece of text at its end and comments stay:

    - subject: alice
      sha256: 3f2a...
      created: '2026-01-31'
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Annotated

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, TypeAdapter, ValidationError

from devroute.errors import ConfigInvalid, TokenInvalid
from devroute.target import Malformed, check_label

#: Random bytes of a secret: 256 bits cannot be guessed, so a plain unsalted hash is safe to keep.
ENTROPY = 32
#: The beginning of each secret, so that people and secret scanners recognise one.
PREFIX = "dvr_"
#: Characters of a secret that is looked at; more cannot be one of ours.
MAX_SECRET = 256
#: Bytes of a token file; a Kubernetes Secret cannot be larger.
MAX_FILE = 1024 * 1024


def _subject(value: object) -> str:
    return check_label(value if isinstance(value, str) else str(value), "a subject")


def _digest(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{64}", value):
        raise ValueError("not a SHA-256 in 64 hexadecimal digits; make a token with: devroute token new NAME")
    return value


class TokenRecord(BaseModel):
    """What the file keeps of a token; `created` is a date for people to read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: Annotated[str, BeforeValidator(_subject)]
    sha256: Annotated[str, BeforeValidator(_digest)]
    created: Annotated[str, BeforeValidator(str)] = ""

    def as_yaml(self) -> str:
        """The record as an item of the file's list."""
        return yaml.safe_dump([self.model_dump()], sort_keys=False)


_RECORDS = TypeAdapter(tuple[TokenRecord, ...])


def new_token(subject: str, created: str = "", entropy: bytes | None = None) -> tuple[str, TokenRecord]:
    """A new secret for `subject` and the record to keep of it. Raises ConfigInvalid for a wrong subject."""
    secret = PREFIX + (secrets.token_bytes(ENTROPY) if entropy is None else entropy).hex()
    try:
        check_label(subject, "a subject")
    except Malformed as problem:
        raise ConfigInvalid(f"subject '{subject[:63]}': {problem}") from None
    return secret, TokenRecord(subject=subject, sha256=_hash(secret), created=created)


def owns(subject: str, name: str) -> bool:
    """Whether `subject` may register a laptop as `name`: `subject` itself or `subject-*`, nothing else."""
    return name == subject or name.startswith(subject + "-")


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens in force. A subject may have several, for changing them without an interruption."""

    records: tuple[TokenRecord, ...] = ()

    @classmethod
    def parse(cls, text: str, source: str = "tokens.yaml") -> "Tokens":
        """The tokens in a file's text; an empty one has none. Raises ConfigInvalid naming file and field."""
        if len(text) > MAX_FILE:
            raise ConfigInvalid(f"{source}: larger than {MAX_FILE} bytes")
        try:
            document = yaml.safe_load(text)
        except yaml.YAMLError as error:
            # Only the place: the problem's text may quote the file, which may hold a secret by mistake.
            mark = getattr(error, "problem_mark", None)
            place = f" at line {mark.line + 1}" if mark else ""
            raise ConfigInvalid(f"{source}: not valid YAML{place}") from None
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

    def subject_of(self, secret: str) -> str:
        """Whose secret it is. Raises TokenInvalid. Takes the same time wherever in the file the secret is."""
        if not secret:
            raise TokenInvalid("the token is missing")
        digest = _hash(secret[:MAX_SECRET])
        found = None
        for record in self.records:
            if hmac.compare_digest(record.sha256, digest) and len(secret) <= MAX_SECRET:
                found = record.subject
        if found is None:
            raise TokenInvalid("the token is not known to this server")
        return found

    def subject_of_header(self, authorization: str | None) -> str:
        """Whose secret an Authorization field carries (RFC 6750 §2.1). Raises TokenInvalid."""
        scheme, _, secret = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer":
            raise TokenInvalid("the token is missing; send Authorization: Bearer TOKEN")
        return self.subject_of(secret.strip())


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
