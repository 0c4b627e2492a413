"""Captures: requests and responses as the inspector stores them. Pure.

inspector/redaction.py has redacted headers, targets and bodies before: secrets never reach this module.
"""

import re
import zlib
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from devroute.contract.mesh_identity import caller_of
from devroute.http.message import Headers, split_fields

Kind = Literal["http", "grpc", "websocket", "upgrade", "sse"]
State = Literal["open", "done", "failed"]
#: "in": a request to an app of this laptop; "out": one from this laptop to a service of the mesh.
Direction = Literal["in", "out"]
Opcode = Literal["text", "binary", "close", "ping", "pong"]
Fields = list[tuple[str, str]]

#: The numbers of WebSocket's opcodes (RFC 6455 §5.2).
OPCODES: Final[dict[int, Opcode]] = {1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}

#: A field's name, and a value without control characters.
FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
FIELD_VALUE: Final = re.compile(r"[^\x00-\x08\x0a-\x1f\x7f]*")

#: Texts about rules that one capture keeps: one rule does a few things at most. Characters of one.
MAX_RULES: Final = 8
MAX_RULE_TEXT: Final = 400

#: The status among the trailers of gRPC-Web, and the bytes at the end of a body that are searched for it.
_WEB_STATUS: Final = re.compile(rb"(?i)grpc-status:[ \t]*([0-9]{1,5})\r\n")
_WEB_TRAILERS: Final = 8 * 1024

#: The redaction text, in headers and JSON, and in queries and forms.
REDACTED: Final = "[redacted]"
REDACTED_QUERY: Final = "%5Bredacted%5D"


@dataclass(slots=True)
class Body:
    """`data`: the stored part, at most the store's limit. `size`: bytes received, with their
    content-encoding. `truncated`: `data` ends before the body does. `decoded`: the content-encoding of `data`
    was removed, to redact a field. `note`: why less was stored than received."""

    data: bytearray = field(default_factory=bytearray)
    size: int = 0
    truncated: bool = False
    complete: bool = False
    decoded: bool = False
    note: str = ""
    #: For the store only: buffers the body until it is redacted.
    redactor: Any = None
    #: Of gRPC, the bytes of `data` that inspector/protobuf/cleaner.py has redacted; None: all was before.
    checked: int | None = None

    @property
    def missing(self) -> str:
        """Why nothing was stored of a body that has bytes; empty for any other."""
        return "" if self.data else self.note

    @property
    def redacted(self) -> bytes:
        """The stored part without what is not redacted yet."""
        return bytes(self.data if self.checked is None else self.data[: self.checked])


@dataclass(slots=True)
class Message:
    """A WebSocket or gRPC message. `at`: seconds since the request began. `data`: the stored part of `size`
    bytes. `compressed`: `data` could not be decompressed."""

    at: float
    from_client: bool
    opcode: Opcode
    data: bytes
    size: int
    compressed: bool = False
    #: The places of values that were removed from a gRPC message.
    redacted: tuple[str, ...] = ()


class Timing(NamedTuple):
    """Seconds, None if not complete. `queue_s`: until the app had the whole request; `app_s`: from then until
    the response head; `transfer_s`: from then until the end of the response."""

    queue_s: float | None
    app_s: float | None
    transfer_s: float | None


class CapturedHead:
    """The field lines of a head, without its start line. They are split into fields when first needed; most
    captures are never looked at, so a head is one object with its bytes."""

    __slots__ = ("_fields", "raw")

    def __init__(self, raw: bytes = b"") -> None:
        self.raw = raw
        self._fields: Fields | None = None

    @classmethod
    def of(cls, fields: Fields) -> "CapturedHead":
        """The head with these fields, which hold no CR and no LF."""
        text = "".join(f"{name}: {value}\r\n" for name, value in fields)
        try:
            return cls(text.encode("latin-1"))
        except UnicodeEncodeError:  # from a file or a form
            return cls(text.encode("utf-8", "replace"))

    @property
    def fields(self) -> Fields:
        if self._fields is None:
            self._fields = as_text(split_fields(b"\r\n" + self.raw)) if self.raw else []
        return self._fields

    @property
    def caller(self) -> str:
        return caller_of(b"\n" + self.raw)


_NO_HEAD: Final = CapturedHead()


@dataclass(slots=True, eq=False, repr=False)
class Capture:
    """A recorded request and its response, which changes while the request is in flight. `started` is Unix
    time; `opened`, `sent`, `responded` and `ended` are times of one monotonic clock, None until they happen.

    `service`: that of this laptop's app; of an outgoing request the name and port of the mesh's service, such
    as "c.shop:80". `comparison`: for shadow traffic, the differences between the real service's response and
    this one; empty if there are none, None if there was no comparison. `rules`: what rules of this laptop did
    with it.
    """

    service: str
    method: str
    target: str
    started: float
    opened: float
    id: int = 0
    direction: Direction = "in"
    version: str = "HTTP/1.1"
    kind: Kind = "http"
    sent: float | None = None
    responded: float | None = None
    ended: float | None = None
    request_head: CapturedHead = _NO_HEAD
    response_head: CapturedHead = _NO_HEAD
    request_body: Body = field(default_factory=Body)
    response_body: Body = field(default_factory=Body)
    status: int | None = None
    reason: str = ""
    trailers: Fields = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    messages_dropped: int = 0
    error: tuple[str, str] | None = None
    replay_of: int | None = None
    state: State = "open"
    comparison: list[dict[str, Any]] | None = None
    rules: list[str] = field(default_factory=list)
    # For the store only: the bytes that it counts for this capture, and whether it still holds it.
    stored_bytes: int = 0
    stored: bool = False
    # For inspector/protobuf/cleaner.py only: the number of messages that it has redacted (None: all were
    # before), and whether it knew their schema.
    messages_checked: int | None = None
    schema_known: bool = False

    @property
    def redacted_messages(self) -> list[Message]:
        """The listed messages without those that are not redacted yet."""
        if self.messages_checked is None:
            return self.messages
        return self.messages[: max(0, self.messages_checked - self.messages_dropped)]

    def add_rule(self, text: str) -> bool:
        """Whether there was room for it."""
        if len(self.rules) >= MAX_RULES:
            return False
        self.rules.append(text)
        return True

    @property
    def request_headers(self) -> Fields:
        return self.request_head.fields

    @property
    def response_headers(self) -> Fields:
        return self.response_head.fields

    @property
    def caller(self) -> str:
        """The caller as the mesh has verified it, "" if it has not; see caller_of. A request from this laptop
        has none, whatever identity it passes on."""
        return "" if self.direction == "out" else self.request_head.caller

    @property
    def timing(self) -> Timing:
        queue = None if self.sent is None else self.sent - self.opened
        app = None if self.responded is None or self.sent is None else self.responded - self.sent
        transfer = None if self.ended is None or self.responded is None else self.ended - self.responded
        return Timing(queue, app, transfer)

    @property
    def duration(self) -> float | None:
        """Seconds; None while the request is in flight."""
        return None if self.ended is None else self.ended - self.opened

    @property
    def grpc_status(self) -> int | None:
        text = self._grpc("grpc-status") or self._grpc_web_status()
        return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None

    @property
    def grpc_message(self) -> str:
        """The percent-decoded grpc-message."""
        raw = re.sub(
            rb"%([0-9A-Fa-f]{2})", lambda m: bytes((int(m[1], 16),)), self._grpc("grpc-message").encode()
        )
        return raw.decode("utf-8", "replace")

    @property
    def is_grpc_web(self) -> bool:
        """Whether the trailers are in the response's body (gRPC's "PROTOCOL-WEB")."""
        return value_of(self.response_headers, "content-type").startswith("application/grpc-web")

    def _grpc_web_status(self) -> str:
        """The status at the end of the body, "" if that is base64 (application/grpc-web-text), or was cut."""
        if self.kind != "grpc" or not self.is_grpc_web:
            return ""
        found = _WEB_STATUS.search(bytes(self.response_body.data[-_WEB_TRAILERS:]))
        return found[1].decode() if found else ""

    def _grpc(self, name: str) -> str:
        if self.kind != "grpc":
            return ""
        return value_of(self.trailers, name) or value_of(self.response_headers, name)


def as_text(fields: Headers) -> Fields:
    """Fields as Latin-1, which maps every byte to one character, so that a replay sends the same bytes."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]


def value_of(fields: Fields, name: str) -> str:
    """A field's value, "" if it is absent; repeated fields are joined (RFC 9110 §5.3)."""
    return ", ".join(value for key, value in fields if key.lower() == name)


# --- decoding -----------------------------------------------------------------------------------------------


#: Content codings that `readable` removes.
_CODINGS: Final = ("gzip", "x-gzip", "deflate")


def is_readable(body: Body, headers: Fields) -> bool:
    """Whether `readable` returns the body without a content-encoding."""
    coding = value_of(headers, "content-encoding").strip().lower()
    return body.decoded or coding in ("", "identity", *_CODINGS)


def readable(body: Body, headers: Fields, limit: int, *, unchecked: bool = False) -> bytes:
    """The first `limit` bytes of the body, without a content-encoding of gzip or deflate. `unchecked`: with
    what is not redacted yet, for what is not put out."""
    data = bytes(body.data) if unchecked else body.redacted
    coding = value_of(headers, "content-encoding").strip().lower()
    if body.decoded or coding not in _CODINGS:
        return data[:limit]
    plain = inflate(data, limit)
    return data[:limit] if plain is None else plain


def inflate(data: bytes, limit: int) -> bytes | None:
    """The first `limit` bytes of decompressed gzip, zlib or raw deflate; None for other data. Truncated data
    is not an error."""
    found = inflate_all(data, limit)
    return None if found is None else found[0]


def inflate_all(data: bytes, limit: int) -> tuple[bytes, bool] | None:
    """As `inflate`, and whether that is all that is in `data`."""
    for bits in (47, -15):
        inflater = zlib.decompressobj(bits)
        try:
            plain = inflater.decompress(data, limit + 1)
        except zlib.error:
            continue
        return plain[:limit], len(plain) <= limit and not inflater.unused_data
    return None


def text_of(data: bytes, *, cut: bool) -> str | None:
    """Bytes as text, None if they are not UTF-8 text. `cut`: the last character may be incomplete."""
    if b"\0" in data:
        return None
    for lost in range(4 if cut else 1):
        try:
            return data[: len(data) - lost].decode()
        except UnicodeDecodeError:
            continue
    return None


def redacted_parts(capture: Capture) -> list[str]:
    """The redacted parts of the request: names of headers, "the query", "the body"."""
    parts = [name.lower() for name, value in capture.request_headers if REDACTED in value]
    if REDACTED_QUERY in capture.target:
        parts.append("the query")
    data = capture.request_body.data
    if capture.request_body.decoded or REDACTED.encode() in data or REDACTED_QUERY.encode() in data:
        parts.append("the body")
    return parts
