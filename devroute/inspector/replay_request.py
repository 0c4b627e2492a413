"""Builds a request from a capture and the user's edits. Pure.

Redacted headers and parameters are left out, and redacted fields of a body keep the redaction text. `without`
of a ReplayRequest names them, which explains a 401.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from devroute.errors import NotReplayable, NotSupported, RequestMalformed
from devroute.http.http1.request import parse_request_head
from devroute.http.message import MAX_HEAD_BYTES, Framing, InboundRequest, RequestHead
from devroute.inspector.capture import (
    FIELD_NAME,
    FIELD_VALUE,
    REDACTED,
    REDACTED_QUERY,
    Body,
    Capture,
    Fields,
    redacted_parts,
)

#: Headers of one connection, and those derived from the body. They are not copied.
_NOT_COPIED: Final = frozenset((
    "connection", "keep-alive", "proxy-connection", "transfer-encoding", "content-length", "upgrade",
    "expect",
))  # fmt: skip
_WITHOUT_LENGTH: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "DELETE"))
_EDITS: Final = frozenset(("method", "target", "headers", "body", "body_base64"))


class ReplayRequest(NamedTuple):
    """`without`: the parts of the captured request that were redacted."""

    head: RequestHead
    body: bytes
    without: list[str]


def replay_request(capture: Capture, edits: Mapping[str, Any]) -> ReplayRequest:
    """The request with these `edits`: "method", "target" (path and query), "headers" ([[name, value], …],
    which replaces all), "body" (text) or "body_base64". Raises NotReplayable, RequestMalformed."""
    _check(capture, edits)
    method = read_text(edits, "method", capture.method)
    target = _without_redacted(read_text(edits, "target", capture.target))
    if not target.startswith("/") and (target, method) != ("*", "OPTIONS"):
        raise RequestMalformed(f"{target!r:.60} is not a path: it starts with /, and may have a query")
    headers = read_headers(edits["headers"]) if "headers" in edits else capture.request_headers
    given = read_body(edits)
    body = bytes(capture.request_body.data) if given is None else given
    kept: Fields = []
    for name, value in headers:
        low = name.lower()
        if low in _NOT_COPIED or REDACTED in value or (low == "te" and value.lower() != "trailers"):
            continue
        if low == "content-encoding" and ("body" in edits or capture.request_body.decoded):
            continue
        kept.append((name, value))
    if not any(name.lower() == "host" for name, _ in kept):
        kept.insert(0, ("host", capture.service))
    return ReplayRequest(_head(capture, method, target, kept, len(body)), body, redacted_parts(capture))


def _check(capture: Capture, edits: Mapping[str, Any]) -> None:
    unknown = [name for name in edits if name not in _EDITS]
    if unknown:
        raise RequestMalformed(f"unknown edit {unknown[0]!r:.40}")
    if capture.kind in ("websocket", "upgrade"):
        raise NotReplayable("a WebSocket or another upgraded connection cannot be replayed")
    if "body" not in edits and "body_base64" not in edits:
        check_body(capture)


def check_body(capture: Capture) -> None:
    """Raises NotReplayable if the request's body is not complete."""
    check_stored(capture.request_body, "body")
    if not capture.request_body.complete:
        raise NotReplayable("its body is not complete")


def check_stored(body: Body, name: str) -> None:
    """Raises NotReplayable if less of a capture's body, called `name`, was stored than received."""
    if body.truncated:
        part = f"the first {len(body.data)} of the {body.size} bytes of its {name}"
        if body.decoded or len(body.data) >= body.size:  # it was inflated, or redaction made it longer
            part = f"the first bytes of its {name}"
        raise NotReplayable(
            f"only {part} were stored",
            hint="write another body, or store more with inspector_body_mb",
        )
    if body.missing:
        raise NotReplayable(f"its {name} was {body.missing}", hint="write another body")


def read_text(edits: Mapping[str, Any], name: str, default: str) -> str:
    text = edits.get(name, default)
    if not isinstance(text, str) or re.search(r"[\x00-\x20\x7f]", text) or not text:
        raise RequestMalformed(f'"{name}" must be a string without white space')
    if not text.isascii():
        raise RequestMalformed(f'"{name}" has characters that must be percent-encoded')
    return text


def _without_redacted(target: str) -> str:
    """The target without its redacted parameters."""
    if REDACTED_QUERY not in target:
        return target
    path, _, query = target.partition("?")
    pairs = [pair for pair in query.split("&") if REDACTED_QUERY not in pair]
    return path + ("?" + "&".join(pairs) if pairs else "")


def read_headers(given: Any) -> Fields:
    fields: Fields = []
    for pair in given if isinstance(given, list) else [None]:
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(x, str) for x in pair):
            raise RequestMalformed('"headers" must be a list of [name, value]')
        name, value = pair[0], pair[1].strip(" \t")
        if FIELD_NAME.fullmatch(name) is None:
            raise RequestMalformed(f"{name!r:.60} is not a header name")
        if FIELD_VALUE.fullmatch(value) is None:
            raise RequestMalformed(f"the value of {name} has control characters")
        fields.append((name, value))
    return fields


def read_body(edits: Mapping[str, Any]) -> bytes | None:
    """The edited body, None if there is none. Raises RequestMalformed."""
    text, coded = edits.get("body"), edits.get("body_base64")
    if text is not None and coded is not None:
        raise RequestMalformed('use "body" or "body_base64", not both')
    if text is not None:
        if not isinstance(text, str):
            raise RequestMalformed('"body" must be a string')
        return text.encode("utf-8", "surrogatepass")
    if coded is not None:
        try:
            return base64.b64decode(coded, validate=True)
        except (binascii.Error, TypeError, ValueError):
            raise RequestMalformed('"body_base64" is not base64') from None
    return None


def _head(capture: Capture, method: str, target: str, headers: Fields, length: int) -> RequestHead:
    """The head, checked by the parser of all requests."""
    framing, length, line = frame(method, length, grpc=capture.kind == "grpc")
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers)
    text = f"{method} {target} HTTP/1.1\r\n{lines}"
    try:
        wire = text.encode("latin-1")
    except UnicodeEncodeError:
        wire = text.encode()
    wire += line + b"\r\n"
    parsed = read_head(wire)
    return RequestHead(parsed.method, parsed.target, framing, length, wire)


def frame(method: str, length: int, *, grpc: bool) -> tuple[Framing, int, bytes]:
    """How a request with a body of this length is framed: framing and length of its RequestHead, and the line
    of its head that says so, b"" for none."""
    if grpc:
        return Framing.CHUNKED, 0, b"transfer-encoding: chunked\r\n"
    if length or method not in _WITHOUT_LENGTH:
        framing = Framing.LENGTH if length else Framing.NONE
        return framing, length, b"content-length: %d\r\n" % length
    return Framing.NONE, 0, b""


def read_head(wire: bytes) -> InboundRequest:
    """The head of a request that the user has written. Raises RequestMalformed."""
    if len(wire) > MAX_HEAD_BYTES:
        raise RequestMalformed(f"the head is longer than {MAX_HEAD_BYTES} bytes")
    try:
        return parse_request_head(wire)
    except NotSupported as error:
        raise RequestMalformed(error.message) from None
