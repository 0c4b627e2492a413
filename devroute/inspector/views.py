"""Captures as JSON for the page: a row of the list, the details, a message. Pure."""

import base64
from typing import Any, Final

from devroute.inspector.capture import (
    Body,
    Capture,
    Fields,
    Message,
    readable,
    redacted_parts,
    text_of,
    value_of,
)

#: Bytes of a body, and of a message, in the details. The page fetches the whole body separately.
PREVIEW_BYTES: Final = 64 * 1024
MESSAGE_PREVIEW_BYTES: Final = 4 * 1024

#: Messages in the details: the newest.
LISTED_MESSAGES: Final = 500


def as_summary(capture: Capture) -> dict[str, Any]:
    """One row of the list. `started` is Unix time in seconds."""
    duration = capture.duration
    comparison = capture.comparison
    return {
        "id": capture.id,
        "started": round(capture.started, 3),
        "service": capture.service,
        "caller": capture.caller,
        "method": capture.method,
        "target": capture.target,
        "kind": capture.kind,
        "state": capture.state,
        "status": capture.status,
        "grpc_status": capture.grpc_status,
        "duration_ms": None if duration is None else round(duration * 1000, 3),
        "request_size": capture.request_body.size,
        "response_size": capture.response_body.size,
        "content_type": value_of(capture.response_headers, "content-type"),
        "messages": len(capture.messages) + capture.messages_dropped,
        "error": None if capture.error is None else capture.error[0],
        "replay_of": capture.replay_of,
        "differences": None if comparison is None else len(comparison),
    }


def as_detail(capture: Capture) -> dict[str, Any]:
    """The whole capture, but only the beginning of its bodies."""
    timing = capture.timing
    error = capture.error
    return as_summary(capture) | {
        "version": capture.version,
        "reason": capture.reason,
        "request_headers": [list(pair) for pair in capture.request_headers],
        "response_headers": [list(pair) for pair in capture.response_headers],
        "trailers": [list(pair) for pair in capture.trailers],
        "request_body": _body(capture.request_body, capture.request_headers),
        "response_body": _body(capture.response_body, capture.response_headers),
        "grpc_message": capture.grpc_message,
        "message_list": [as_message(each) for each in capture.messages[-LISTED_MESSAGES:]],
        "messages_dropped": capture.messages_dropped + max(0, len(capture.messages) - LISTED_MESSAGES),
        "timing": {
            name.removesuffix("_s") + "_ms": None if value is None else round(value * 1000, 3)
            for name, value in timing._asdict().items()
        },
        "error": None if error is None else {"code": error[0], "message": error[1]},
        "redacted": redacted_parts(capture),
        "comparison": capture.comparison,
    }


def _body(body: Body, headers: Fields) -> dict[str, Any]:
    shown = readable(body, headers, PREVIEW_BYTES)
    return {
        "size": body.size,
        "kept": len(body.data),
        "truncated": body.truncated,
        "complete": body.complete,
        "note": body.note,
        **_shown(shown, cut=True),
    }


def _shown(data: bytes, *, cut: bool) -> dict[str, Any]:
    """`text` is base64 if the bytes are not UTF-8 text."""
    text = text_of(data, cut=cut)
    if text is not None:
        return {"text": text, "base64": False}
    return {"text": base64.b64encode(data).decode(), "base64": True}


def as_message(message: Message) -> dict[str, Any]:
    data = message.data[:MESSAGE_PREVIEW_BYTES]
    return {
        "at_ms": round(message.at * 1000, 3),
        "from_client": message.from_client,
        "opcode": message.opcode,
        "size": message.size,
        "compressed": message.compressed,
        **_shown(data, cut=len(data) < message.size),
    }
