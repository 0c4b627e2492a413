"""What is taken out of requests and answers before they are stored: rules, heads, bodies' sieves. Pure.

Rules are names or paths: a name is a header, a parameter of a query or form, and a field of JSON wherever it
stands; `$.user.card` is one place in JSON; `-x-api-key` takes a name off the list that holds without asking.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, Protocol

from devroute.errors import ConfigInvalid
from devroute.inspector.capture import REDACTED, REDACTED_QUERY, inflate
from devroute.inspector.json_path import JsonPath
from devroute.inspector.masks import Masks

#: Fields that carry credentials by their standard, or by wide custom.
HEADERS: Final = frozenset((
    "authorization", "proxy-authorization", "cookie", "set-cookie", "authentication-info",
    "x-api-key", "api-key", "apikey", "x-auth-token", "x-access-token", "x-session-token", "x-csrf-token",
    "x-xsrf-token", "x-vault-token", "private-token", "x-amz-security-token", "x-goog-api-key",
    "x-forwarded-access-token", "x-forwarded-authorization",
))  # fmt: skip

#: Parameters and fields of OAuth 2.0 (RFC 6749, RFC 7521) and of log-in forms.
NAMES: Final = frozenset((
    "password", "passwd", "access_token", "refresh_token", "id_token", "client_secret", "client_assertion",
    "api_key",
))  # fmt: skip

_MARK: Final = REDACTED.encode()
_QUERY_MARK: Final = REDACTED_QUERY.encode()
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Only where a word begins: each byte is then looked at once.
_JWT = re.compile(
    rb"(?<![0-9A-Za-z_-])eyJ[0-9A-Za-z_-]{5,}+\.[0-9A-Za-z_-]++\.[0-9A-Za-z_-]*+(?:\.[0-9A-Za-z_-]*+)*+"
)
_PARAMETER = re.compile(rb"(?<=[?&#])([^=&#?\s]++)=([^&#\s]*+)")

#: What the recorder wants to know of a head: field name in lower case to value as it came.
Marks = dict[bytes, bytes]
_MARKS: Final = b"content-type|content-encoding|upgrade|sec-websocket-extensions"


class BodyRedactor(Protocol):
    """Holds a body back until its fields are replaced. `held`: bytes that it holds."""

    held: int

    def feed(self, data: bytes) -> bytes:
        """What may be stored now."""

    def finish(self) -> tuple[bytes, bool, str]:
        """The rest; whether it is without its content-encoding; why there is less than there was."""


class Redaction:
    """The rules of one inspector."""

    def __init__(self, headers: Iterable[str], names: Iterable[str], paths: Iterable[JsonPath]) -> None:
        self._headers = frozenset(name.lower() for name in headers)
        self.masks = Masks(names, paths)
        secret = b"|".join(re.escape(name.encode()) for name in sorted(self._headers)) or rb"(?!)"
        self._fields = re.compile(rb"\n(?:(%b)|(?:%b)):[ \t]*([^\r\n]*)" % (_MARKS, secret))

    # --- heads

    def head(self, raw: bytes) -> tuple[bytes, Marks]:
        """Field lines (each begins after a LF) without secrets, and what the recorder has to know."""
        marks: Marks = {}
        pieces: list[bytes] = []
        at = 0
        for match in self._fields.finditer(raw.lower()):
            start, end = match.span(2)
            name = match[1]
            if name is not None:
                marks[name] = raw[start:end]
            elif end > start:
                pieces += (raw[at:start], _MARK)
                at = end
        if pieces:
            pieces.append(raw[at:])
            raw = b"".join(pieces)
        if b"eyJ" in raw:
            raw = _JWT.sub(_MARK, raw)
        if self.masks.names and (b"?" in raw or b"#" in raw):
            raw = self._query(raw)
        return raw, marks

    def target(self, target: bytes) -> bytes:
        if b"?" not in target and b"#" not in target and b"eyJ" not in target:
            return target
        return _JWT.sub(_QUERY_MARK, self._query(target))

    def _query(self, text: bytes) -> bytes:
        """URLs in the target, Referer, Location."""
        if not self.masks.might_be_in(text):
            return text
        return _PARAMETER.sub(lambda match: self.masks.form(match[0]), text)

    def fields(self, fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Fields that are no head: trailers, what was imported, what a person typed."""
        cleaned: list[tuple[str, str]] = []
        for name, value in fields:
            if name.lower() in self._headers and value:
                cleaned.append((name, REDACTED))
            else:
                raw = _JWT.sub(_MARK, value.encode("utf-8", "surrogateescape"))
                cleaned.append((name, self._query(raw).decode("utf-8", "surrogateescape")))
        return cleaned

    # --- bodies

    def redactor(self, marks: Mapping[bytes, bytes], limit: int) -> BodyRedactor | None:
        """For a body of such a head; None where nothing in it can be secret. `limit`: bytes that are kept."""
        if not self.masks:
            return None
        given = marks.get(b"content-type", b"")
        kind = given.partition(b";")[0].strip().lower()
        coding = marks.get(b"content-encoding", b"").strip().lower()
        if kind.startswith((b"application/grpc", b"image/", b"audio/", b"video/", b"font/")):
            return None
        if kind == b"application/octet-stream":
            return None
        boundary = b""
        if kind == b"multipart/form-data":
            found = re.search(rb'(?i)boundary=(?:"([^"]+)"|([^\s;]+))', given)
            boundary = (found[1] or found[2]) if found else b""
        if coding in (b"", b"identity"):
            if kind == b"text/event-stream":
                return LineRedactor(self.masks, b"\n\n", limit)
            if kind in _LINES:
                return LineRedactor(self.masks, b"\n", limit)
            coding = b""
        return WholeBodyRedactor(self.masks, kind, boundary, coding, limit)

    def message(self, data: bytes, *, text: bool) -> bytes:
        """A message of a WebSocket: JSON, perhaps with something around it."""
        return self.masks.json(data) if text or data[:1] in (b"{", b"[") else data


_LINES: Final = frozenset((
    b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines",
    b"application/json-seq", b"application/stream+json",
))  # fmt: skip
_TEXTS: Final = (b"", b"text/plain")


class WholeBodyRedactor:
    """Holds all of a body up to `limit`: what its fields are is sure at its end only."""

    __slots__ = ("_boundary", "_coding", "_data", "_kind", "_limit", "_masks", "held")

    def __init__(self, masks: Masks, kind: bytes, boundary: bytes, coding: bytes, limit: int) -> None:
        self._masks = masks
        self._kind = kind
        self._boundary = boundary
        self._coding = coding
        self._limit = limit
        self._data: bytearray = bytearray()
        self.held = 0

    def feed(self, data: bytes) -> bytes:
        if not self.held and not self._concerned(data):
            self._masks = _NOTHING
        if not self._masks:
            return data
        self._data += data
        self.held = len(self._data)
        return b""

    def _concerned(self, data: bytes) -> bool:
        """Whether this is a kind of body that has fields, going by its first bytes where it does not say."""
        kind = self._kind
        if b"json" in kind or kind == b"application/x-www-form-urlencoded" or self._boundary:
            return True
        return kind in _TEXTS and (bool(self._coding) or data.lstrip()[:1] in (b"{", b"["))

    def finish(self) -> tuple[bytes, bool, str]:
        data, self._data, self.held = bytes(self._data), bytearray(), 0
        if not self._coding or not data:
            return self._masked(data), False, ""
        plain = inflate(data, self._limit) if self._coding in (b"gzip", b"x-gzip", b"deflate") else None
        if plain is None:
            coding = self._coding.decode("latin-1")
            return b"", False, f"not kept: its coding '{coding}' cannot be searched for fields to redact"
        masked = self._masked(plain)
        if masked == plain and len(plain) < self._limit:
            return data, False, ""
        return masked, True, "kept without its content-encoding, since fields in it are redacted"

    def _masked(self, data: bytes) -> bytes:
        if self._kind == b"application/x-www-form-urlencoded":
            return self._masks.form(data)
        if self._boundary:
            return self._masks.multipart(data, self._boundary)
        return self._masks.json(data)


class LineRedactor:
    """Passes documents on as they are complete: lines, or the events of an event stream."""

    __slots__ = ("_end", "_limit", "_masks", "_rest", "held")

    def __init__(self, masks: Masks, end: bytes, limit: int) -> None:
        self._masks = masks
        self._end = end
        self._limit = limit
        self._rest = b""
        self.held = 0

    def feed(self, data: bytes) -> bytes:
        data = self._rest + data
        if self._end == b"\n\n" and b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        cut = data.rfind(self._end) + len(self._end)
        if cut < len(self._end):
            cut = len(data) if len(data) >= self._limit else 0
        self._rest = data[cut:]
        self.held = len(self._rest)
        return self._masks.json(data[:cut]) if cut else b""

    def finish(self) -> tuple[bytes, bool, str]:
        rest, self._rest, self.held = self._rest, b"", 0
        return self._masks.json(rest), False, ""


_NOTHING: Final = Masks((), ())


def redaction(rules: Iterable[str] = ()) -> Redaction:
    """The rules that hold without asking, with these changes. Raises ConfigInvalid naming the rule."""
    headers, names = set(HEADERS), set(NAMES)
    paths: list[JsonPath] = []
    for rule in rules:
        if rule.startswith("$"):
            paths.append(JsonPath.parse(rule))
            continue
        taken_off = rule.startswith("-")
        name = rule.removeprefix("-").lower()
        if not _NAME.fullmatch(name):
            raise ConfigInvalid(
                f"redact: {rule!r} is neither a name nor a path",
                hint="write x-api-key, card_number, $.user.card, or -x-api-key to keep it",
            )
        if taken_off:
            if name not in headers and name not in names:
                raise ConfigInvalid(f"redact: {rule!r}: {name} is not redacted anyway")
            headers.discard(name)
            names.discard(name)
        else:
            headers.add(name)
            names.add(name)
    return Redaction(headers, names, paths)
