"""Redacts heads, targets and bodies before they are stored. Owns the rules. Pure.

A rule is a name or a path. A name redacts headers, parameters of queries and forms, and JSON fields at any
depth; `$.user.card` redacts one location in JSON; `-x-api-key` removes a name from the default rules.
"""

import re
from base64 import b64decode
from collections.abc import Iterable
from typing import Final, NamedTuple

from devroute.bounded_cache import BoundedCache
from devroute.errors import ConfigInvalid
from devroute.http.secret_names import is_secret_by_default
from devroute.inspector.body_redactor import BodyRedactor, redactor_of, store_rest
from devroute.inspector.capture import FIELD_NAME, REDACTED, REDACTED_QUERY, Body
from devroute.inspector.json_path import JsonPath
from devroute.inspector.masks import Masks
from devroute.inspector.patterns import might_have_patterns, overwritten, without_patterns
from devroute.inspector.protobuf import wire

_REDACTED: Final = REDACTED.encode()
_REDACTED_QUERY: Final = REDACTED_QUERY.encode()
_FIELD = re.compile(rb"\n([^:\r\n]++):[ \t]*+([^\r\n]*+)")
# Of a certificate, only whose it is stays.
_CLIENT_CERTIFICATE = re.compile(
    rb'(?i)\b(hash|cert|chain|subject|dns)=("(?:[^"\\\r\n]|\\.)*+"?|[^;,"\r\n]*+)'
)
#: What is recorded of a field, besides the index in BodyFields.
_SECRET, _PLAIN, _CERTIFICATE, _BINARY = -1, -2, -3, -4
_CERTIFICATE_FIELD: Final = b"x-forwarded-client-cert"
#: Bytes of the names of fields that are remembered, and of callers' certificates.
_MAX_REMEMBERED: Final = 256 * 1024
#: The end of the names of gRPC's binary metadata, which is in base64; repeated values are joined by commas.
_BINARY_END: Final = b"-bin"
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
            elif kind == _BINARY:
                if _has_secret_inside(match[2]):
                    pieces += (raw[at:start], _REDACTED)
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
        elif kind == _PLAIN and low.endswith(_BINARY_END):
            kind = _BINARY
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
                continue
            raw = value.encode("utf-8", "surrogateescape")
            if name.lower().endswith("-bin") and _has_secret_inside(raw):
                cleaned.append((name, REDACTED))
            else:
                raw = without_patterns(raw, _REDACTED)
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
        first = data if redactor is None else redactor.feed(data)
        body.truncated = body.truncated or len(first) > limit
        body.data = bytearray(first[:limit])
        if redactor is not None:
            store_rest(body, redactor, limit)

    def body_redactor(self, fields: BodyFields, limit: int) -> BodyRedactor | None:
        """The redactor for a body, None if the body has no fields to redact. `limit`: bytes that are
        stored."""
        return redactor_of(self.masks, fields.content_type, fields.content_encoding, limit)

    def message(self, data: bytes, *, text: bool) -> bytes:
        """Redacts the JSON in a WebSocket message, which may have other text around it."""
        if text or data[:1] in (b"{", b"[") or data.isascii():
            return self.masks.json(data)
        return without_patterns(data, _REDACTED)


def _has_secret_inside(value: bytes) -> bool:
    """Whether the binary metadata in base64 holds a secret that has a form of its own."""
    for each in value.split(b","):
        each = each.strip().rstrip(b"=")
        try:
            raw = b64decode(each + b"=" * (-len(each) % 4))
        except ValueError:
            continue
        # A text's length, which stands before it, may look like the start of a longer word.
        if might_have_patterns(raw) and (
            overwritten(raw) != raw or any(overwritten(raw[a:b]) != raw[a:b] for a, b in wire.texts(raw))
        ):
            return True
    return False


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
