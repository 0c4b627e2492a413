"""Redacts bodies as they arrive: whole, or a line at a time where no field extends over several. Pure.

Media apart, each body is searched: by the names of fields if it may have some, and in any case for secrets
that have a form of their own. Time is linear in the body's size, however small its chunks are.
"""

import re
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple, Protocol

from devroute.inspector.capture import Body, inflate_all
from devroute.inspector.masks import Masks

_LINE_TYPES: Final = frozenset((
    b"application/x-ndjson", b"application/ndjson", b"application/jsonl", b"application/x-jsonlines",
    b"application/json-seq", b"application/stream+json",
))  # fmt: skip
_FIELD_TYPES: Final = (b"json", b"event-stream", b"xml", b"graphql", b"x-www-form-urlencoded")
#: Texts in which braces, brackets and colons are not those of JSON.
_SOURCE_TYPES: Final = (b"html", b"css", b"script")
_TEXT_TYPES: Final = (b"text/", b"yaml", b"toml", *_SOURCE_TYPES)
#: Not searched: media, and gRPC, which inspector/protobuf/cleaner.py redacts.
_MEDIA: Final = (b"application/grpc", b"image/", b"audio/", b"video/", b"font/")
_INFLATABLE: Final = (b"gzip", b"x-gzip", b"deflate")
#: White space and the marks of UTF-16 and UTF-8, which may stand before a document.
_BLANK: Final = b" \t\r\n\0\xff\xfe\xef\xbb\xbf"
#: Not in a text of any encoding.
_NO_TEXT: Final = bytes(4)
#: Bytes of a private key whose end is waited for.
_MAX_KEY: Final = 8 * 1024
#: The last bytes of what was received, in which a CR LF or the end of an event may have begun.
_OVERLAP: Final = 3


class Rest(NamedTuple):
    """The end of a redacted body. `decoded`: its content-encoding was removed. `note`: why less was stored
    than received. `truncated`: the body goes on."""

    data: bytes
    decoded: bool = False
    note: str = ""
    truncated: bool = False


class BodyRedactor(Protocol):
    """Buffers a body until its fields can be redacted. `buffered`: the number of bytes."""

    buffered: int

    def feed(self, data: bytes) -> bytes:
        """The redacted bytes that can be stored now."""

    def finish(self) -> Rest:
        """The body is complete, or was cut."""


def store_rest(body: Body, redactor: BodyRedactor, limit: int) -> int:
    """Store what the redactor has buffered, up to `limit` bytes of the whole body; how many it stored."""
    rest = redactor.finish()
    kept = rest.data[: max(0, limit - len(body.data))]
    body.data += kept
    body.decoded, body.note = body.decoded or rest.decoded, body.note or rest.note
    body.truncated = body.truncated or rest.truncated or len(kept) < len(rest.data)
    return len(kept)


def redactor_of(masks: Masks, content_type: bytes, coding: bytes, limit: int) -> BodyRedactor | None:
    """The redactor for a body with this content type and content-encoding, None if it is not searched.
    `limit`: bytes that are stored."""
    media_type = content_type.partition(b";")[0].strip().lower()
    coding = coding.strip().lower()
    if media_type.startswith(_MEDIA) and media_type.find(b"xml") < 0:
        return None
    boundary = b""
    if media_type.startswith(b"multipart/"):
        found = re.search(rb'(?i)boundary=(?:"([^"]+)"|([^\s;]+))', content_type)
        boundary = (found[1] or found[2]) if found else b""
    if coding in (b"", b"identity"):
        if media_type == b"text/event-stream":
            return LineRedactor(masks.json, b"\n\n", limit)
        if media_type in _LINE_TYPES:
            return LineRedactor(masks.json, b"\n", limit)
        coding = b""
    return WholeBodyRedactor(masks, media_type, boundary, coding, limit)


class WholeBodyRedactor:
    """Buffers a whole body up to `limit` if its fields are only known at its end, else one line at a time."""

    __slots__ = (
        "_boundary",
        "_coding",
        "_data",
        "_decided",
        "_has_fields",
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
        self._has_fields = bool(boundary) or _has(media_type, _FIELD_TYPES)
        self._decided = self._has_fields
        self.buffered = 0

    def feed(self, data: bytes) -> bytes:
        if not self._decided:
            self._decide(data)
        if self._lines is not None:
            if self._data:
                data, self._data = bytes(self._data) + data, bytearray()
            data = self._lines.feed(data)
            self.buffered = self._lines.buffered
            return data
        self._data += data
        self.buffered = len(self._data)
        return b""

    def _decide(self, data: bytes) -> None:
        """Whether the body is redacted as a whole, by its content-encoding or its first visible byte."""
        if self._coding:
            self._decided = True
            whole = self._coding in _INFLATABLE or self._is_text_type()
        else:
            begins = data.lstrip(_BLANK)[:1]
            self._decided = bool(begins) or data.find(_NO_TEXT) >= 0
            whole = not self._decided or (
                begins in (b"{", b"[") and not _has(self._media_type, (b"css", b"script"))
            )
        if not whole:
            # Not a method of this object, which would be a reference cycle.
            redact = partial(_redacted_text, self._masks, self._media_type)
            self._lines = LineRedactor(redact, b"\n", self._limit)

    def _is_text_type(self) -> bool:
        return not self._media_type or _has(self._media_type, _TEXT_TYPES)

    def finish(self) -> Rest:
        if self._lines is not None:
            self.buffered = 0
            return self._lines.finish()
        data, self._data, self.buffered = bytes(self._data), bytearray(), 0
        if not self._coding or not data:
            return Rest(self._redacted(data))
        inflated = inflate_all(data, self._limit) if self._coding in _INFLATABLE else None
        if inflated is None:
            coding = self._coding.decode("latin-1")
            note = f"not stored: its content-encoding '{coding}' cannot be searched for fields to redact"
            return Rest(b"", note=note)
        plain, whole = inflated
        redacted = self._redacted(plain)
        if redacted == plain and whole:
            return Rest(data)
        why = "because fields in it were redacted" if redacted != plain else "since only a part was searched"
        note = f"stored without its content-encoding, {why}"
        return Rest(redacted, decoded=True, note=note, truncated=not whole)

    def _redacted(self, data: bytes) -> bytes:
        if self._media_type == b"application/x-www-form-urlencoded":
            return self._masks.form(data)
        if self._boundary:
            return self._masks.multipart(data, self._boundary)
        if b"xml" in self._media_type:
            return self._masks.xml(data)
        if self._has_fields or data.lstrip(_BLANK)[:1] in (b"{", b"["):
            return self._masks.json(data)
        return _redacted_text(self._masks, self._media_type, data)


def _redacted_text(masks: Masks, media_type: bytes, data: bytes) -> bytes:
    """Redacts what is no document of a format with fields, or has one inside."""
    if _has(media_type, _SOURCE_TYPES):
        return masks.quoted(data)
    if _has(media_type, _TEXT_TYPES) or _is_text(data):
        return masks.json(data)
    return masks.quoted(data)


def _has(media_type: bytes, parts: tuple[bytes, ...]) -> bool:
    return any(each in media_type for each in parts)


def _is_text(data: bytes) -> bool:
    """Whether lines of a body of another or of no media type are text."""
    if data.find(b"\0") >= 0:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _open_key(documents: bytes, end: bytes) -> int:
    """Where the document begins in which a private key (PEM) begins whose end is still to come; the key
    itself in a long document, which would be copied with each of its lines; the end of all if there is none.
    Each document ends with `end`."""
    begun = documents.rfind(b"-----BEGIN ")
    if begun < 0 or len(documents) - begun > _MAX_KEY or documents.find(b"-----END ", begun) >= 0:
        return len(documents)
    before = documents.rfind(end, 0, begun)
    start = before + len(end) if before >= 0 else 0
    return start if begun - start <= _MAX_KEY else begun


class LineRedactor:
    """Buffers one document at a time: a line, an event of an event stream, or the lines of a private key."""

    __slots__ = ("_end", "_limit", "_redact", "_rest", "buffered")

    def __init__(self, redact: Callable[[bytes], bytes], end: bytes, limit: int) -> None:
        self._redact = redact
        self._end = end
        self._limit = limit
        self._rest = bytearray()
        self.buffered = 0

    def feed(self, data: bytes) -> bytes:
        """Only the new bytes are searched for an end: a line may arrive in many small chunks."""
        rest = self._rest
        data = bytes(rest[-_OVERLAP:]) + data
        del rest[-_OVERLAP:]
        if self._end == b"\n\n" and b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        cut = data.rfind(self._end) + len(self._end)
        if cut < len(self._end):
            cut = len(data) if len(rest) + len(data) >= self._limit else 0
        document = b""
        if cut:
            document = bytes(rest) + data[:cut]
            rest.clear()
            begun = _open_key(document, self._end)
            rest += document[begun:]
            document = document[:begun]
        rest += data[cut:]
        self.buffered = len(rest)
        return self._redact(document) if document else b""

    def finish(self) -> Rest:
        rest, self._rest, self.buffered = bytes(self._rest), bytearray(), 0
        return Rest(self._redact(rest))
