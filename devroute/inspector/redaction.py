"""Redacts heads, targets and bodies before they are stored. Owns the rules. Pure.

A rule is a name or a path. A name redacts headers, parameters of queries and forms, and JSON fields at any
depth; `$.user.card` redacts one location in JSON; `-x-api-key` removes a name from the default rules.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

from devroute.errors import ConfigInvalid
from devroute.inspector.capture import FIELD_NAME, REDACTED, REDACTED_QUERY, Body, inflate
from devroute.inspector.json_path import JsonPath
from devroute.inspector.masks import Masks

#: Headers that carry credentials, by a standard or by convention.
HEADERS: Final = frozenset((
    "authorization", "proxy-authorization", "cookie", "set-cookie", "authentication-info",
    "x-api-key", "api-key", "apikey", "x-auth-token", "x-access-token", "x-session-token", "x-csrf-token",
    "x-xsrf-token", "x-vault-token", "private-token", "x-amz-security-token", "x-goog-api-key",
    "x-forwarded-access-token", "x-forwarded-authorization",
))  # fmt: skip

#: Parameters and JSON fields of OAuth 2.0 (RFC 6749, RFC 7521) and of login forms.
NAMES: Final = frozenset((
    "password", "passwd", "access_token", "refresh_token", "id_token", "client_secret", "client_assertion",
    "api_key",
))  # fmt: skip

_REDACTED: Final = REDACTED.encode()
_REDACTED_QUERY: Final = REDACTED_QUERY.encode()
# Matches at the start of a word only, so that each byte is examined once.
_JWT = re.compile(
    rb"(?<![0-9A-Za-z_-])eyJ[0-9A-Za-z_-]{5,}+\.[0-9A-Za-z_-]++\.[0-9A-Za-z_-]*+(?:\.[0-9A-Za-z_-]*+)*+"
)
_PARAMETER = re.compile(rb"(?<=[?&#])([^=&#?\s]++)=([^&#\s]*+)")


class BodyFields(NamedTuple):
    """The fields of a head that determine how its body is recorded, b"" if absent."""

    content_type: bytes = b""
    content_encoding: bytes = b""
    upgrade: bytes = b""
    extensions: bytes = b""


#: The index in BodyFields of each field name.
_BODY_FIELDS: Final = {
    b"content-type": 0,
    b"content-encoding": 1,
    b"upgrade": 2,
    b"sec-websocket-extensions": 3,
}


class BodyRedactor(Protocol):
    """Buffers a body until its fields can be redacted. `buffered`: the number of bytes."""

    buffered: int

    def feed(self, data: bytes) -> bytes:
        """The redacted bytes that can be stored now."""

    def finish(self) -> tuple[bytes, bool, str]:
        """The rest; whether its content-encoding was removed; a note if less is stored than received."""


class Redaction:
    """Redacts by a set of rules."""

    def __init__(self, headers: Iterable[str], names: Iterable[str], paths: Iterable[JsonPath]) -> None:
        self._headers = frozenset(name.lower() for name in headers)
        self.masks = Masks(names, paths)
        secret = b"|".join(re.escape(name.encode()) for name in sorted(self._headers)) or rb"(?!)"
        self._fields = re.compile(rb"\n(?:(%b)|(?:%b)):[ \t]*([^\r\n]*)" % (b"|".join(_BODY_FIELDS), secret))

    # --- heads

    def head(self, raw: bytes) -> tuple[bytes, BodyFields]:
        """Redacted field lines (each begins after a LF), and the fields that concern the body."""
        fields = [b"", b"", b"", b""]
        pieces: list[bytes] = []
        at = 0
        for match in self._fields.finditer(raw.lower()):
            start, end = match.span(2)
            name = match[1]
            if name is not None:
                fields[_BODY_FIELDS[name]] = raw[start:end]
            elif end > start:
                pieces += (raw[at:start], _REDACTED)
                at = end
        if pieces:
            pieces.append(raw[at:])
            raw = b"".join(pieces)
        if b"eyJ" in raw:
            raw = _JWT.sub(_REDACTED, raw)
        if self.masks.names and (b"?" in raw or b"#" in raw):
            raw = self._query(raw)
        return raw, BodyFields(*fields)

    def target(self, target: bytes) -> bytes:
        if b"?" not in target and b"#" not in target and b"eyJ" not in target:
            return target
        return _JWT.sub(_REDACTED_QUERY, self._query(target))

    def _query(self, text: bytes) -> bytes:
        """Redacts the queries of URLs in the target, Referer and Location."""
        if not self.masks.might_be_in(text):
            return text
        return _PARAMETER.sub(lambda match: self.masks.form(match[0]), text)

    def fields(self, fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Redacts fields that are not part of a head, such as trailers."""
        cleaned: list[tuple[str, str]] = []
        for name, value in fields:
            if name.lower() in self._headers and value:
                cleaned.append((name, REDACTED))
            else:
                raw = _JWT.sub(_REDACTED, value.encode("utf-8", "surrogateescape"))
                cleaned.append((name, self._query(raw).decode("utf-8", "surrogateescape")))
        return cleaned

    # --- bodies

    def body(self, body: Body, fields: BodyFields, limit: int) -> None:
        """Redacts a complete body and truncates it to `limit` bytes."""
        data = bytes(body.data[:limit])
        body.truncated = body.truncated or len(data) < len(body.data)
        redactor = self.body_redactor(
            fields._replace(content_encoding=b"") if body.decoded else fields, limit
        )
        if redactor is not None and data:
            first = redactor.feed(data)
            rest, decoded, note = redactor.finish()
            body.decoded, body.note = body.decoded or decoded, body.note or note
            data = first + rest
        body.data = bytearray(data[:limit])

    def body_redactor(self, fields: BodyFields, limit: int) -> BodyRedactor | None:
        """The redactor for a body, None if the body has no fields to redact. `limit`: bytes that are
        stored."""
        if not self.masks:
            return None
        media_type = fields.content_type.partition(b";")[0].strip().lower()
        coding = fields.content_encoding.strip().lower()
        if media_type.startswith((b"application/grpc", b"image/", b"audio/", b"video/", b"font/")):
            return None
        if media_type == b"application/octet-stream":
            return None
        boundary = b""
        if media_type == b"multipart/form-data":
            found = re.search(rb'(?i)boundary=(?:"([^"]+)"|([^\s;]+))', fields.content_type)
            boundary = (found[1] or found[2]) if found else b""
        if coding in (b"", b"identity"):
            if media_type == b"text/event-stream":
                return LineRedactor(self.masks, b"\n\n", limit)
            if media_type in _LINE_TYPES:
                return LineRedactor(self.masks, b"\n", limit)
            coding = b""
        return WholeBodyRedactor(self.masks, media_type, boundary, coding, limit)

    def message(self, data: bytes, *, text: bool) -> bytes:
        """Redacts the JSON in a WebSocket message, which may have other text around it."""
        return self.masks.json(data) if text or data[:1] in (b"{", b"[") else data


_LINE_TYPES: Final = frozenset((
    b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines",
    b"application/json-seq", b"application/stream+json",
))  # fmt: skip
_TEXT_TYPES: Final = (b"", b"text/plain")


@dataclass(slots=True, eq=False, repr=False)  # buffers what is not redacted yet
class WholeBodyRedactor:
    """Buffers a whole body up to `limit`: its fields are only known at its end."""

    _masks: Masks
    _media_type: bytes
    _boundary: bytes
    _coding: bytes
    _limit: int
    _data: bytearray = field(default_factory=bytearray, init=False)
    buffered: int = 0

    def feed(self, data: bytes) -> bytes:
        if not self.buffered and not self._has_fields(data):
            self._masks = _NO_MASKS
        if not self._masks:
            return data
        self._data += data
        self.buffered = len(self._data)
        return b""

    def _has_fields(self, data: bytes) -> bool:
        """Whether the body's media type, or else its first bytes, are those of a format with fields."""
        media_type = self._media_type
        if b"json" in media_type or media_type == b"application/x-www-form-urlencoded" or self._boundary:
            return True
        return media_type in _TEXT_TYPES and (bool(self._coding) or data.lstrip()[:1] in (b"{", b"["))

    def finish(self) -> tuple[bytes, bool, str]:
        data, self._data, self.buffered = bytes(self._data), bytearray(), 0
        if not self._coding or not data:
            return self._redacted(data), False, ""
        plain = inflate(data, self._limit) if self._coding in (b"gzip", b"x-gzip", b"deflate") else None
        if plain is None:
            coding = self._coding.decode("latin-1")
            return (
                b"",
                False,
                f"not stored: its content-encoding '{coding}' cannot be searched for fields to redact",
            )
        redacted = self._redacted(plain)
        if redacted == plain and len(plain) < self._limit:
            return data, False, ""
        return redacted, True, "stored without its content-encoding, because fields in it were redacted"

    def _redacted(self, data: bytes) -> bytes:
        if self._media_type == b"application/x-www-form-urlencoded":
            return self._masks.form(data)
        if self._boundary:
            return self._masks.multipart(data, self._boundary)
        return self._masks.json(data)


@dataclass(slots=True, eq=False, repr=False)  # buffers what is not redacted yet
class LineRedactor:
    """Buffers one document at a time: a line, or an event of an event stream."""

    _masks: Masks
    _end: bytes
    _limit: int
    _rest: bytes = b""
    buffered: int = 0

    def feed(self, data: bytes) -> bytes:
        data = self._rest + data
        if self._end == b"\n\n" and b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        cut = data.rfind(self._end) + len(self._end)
        if cut < len(self._end):
            cut = len(data) if len(data) >= self._limit else 0
        self._rest = data[cut:]
        self.buffered = len(self._rest)
        return self._masks.json(data[:cut]) if cut else b""

    def finish(self) -> tuple[bytes, bool, str]:
        rest, self._rest, self.buffered = self._rest, b"", 0
        return self._masks.json(rest), False, ""


_NO_MASKS: Final = Masks((), ())


def redaction(rules: Iterable[str] = ()) -> Redaction:
    """The default rules with these changes. Raises ConfigInvalid naming the rule."""
    headers, names = set(HEADERS), set(NAMES)
    paths: list[JsonPath] = []
    for rule in rules:
        if rule.startswith("$"):
            paths.append(JsonPath.parse(rule))
            continue
        removed = rule.startswith("-")
        name = rule.removeprefix("-").lower()
        if not FIELD_NAME.fullmatch(name):
            raise ConfigInvalid(
                f"redact: {rule!r} is neither a name nor a path",
                hint="write x-api-key, card_number, $.user.card, or -x-api-key to stop redacting it",
            )
        if removed:
            if name not in headers and name not in names:
                raise ConfigInvalid(f"redact: {rule!r}: {name} is not redacted by default")
            headers.discard(name)
            names.discard(name)
        else:
            headers.add(name)
            names.add(name)
    return Redaction(headers, names, paths)
