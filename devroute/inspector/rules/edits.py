"""What the user's edits make of a held message. Pure.

What is sent is the real thing: a placeholder (masking.py) that the user leaves becomes the original value
again, one that is replaced or deleted does not.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from devroute.errors import RequestMalformed, UpstreamInvalid
from devroute.http.http1.response import parse_response_head
from devroute.http.http2.headers import is_grpc
from devroute.http.message import (
    MAX_HEAD_BYTES,
    REASON_PHRASES,
    Framing,
    Headers,
    RequestHead,
    ResponseHead,
    split_fields,
)
from devroute.inspector.redaction import Redaction
from devroute.inspector.replay_request import (
    frame,
    read_body,
    read_head,
    read_headers,
    read_text,
)
from devroute.inspector.rules.masking import HIDDEN, Shown, show
from devroute.inspector.rules.responses import make_response
from devroute.upstream.made_response import BODYLESS, Made

#: A new body has none of the old one's.
_CODING: Final = frozenset((b"content-encoding",))
_BODY_LENGTH: Final = frozenset((b"content-length", b"transfer-encoding"))
_EDITS: Final = frozenset(("method", "target", "status", "headers", "body", "body_base64"))


class EditedRequest(NamedTuple):
    """`body` is None if it stays as it is; `changed` names the parts that were edited."""

    head: RequestHead
    body: bytes | None
    changed: list[str]


def edit_request(
    redact: Redaction, head: RequestHead, body: bytes, edits: Mapping[str, Any], *, complete: bool
) -> EditedRequest:
    """The request with `edits`: "method", "target", "headers" (all that are shown), "body" or "body_base64".
    Raises RequestMalformed."""
    _check(edits, "status", complete=complete)
    if not edits:
        return EditedRequest(head, None, [])
    shown = show(redact, head.wire, head.target, body, complete=complete)
    method, target = _start_line(head, edits, shown)
    fields = _fields(edits, shown)
    content = _content(edits, shown)
    old = split_fields(head.wire)
    hidden = _hidden(old)
    framing, length, line = head.framing, head.length, b""
    if content is not None:
        if framing is Framing.UPGRADE:
            raise RequestMalformed("a request for an upgrade has no body")
        fields = _without(fields, _CODING)
        hidden = _without(hidden, _BODY_LENGTH)
        framing, length, line = frame(method.decode("latin-1"), len(content), grpc=is_grpc(head.wire))
    lines = _lines(fields) + line + _lines(hidden)
    wire = b"%b %b HTTP/1.1\r\n%b\r\n" % (method, target, lines)
    parsed = read_head(wire)
    changed = _changed(
        method=method != head.method,
        target=target != head.target,
        headers=_shown_only(old) != _shown_only(fields),
        body=content is not None,
    )
    edited = RequestHead(parsed.method, parsed.target, framing, length, wire)
    return EditedRequest(edited if changed else head, content, changed)


def _start_line(head: RequestHead, edits: Mapping[str, Any], shown: Shown) -> tuple[bytes, bytes]:
    """Method and target."""
    method, target = head.method, head.target
    if "method" in edits:
        method = read_text(edits, "method", "").encode("ascii")
    if edits.get("target", shown.target) != shown.target:
        target = shown.mask.restored(read_text(edits, "target", "").encode("ascii"))
    if (method == b"HEAD") is not (head.method == b"HEAD"):
        raise RequestMalformed(
            "the caller waits for a body, or for none: a request cannot become or stop being HEAD"
        )
    return method, target


def _changed(**parts: bool) -> list[str]:
    return [name for name, differs in parts.items() if differs]


class EditedResponse(NamedTuple):
    """`made` is a whole response, None if only the head was edited and the body stays as it is."""

    head: ResponseHead
    made: Made | None
    changed: list[str]


def edit_response(
    redact: Redaction,
    method: bytes,
    head: ResponseHead,
    body: bytes,
    trailers: Headers,
    edits: Mapping[str, Any],
    *,
    complete: bool,
) -> EditedResponse:
    """The response to a request of this method with `edits`: "status", "headers", "body" or "body_base64".
    Raises RequestMalformed."""
    _check(edits, "method", "target", complete=complete)
    if not edits:
        return EditedResponse(head, None, [])
    shown = show(redact, head.raw, b"", body, complete=complete)
    status = read_status(edits, head.status)
    fields = _fields(edits, shown)
    content = _content(edits, shown)
    old = split_fields(head.raw)
    changed = _changed(
        status=status != head.status,
        headers=_shown_only(old) != _shown_only(fields),
        body=content is not None,
    )
    if not changed:
        return EditedResponse(head, None, [])
    try:
        if content is not None or (status in BODYLESS) is not (head.status in BODYLESS):
            if content is not None:
                fields = _without(fields, _CODING)
            made = make_response(method, status, fields, body if content is None else content, trailers)
            return EditedResponse(made.head, made, changed)
        phrase = head.reason if status == head.status else REASON_PHRASES.get(b"%d" % status, b"Edited")
        raw = b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, phrase, _lines(fields + _hidden(old)))
        return EditedResponse(_response_head(raw, method), None, changed)
    except UpstreamInvalid as error:
        raise RequestMalformed(error.message) from None


def _response_head(raw: bytes, method: bytes) -> ResponseHead:
    """Raises RequestMalformed, UpstreamInvalid."""
    if len(raw) > MAX_HEAD_BYTES:
        raise RequestMalformed(f"the head is longer than {MAX_HEAD_BYTES} bytes")
    return parse_response_head(raw, method)


def written_response(method: bytes, edits: Mapping[str, Any]) -> Made:
    """A response that the user wrote, in place of the app's. Raises RequestMalformed."""
    _check(edits, "method", "target", complete=True)
    fields = [(n.encode("latin-1"), v.encode("utf-8")) for n, v in read_headers(edits.get("headers", []))]
    body = read_body(edits)
    try:
        return make_response(method, read_status(edits, 200), _without(fields, HIDDEN), body or b"", [])
    except UpstreamInvalid as error:
        raise RequestMalformed(error.message) from None


def read_status(edits: Mapping[str, Any], default: int) -> int:
    status = edits.get("status", default)
    if isinstance(status, bool) or not isinstance(status, int) or not 200 <= status <= 599:
        raise RequestMalformed('"status" is a number from 200 to 599')
    return status


def _check(edits: Mapping[str, Any], *without: str, complete: bool) -> None:
    unknown = [name for name in edits if name not in _EDITS or name in without]
    if unknown:
        raise RequestMalformed(f"unknown edit {unknown[0]!r:.40}")
    if not complete and ("body" in edits or "body_base64" in edits):
        raise RequestMalformed("the body has not arrived as a whole, and cannot be edited")


def _fields(edits: Mapping[str, Any], shown: Shown) -> Headers:
    pairs = read_headers(edits["headers"]) if "headers" in edits else shown.headers
    restored = shown.mask.restored
    fields: Headers = []
    for name, value in pairs:
        try:
            raw = value.encode("latin-1")
        except UnicodeEncodeError:
            raw = value.encode("utf-8")
        fields.append((name.encode("latin-1"), restored(raw)))
    return _without(fields, HIDDEN) if "headers" in edits else fields


def _content(edits: Mapping[str, Any], shown: Shown) -> bytes | None:
    """The new body; None if it is the old one."""
    content = read_body(edits)
    if content is None:
        return None
    if "body" in edits and shown.body is not None:
        content = shown.mask.restored(content)
    return None if content == shown.plain else content


def _lines(fields: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % pair for pair in fields)


def _hidden(fields: Headers) -> Headers:
    return [pair for pair in fields if pair[0].lower() in HIDDEN]


def _without(fields: Headers, names: frozenset[bytes]) -> Headers:
    return [pair for pair in fields if pair[0].lower() not in names]


def _shown_only(fields: Headers) -> Headers:
    return [(name.lower(), value) for name, value in _without(fields, HIDDEN)]
