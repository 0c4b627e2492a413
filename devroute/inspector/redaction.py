"""Redacts heads, targets and bodies before they are stored. Owns the rules. Pure.

A rule is a name or a path. A name redacts headers, parameters of queries and forms, and JSON fields at any
depth; `$.user.card` redacts one location in JSON; `-x-api-key` removes a name from the default rules.
"""

import re
from collections.abc import Iterable
from typing import Final, NamedTuple, Protocol

from devroute.bounded_cache import BoundedCache
from devroute.errors import ConfigInvalid
from devroute.http.secret_names import is_secret_by_default
from devroute.inspector.capture import FIELD_NAME, REDACTED, REDACTED_QUERY, Body, inflate
from devroute.inspector.json_path import JsonPath
from devroute.inspector.masks import Masks
from devroute.inspector.patterns import without_patterns

_REDACTED: Final = REDACTED.encode()
_REDACTED_QUERY: Final = REDACTED_QUERY.encode()
_FIELD = re.compile(rb"\n([^:\r\n]++):[ \t]*+([^\r\n]*+)")
# Of a certificate, only whose it is stays.
_CLIENT_CERTIFICATE = re.compile(
    rb'(?i)\b(hash|cert|chain|subject|dns)=("(?:[^"\\\r\n]|\\.)*+"?|[^;,"\r\n]*+)'
)
#: What is recorded of a field, besides the index in BodyFields.
_SECRET, _PLAIN, _CERTIFICATE = -1, -2, -3
_CERTIFICATE_FIELD: Final = b"x-forwarded-client-cert"
#: Bytes of the names of fields that are remembered, and of callers' certificates.
_MAX_REMEMBERED: Final = 256 * 1024
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

    def __init__(
        self, added: Iterable[str] = (), removed: Iterable[str] = (), paths: Iterable[JsonPath] = ()
    ) -> None:
        """`added` and `removed`: changes to the default names."""
        self.masks = Masks(added, removed, paths)
        self._kinds: BoundedCache[bytes, int] = BoundedCache(_MAX_REMEMBERED)
        self._certificates: BoundedCache[bytes, bytes] = BoundedCache(_MAX_REMEMBERED)

    # --- heads

    def head(self, raw: bytes) -> tuple[bytes, BodyFields]:
        """Redacted field lines (each begins after a LF), and the fields that concern the body."""
        fields = [b"", b"", b"", b""]
        pieces: list[bytes] = []
        at = 0
        known, plain = self._kinds.get, _PLAIN
        for match in _FIELD.finditer(raw):
            kind = known(match[1])
            if kind is None:
                kind = self._kind(match[1])
            if kind == plain:
                continue
            start, end = match.span(2)
            if kind >= 0:
                fields[kind] = raw[start:end]
            elif kind == _CERTIFICATE:
                pieces += (raw[at:start], self._certificate(match[2]))
                at = end
            elif end > start:
                pieces += (raw[at:start], _REDACTED)
                at = end
        if pieces:
            pieces.append(raw[at:])
            raw = b"".join(pieces)
        raw = without_patterns(raw, _REDACTED)
        if raw.find(b"?") >= 0 or raw.find(b"#") >= 0:
            raw = self._query(raw)
        return raw, BodyFields(*fields)

    def _kind(self, name: bytes) -> int:
        low = name.lower()
        secret = low.decode("latin-1") in self.masks.names
        kind = _BODY_FIELDS.get(low, _SECRET if secret else _PLAIN)
        if low == _CERTIFICATE_FIELD and not secret:
            kind = _CERTIFICATE
        self._kinds.put(name, kind, len(name))
        return kind

    def _certificate(self, value: bytes) -> bytes:
        """Each caller of a mesh sends the same in every request."""
        redacted = self._certificates.get(value)
        if redacted is None:
            redacted = _CLIENT_CERTIFICATE.sub(rb"\1=" + _REDACTED, value)
            self._certificates.put(value, redacted, len(value) + len(redacted))
        return redacted

    def target(self, target: bytes) -> bytes:
        if target.find(b"?") >= 0 or target.find(b"#") >= 0:
            target = self._query(target)
        return without_patterns(target, _REDACTED_QUERY)

    def target_text(self, target: str) -> str:
        return self.target(target.encode("latin-1", "replace")).decode("latin-1")

    def _query(self, text: bytes) -> bytes:
        """Redacts the queries of URLs in the target, Referer and Location."""
        if not self.masks.might_be_in(text):
            return text
        return _PARAMETER.sub(lambda match: self.masks.parameter(match[0]), text)

    def fields(self, fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Redacts fields that are not part of a head, such as trailers."""
        cleaned: list[tuple[str, str]] = []
        for name, value in fields:
            if value and name in self.masks.names:
                cleaned.append((name, REDACTED))
            else:
                raw = without_patterns(value.encode("utf-8", "surrogateescape"), _REDACTED)
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
        media_type = fields.content_type.partition(b";")[0].strip().lower()
        coding = fields.content_encoding.strip().lower()
        if media_type.startswith((b"application/grpc", b"image/", b"audio/", b"video/", b"font/")):
            return None
        if media_type == b"application/octet-stream":
            return None
        boundary = b""
        if media_type.startswith(b"multipart/"):
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
        if text or data[:1] in (b"{", b"[") or data.isascii():
            return self.masks.json(data)
        return without_patterns(data, _REDACTED)


_LINE_TYPES: Final = frozenset((
    b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines",
    b"application/json-seq", b"application/stream+json",
))  # fmt: skip
_FIELD_TYPES: Final = (b"json", b"event-stream", b"xml", b"graphql", b"x-www-form-urlencoded")
_TEXT_TYPES: Final = (b"", b"text/plain")


class WholeBodyRedactor:
    """Buffers a whole body up to `limit`: its fields are only known at its end."""

    __slots__ = (
        "_begun",
        "_boundary",
        "_coding",
        "_data",
        "_limit",
        "_lines",
        "_masks",
        "_media_type",
        "buffered",
    )

    def __init__(self, masks: Masks, media_type: bytes, boundary: bytes, coding: bytes, limit: int) -> None:
        self._masks = masks
        self._media_type = media_type
        self._boundary = boundary
        self._coding = coding
        self._limit = limit
        self._data = bytearray()
        self._lines: LineRedactor | None = None
        self._begun = False
        self.buffered = 0

    def feed(self, data: bytes) -> bytes:
        if not self._begun:
            self._begun = True
            if not self._has_fields(data):
                self._lines = LineRedactor(self._masks, b"\n", self._limit)
        if self._lines is not None:
            if self._media_type != b"text/plain":
                return data
            data = self._lines.feed(data)
            self.buffered = self._lines.buffered
            return data
        self._data += data
        self.buffered = len(self._data)
        return b""

    def _has_fields(self, data: bytes) -> bool:
        """Whether the body's media type, or else its first bytes, are those of a format with fields."""
        media_type = self._media_type
        if self._boundary:
            return True
        for each in _FIELD_TYPES:  # any() costs five times as much
            if media_type.find(each) >= 0:
                return True
        begins = data.lstrip(b" \t\r\n\0\xff\xfe\xef\xbb\xbf")[:1]
        return media_type in _TEXT_TYPES and (bool(self._coding) or begins in (b"{", b"["))

    def finish(self) -> tuple[bytes, bool, str]:
        if self._lines is not None:
            self.buffered = 0
            return self._lines.finish()
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
        if b"xml" in self._media_type:
            return self._masks.xml(data)
        return self._masks.json(data)


class LineRedactor:
    """Buffers one document at a time: a line, or an event of an event stream."""

    __slots__ = ("_end", "_limit", "_masks", "_rest", "buffered")

    def __init__(self, masks: Masks, end: bytes, limit: int) -> None:
        self._masks = masks
        self._end = end
        self._limit = limit
        self._rest = b""
        self.buffered = 0

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


def redaction(rules: Iterable[str] = ()) -> Redaction:
    """The default rules with these changes. Raises ConfigInvalid naming the rule."""
    added: list[str] = []
    removed: list[str] = []
    paths: list[JsonPath] = []
    for rule in rules:
        if rule.startswith("$"):
            paths.append(JsonPath.parse(rule))
            continue
        name = rule.removeprefix("-").lower()
        if not FIELD_NAME.fullmatch(name):
            raise ConfigInvalid(
                f"redact: {rule!r} is neither a name nor a path",
                hint="write x-api-key, card_number, $.user.card, or -x-api-key to stop redacting it",
            )
        if not rule.startswith("-"):
            added.append(name)
        elif is_secret_by_default(name):
            removed.append(name)
        else:
            raise ConfigInvalid(f"redact: {rule!r}: {name} is not redacted by default")
    return Redaction(added, removed, paths)
