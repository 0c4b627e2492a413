"""One request and its answer as the inspector keeps them. Pure; inspector/views.py makes JSON of them.

Headers, targets and bodies in here went through inspector/redaction.py before: nothing in this module may
see a secret.
"""

import re
import zlib
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from devroute.contract.mesh_identity import caller_of
from devroute.http.message import Headers, split_fields

Kind = Literal["http", "grpc", "websocket", "upgrade", "sse"]
State = Literal["open", "done", "failed"]
Opcode = Literal["text", "binary", "close", "ping", "pong"]
Fields = list[tuple[str, str]]

#: What stands in the place of a secret: in headers and JSON, and in queries and forms.
REDACTED: Final = "[redacted]"
REDACTED_QUERY: Final = "%5Bredacted%5D"


@dataclass(slots=True)
class Body:
    """`data` is the part that is kept, at most the store's limit; `size` counts all that came, as it came.
    `truncated`: `data` ends before the body does. `decoded`: `data` is without its content-encoding, since a
    field in it was redacted. `note` says why there is less of it than one would expect."""

    data: bytearray = field(default_factory=bytearray)
    size: int = 0
    truncated: bool = False
    complete: bool = False
    decoded: bool = False
    note: str = ""


@dataclass(slots=True)
class Message:
    """A WebSocket frame's or gRPC's message. `at` is in seconds since the exchange began; `data` is the part
    that is kept of `size` bytes; `compressed` data could not be inflated."""

    at: float
    from_client: bool
    opcode: Opcode
    data: bytes
    size: int
    compressed: bool = False


class Timing(NamedTuple):
    """In seconds, None for what has not ended. `queue_s`: until the app had the whole request; `app_s`: until
    the first byte of its answer; `transfer_s`: until the last."""

    queue_s: float | None
    app_s: float | None
    transfer_s: float | None


class Capture:
    """A request and its answer, changing while in flight. `started` is Unix time; `opened`, `sent`,
    `answered` and `ended` are times of one steady clock, None until they happen. `raw_request` and
    `raw_response` are field lines without the start line; they are split when somebody looks.

    `comparison` is the list of differences to the real service's answer, for copies of its requests (shadow):
    empty for the same, None for no comparison.
    """

    __slots__ = (
        "_request_headers",
        "_response_headers",
        "comparison",
        "ended",
        "error",
        "id",
        "kind",
        "messages",
        "messages_dropped",
        "method",
        "opened",
        "raw_request",
        "raw_response",
        "reason",
        "replay_of",
        "request_body",
        "request_redactor",
        "responded",
        "response_body",
        "response_redactor",
        "sent",
        "service",
        "started",
        "state",
        "status",
        "stored",
        "stored_bytes",
        "target",
        "trailers",
        "version",
    )

    def __init__(self, service: str, method: str, target: str, started: float, opened: float) -> None:
        self.id = 0
        self.service = service
        self.method = method
        self.target = target
        self.version = "HTTP/1.1"
        self.kind: Kind = "http"
        self.started = started
        self.opened = opened
        self.sent: float | None = None
        self.responded: float | None = None
        self.ended: float | None = None
        self.raw_request = b""
        self.raw_response = b""
        self._request_headers: Fields | None = None
        self._response_headers: Fields | None = None
        self.request_body = Body()
        self.response_body = Body()
        self.status: int | None = None
        self.reason = ""
        self.trailers: Fields = []
        self.messages: list[Message] = []
        self.messages_dropped = 0
        self.error: tuple[str, str] | None = None
        self.replay_of: int | None = None
        self.state: State = "open"
        self.comparison: list[dict[str, Any]] | None = None
        # The store's: what it counts of this exchange, whether it still has it, and what holds bodies back
        # until their fields are redacted.
        self.stored_bytes = 0
        self.stored = False
        self.request_redactor: Any = None
        self.response_redactor: Any = None

    @property
    def request_headers(self) -> Fields:
        if self._request_headers is None:
            self._request_headers = as_text(split_fields(b"\r\n" + self.raw_request))
        return self._request_headers

    @request_headers.setter
    def request_headers(self, fields: Fields) -> None:
        self.raw_request, self._request_headers = as_lines(fields), None

    @property
    def response_headers(self) -> Fields:
        if not self.raw_response:
            return []  # not kept as the answer: it is yet to come
        if self._response_headers is None:
            self._response_headers = as_text(split_fields(b"\r\n" + self.raw_response))
        return self._response_headers

    @response_headers.setter
    def response_headers(self, fields: Fields) -> None:
        self.raw_response, self._response_headers = as_lines(fields), None

    @property
    def caller(self) -> str:
        """The caller as the mesh has verified it, "" if it has not; see caller_of."""
        return caller_of(b"\n" + self.raw_request)

    @property
    def timing(self) -> Timing:
        queue = None if self.sent is None else self.sent - self.opened
        app = None if self.responded is None or self.sent is None else self.responded - self.sent
        transfer = None if self.ended is None or self.responded is None else self.ended - self.responded
        return Timing(queue, app, transfer)

    @property
    def duration(self) -> float | None:
        """In seconds; None while it is in flight."""
        return None if self.ended is None else self.ended - self.opened

    @property
    def grpc_status(self) -> int | None:
        text = self._grpc("grpc-status")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else None

    @property
    def grpc_message(self) -> str:
        """Percent-decoded, as gRPC writes it."""
        raw = re.sub(
            rb"%([0-9A-Fa-f]{2})", lambda m: bytes((int(m[1], 16),)), self._grpc("grpc-message").encode()
        )
        return raw.decode("utf-8", "replace")

    def _grpc(self, name: str) -> str:
        if self.kind != "grpc":
            return ""
        return value_of(self.trailers, name) or value_of(self.response_headers, name)


def as_text(fields: Headers) -> Fields:
    """Latin-1, which every byte is: what came is what is shown, and what a replay sends."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]


def as_lines(fields: Fields) -> bytes:
    """Field lines; whoever made `fields` has checked that no CR or LF is in them."""
    text = "".join(f"{name}: {value}\r\n" for name, value in fields)
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:  # from a file or a form
        return text.encode("utf-8", "replace")


def value_of(fields: Fields, name: str) -> str:
    """A field's value, "" where there is none; repeated ones are joined (RFC 9110 §5.3)."""
    return ", ".join(value for key, value in fields if key.lower() == name)


# --- what people can read -----------------------------------------------------------------------------------


#: Codings that can be undone here.
_CODINGS: Final = ("gzip", "x-gzip", "deflate")


def is_readable(body: Body, headers: Fields) -> bool:
    """Whether `readable` gives the body without its content-encoding."""
    coding = value_of(headers, "content-encoding").strip().lower()
    return body.decoded or coding in ("", "identity", *_CODINGS)


def readable(body: Body, headers: Fields, limit: int) -> bytes:
    """The body without its content-encoding where it is gzip or deflate; at most `limit` bytes."""
    coding = value_of(headers, "content-encoding").strip().lower()
    if body.decoded or coding not in _CODINGS:
        return bytes(body.data[:limit])
    plain = inflate(bytes(body.data), limit)
    return bytes(body.data[:limit]) if plain is None else plain


def inflate(data: bytes, limit: int) -> bytes | None:
    """gzip, zlib or raw deflate, at most `limit` bytes of it; None for what is neither. An end that is
    missing is no error: bodies may be cut."""
    for bits in (47, -15):
        try:
            return zlib.decompressobj(bits).decompress(data, limit)
        except zlib.error:
            continue
    return None


def text_of(data: bytes, *, cut: bool) -> str | None:
    """Bytes as text, None for what is none. `cut`: more followed, so the last character may be incomplete."""
    if b"\0" in data:
        return None
    for lost in range(4 if cut else 1):
        try:
            return data[: len(data) - lost].decode()
        except UnicodeDecodeError:
            continue
    return None


def redacted_parts(capture: Capture) -> list[str]:
    """What of the request was replaced: names of headers, "the query", "the body"."""
    parts = [name.lower() for name, value in capture.request_headers if REDACTED in value]
    if REDACTED_QUERY in capture.target:
        parts.append("the query")
    data = capture.request_body.data
    if capture.request_body.decoded or REDACTED.encode() in data or REDACTED_QUERY.encode() in data:
        parts.append("the body")
    return parts
