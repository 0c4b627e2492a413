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
from devroute.inspector.outcome import close_words, is_noise, status_class, status_text

#: Bytes of a body, and of a message, in the details. The page fetches the whole body separately.
PREVIEW_BYTES: Final = 64 * 1024
MESSAGE_PREVIEW_BYTES: Final = 4 * 1024

#: Messages in the details: the newest.
LISTED_MESSAGES: Final = 500

#: The values of a capture that a row shows as they are.
_UNCHANGED: Final = (
    "id", "direction", "service", "caller", "method", "target", "kind", "state", "status", "grpc_status",
    "replay_of", "rules",
)  # fmt: skip


def as_summary(capture: Capture) -> dict[str, Any]:
    """One row of the list. `started` is Unix time in seconds."""
    return {name: getattr(capture, name) for name in _UNCHANGED} | {
        "class": status_class(capture),
        "status_text": status_text(capture),
        "noise": is_noise(capture),
        "started": round(capture.started, 3),
        "duration_ms": _ms(capture.duration),
        "request_size": capture.request_body.size,
        "response_size": capture.response_body.size,
        "content_type": value_of(capture.response_headers, "content-type"),
        "messages": len(capture.messages) + capture.messages_dropped,
        "error": None if capture.error is None else capture.error[0],
        "differences": None if capture.comparison is None else len(capture.comparison),
    }


def as_detail(capture: Capture) -> dict[str, Any]:
    """The whole capture, but only the beginning of its bodies."""
    error, messages = capture.error, capture.redacted_messages
    return as_summary(capture) | {
        "version": capture.version,
        "reason": capture.reason,
        "request_headers": [list(pair) for pair in capture.request_headers],
        "response_headers": [list(pair) for pair in capture.response_headers],
        "trailers": [list(pair) for pair in capture.trailers],
        "request_body": _body(capture.request_body, capture.request_headers),
        "response_body": _body(capture.response_body, capture.response_headers),
        "grpc_message": capture.grpc_message,
        "message_list": [as_message(each) for each in messages[-LISTED_MESSAGES:]],
        "messages_dropped": capture.messages_dropped + max(0, len(messages) - LISTED_MESSAGES),
        "timing": {
            name.removesuffix("_s") + "_ms": _ms(value) for name, value in capture.timing._asdict().items()
        },
        "error": None if error is None else {"code": error[0], "message": error[1]},
        "redacted": redacted_parts(capture),
        "comparison": capture.comparison,
    }


def _body(body: Body, headers: Fields) -> dict[str, Any]:
    shown = readable(body, headers, PREVIEW_BYTES)
    return {
        **{name: getattr(body, name) for name in ("size", "truncated", "complete", "note")},
        "kept": len(body.redacted),
        **_shown(shown, cut=True),
    }


def _shown(data: bytes, *, cut: bool) -> dict[str, Any]:
    """`text` is base64 if the bytes are not UTF-8 text."""
    text = text_of(data, cut=cut)
    if text is not None:
        return {"text": text, "base64": False}
    return {"text": base64.b64encode(data).decode(), "base64": True}


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


def as_message(message: Message) -> dict[str, Any]:
    data = message.data[:MESSAGE_PREVIEW_BYTES]
    return {
        **{name: getattr(message, name) for name in ("from_client", "opcode", "size", "compressed")},
        "at_ms": _ms(message.at),
        "words": close_words(message) if message.opcode == "close" else None,
        **_shown(data, cut=len(data) < message.size),
    }
