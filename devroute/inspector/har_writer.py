"""Writes captures as HAR 1.2, for browsers' developer tools and for `devroute replay`. Pure.

WebSocket messages are in `_webSocketMessages`, as Chromium writes them. Values for which HAR has no field are
in `_devroute`, so that inspector/har_reader.py restores the same captures.
"""

import base64
import json
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl

from devroute.inspector.capture import OPCODES, Body, Capture, Fields, Message, readable, text_of, value_of
from devroute.inspector.outcome import status_text

#: Bytes of a decoded body.
MAX_TEXT_BYTES: Final = 16 * 1024 * 1024

#: An authority that a URL can have.
_HOST = re.compile(r"[!$&'()*+,;=\-.:\[\]_~%0-9A-Za-z]+")

_NUMBERS: Final = {opcode: number for number, opcode in OPCODES.items()}


def write(captures: Iterable[Capture], version: str) -> Iterator[str]:
    """A HAR file in pieces of one entry each. `captures`: oldest first; `version`: devroute's."""
    creator = json.dumps({"name": "devroute", "version": version})
    yield f'{{"log": {{"version": "1.2", "creator": {creator}, "pages": [], "entries": ['
    for index, capture in enumerate(captures):
        yield (",\n" if index else "\n") + json.dumps(entry(capture))
    yield "\n]}}\n"


def entry(capture: Capture) -> dict[str, Any]:
    host = value_of(capture.request_headers, "host")
    if _HOST.fullmatch(host) is None:  # a request may have had any Host, or none
        host = capture.service or "unknown"
    url = f"http://{host}{capture.target if capture.target.startswith('/') else '/'}"
    found: dict[str, Any] = {
        "startedDateTime": datetime.fromtimestamp(capture.started, UTC).isoformat(timespec="microseconds"),
        "time": _ms(capture.duration),
        "request": _request(capture, url),
        "response": _response(capture),
        "cache": {},
        "timings": dict(zip(("send", "wait", "receive"), map(_ms, capture.timing), strict=True)),
        "_devroute": {
            "service": capture.service,
            "direction": capture.direction,
            "caller": capture.caller,
            "kind": capture.kind,
            "replay_of": capture.replay_of,
            "trailers": pairs(capture.trailers),
            "error": None if capture.error is None else list(capture.error),
            "request": _about(capture.request_body),
            "response": _about(capture.response_body) | {"decoded": _is_decoded(capture)},
            "messages_dropped": capture.messages_dropped,
            "rules": capture.rules,
        },
    }
    if capture.messages:
        found["_grpcMessages" if capture.kind == "grpc" else "_webSocketMessages"] = [
            _message(each, capture.started) for each in capture.redacted_messages
        ]
    if capture.kind == "websocket":
        found["_resourceType"] = "websocket"
    return found


def _request(capture: Capture, url: str) -> dict[str, Any]:
    headers = capture.request_headers
    body = capture.request_body
    query = url.partition("?")[2]
    found: dict[str, Any] = {
        "method": capture.method,
        "url": url,
        "httpVersion": capture.version,
        "cookies": [],
        "headers": pairs(headers),
        "queryString": [{"name": n, "value": v} for n, v in parse_qsl(query, keep_blank_values=True)],
        "headersSize": len(capture.request_head.raw),
        "bodySize": body.size,
    }
    if data := body.redacted:
        found["postData"] = {"mimeType": value_of(headers, "content-type"), "params": []} | _text(
            data, text_of(data, cut=False)
        )
    return found


def _response(capture: Capture) -> dict[str, Any]:
    headers = capture.response_headers
    body = capture.response_body
    plain = readable(body, headers, MAX_TEXT_BYTES)
    content: dict[str, Any] = {
        "size": len(plain) if not body.truncated and body.data else body.size,
        "mimeType": value_of(headers, "content-type"),
    }
    if plain:
        content |= _text(plain, text_of(plain, cut=False))
    # HTTP's status says nothing of a gRPC call.
    outcome = f"gRPC {status_text(capture)} {capture.grpc_message}".strip() if capture.kind == "grpc" else ""
    return {
        **({"comment": outcome} if outcome else {}),
        "status": capture.status or 0,
        "statusText": capture.reason,
        "httpVersion": capture.version,
        "cookies": [],
        "headers": pairs(headers),
        "content": content,
        "redirectURL": value_of(headers, "location"),
        "headersSize": len(capture.response_head.raw),
        "bodySize": body.size,
    }


def _is_decoded(capture: Capture) -> bool:
    """Whether the content's text is the decoded body."""
    body = capture.response_body
    return body.decoded or readable(body, capture.response_headers, MAX_TEXT_BYTES) != body.redacted


def _text(data: bytes, text: str | None) -> dict[str, str]:
    if text is not None:
        return {"text": text}
    return {"text": base64.b64encode(data).decode(), "encoding": "base64"}


def _about(body: Body) -> dict[str, Any]:
    return {name: getattr(body, name) for name in ("truncated", "complete", "decoded", "note", "size")}


def _message(message: Message, started: float) -> dict[str, Any]:
    text = text_of(message.data, cut=False) if message.opcode == "text" else None
    data = base64.b64encode(message.data).decode() if text is None else text
    return {
        "type": "send" if message.from_client else "receive",
        "time": started + message.at,
        "opcode": _NUMBERS[message.opcode] if text is not None or message.opcode != "text" else 2,
        "data": data,
        "_size": message.size,
        "_at": message.at,
    }


def pairs(fields: Fields) -> list[dict[str, str]]:
    return [{"name": name, "value": value} for name, value in fields]


def _ms(seconds: float | None) -> float:
    return 0 if seconds is None else max(0.0, round(seconds * 1000, 6))
