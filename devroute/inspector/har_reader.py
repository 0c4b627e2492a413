"""Reads HAR files, of any tool, as captures. Pure; an entry that cannot be read becomes its reason.

Files are not trusted: types, sizes and characters of header values are checked. CaptureStore.add redacts the
captures.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, urlencode

from devroute.errors import HarInvalid
from devroute.inspector.capture import (
    FIELD_NAME,
    FIELD_VALUE,
    MAX_RULE_TEXT,
    MAX_RULES,
    OPCODES,
    Body,
    Capture,
    CapturedHead,
    Fields,
    Kind,
    Message,
    value_of,
)

#: More than a browser's session has; of more, the newest are read.
MAX_ENTRIES: Final = 50_000
MAX_MESSAGES: Final = 10_000
MAX_HEADERS: Final = 500
#: Characters of an unreadable entry's method and URL.
MAX_SHOWN: Final = 200
#: Of milliseconds and seconds.
MAX_NUMBER: Final = 1e15
#: The last second that a time can have: that of the year 9999.
MAX_TIME: Final = 253_402_300_799.0

_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_KINDS: Final[tuple[Kind, ...]] = ("http", "grpc", "websocket", "upgrade", "sse")

_URL = re.compile(r"(?i:https?|wss?)://([^/?#\s]+)([^#]*)(?:#.*)?", re.DOTALL)
#: What JSON can have and UTF-8 cannot, without the bytes that Python writes so (surrogateescape).
_LONE_SURROGATES = re.compile("[\ud800-\udc7f\udd00-\udfff]")
_VISIBLE: Final = "".join(map(chr, range(33, 127)))


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An entry that cannot be read: `reason` names it. `method` and `url` as far as they could be read."""

    method: str
    url: str
    reason: str


def read(text: str | bytes) -> list[Capture | Unreadable]:
    """The entries in the order of the file. Raises HarInvalid for a file that is none."""
    try:
        document = json.loads(text)
    except UnicodeDecodeError:
        raise HarInvalid("the file is not UTF-8") from None
    except json.JSONDecodeError as error:
        raise HarInvalid(f"the file is not JSON: {error.msg} at line {error.lineno}") from None
    except (ValueError, RecursionError):
        raise HarInvalid("the file's JSON nests too deeply or has a number with too many digits") from None
    log = _get(_object(document, "the file"), "log", dict, "the file")
    entries = _get(log, "entries", list, "log")
    first = len(entries) - MAX_ENTRIES
    return [read_entry(each, n, first) for n, each in enumerate(entries, 1)]


def read_entry(entry: Any, number: int, first: int = 0) -> Capture | Unreadable:
    """One entry, which messages call by its number. Up to `first`, entries are too many."""
    where = f"entry {number}"
    try:
        if number <= first:
            raise HarInvalid(f"{where}: only the last {MAX_ENTRIES} entries are read")
        return _capture(_object(entry, where), where)
    except HarInvalid as error:
        request = entry.get("request") if isinstance(entry, dict) else None
        known = request if isinstance(request, dict) else {}
        method, url = (str(known.get(name) or "")[:MAX_SHOWN] for name in ("method", "url"))
        return Unreadable(method, url, error.message)


def _capture(entry: dict[str, Any], where: str) -> Capture:
    request = _get(entry, "request", dict, where)
    response = _get(entry, "response", dict, where, {})
    ours = _get(entry, "_devroute", dict, where, {})
    method = _get(request, "method", str, f"{where}: request")
    if _METHOD.fullmatch(method) is None:
        raise HarInvalid(f"{where}: request: {method!r:.70} is not a method")
    host, target = _split(_get(request, "url", str, f"{where}: request"), f"{where}: request")
    headers = _fields(request, f"{where}: request", host)
    service = _valid(_get(ours, "service", str, where, "")) or host.partition(":")[0].partition(".")[0]
    capture = Capture(service, method, target, _time(entry, where), 0.0)
    capture.direction = "out" if ours.get("direction") == "out" else "in"
    capture.version = _get(request, "httpVersion", str, where, "") or "HTTP/1.1"
    capture.request_head = CapturedHead.of(headers)
    capture.request_body = _post(request, f"{where}: request")
    capture.response_head = CapturedHead.of(_fields(response, f"{where}: response", ""))
    status = _get(response, "status", int, f"{where}: response", 0)
    capture.status = status if 100 <= status <= 999 else None
    capture.reason = _valid(_get(response, "statusText", str, where, ""))
    capture.response_body = _content(response, capture.response_headers, f"{where}: response")
    listed = _get(ours, "rules", list, where, [])
    capture.rules = [_valid(each[:MAX_RULE_TEXT]) for each in listed[:MAX_RULES] if isinstance(each, str)]
    _describe(capture, ours, where)
    _clock(capture, entry, where)
    declared = _get(entry, "_webSocketMessages", list, where, []) or _get(
        entry, "_grpcMessages", list, where, []
    )
    for number, each in enumerate(declared[-MAX_MESSAGES:], 1):
        message = _message(each, capture.started, f"{where}: message {number}")
        if message is None:
            capture.messages_dropped += 1
        else:
            capture.messages.append(message)
    return capture


def _describe(capture: Capture, ours: dict[str, Any], where: str) -> None:
    """Sets the values that HAR has no field for: from `_devroute`, or inferred from the headers."""
    kind = ours.get("kind")
    if kind in _KINDS:
        capture.kind = kind
    elif capture.status == 101:
        upgrade = value_of(capture.request_headers, "upgrade").lower()
        capture.kind = "websocket" if "websocket" in upgrade or not upgrade else "upgrade"
    elif value_of(capture.request_headers, "content-type").startswith("application/grpc"):
        capture.kind = "grpc"
    elif value_of(capture.response_headers, "content-type").startswith("text/event-stream"):
        capture.kind = "sse"
    capture.replay_of = _get(ours, "replay_of", int, where, None)
    capture.trailers = _fields({"headers": _get(ours, "trailers", list, where, [])}, f"{where}: trailers", "")
    capture.messages_dropped = max(0, _get(ours, "messages_dropped", int, where, 0))
    error = _get(ours, "error", list, where, None)
    if error is not None:
        capture.error = (str(error[0]), str(error[-1])) if error else ("unknown", "")
    elif capture.status is None:
        capture.error = ("no-answer", "the file has no response to this request")
    capture.state = "failed" if capture.error else "done"
    for side, body in (("request", capture.request_body), ("response", capture.response_body)):
        about = _get(ours, side, dict, where, {})
        if about:
            body.truncated = about.get("truncated") is True
            body.complete = about.get("complete") is True
            body.decoded = about.get("decoded") is True
            body.note = _get(about, "note", str, where, "")
            body.size = max(len(body.data) if not body.decoded else 0, _get(about, "size", int, where, 0))


def _clock(capture: Capture, entry: dict[str, Any], where: str) -> None:
    timings = _get(entry, "timings", dict, where, {})
    send, wait, receive = (_seconds(timings, name, where) for name in ("send", "wait", "receive"))
    capture.sent = send + sum(_seconds(timings, name, where) for name in ("blocked", "dns", "connect"))
    if capture.status is not None:
        capture.responded = capture.sent + wait
        capture.ended = capture.responded + receive
    else:
        capture.ended = _seconds(entry, "time", where)


# --- requests and responses ---------------------------------------------------------------------------------


def _split(url: str, where: str) -> tuple[str, str]:
    """(host, path with query)."""
    match = _URL.fullmatch(url)
    if match is None:
        raise HarInvalid(f"{where}: {url[:100]!r} is not an http URL")
    host, target = match[1].rpartition("@")[2], match[2]
    try:  # escapes the characters that browsers do not escape; existing escapes stay
        return _ascii(host), quote(target if target.startswith("/") else f"/{target}", safe=_VISIBLE)
    except UnicodeEncodeError:
        raise HarInvalid(f"{where}: {url[:100]!r} is not an http URL") from None


def _valid(text: str) -> str:
    return _LONE_SURROGATES.sub("?", text)


def _ascii(host: str) -> str:
    try:
        return host if host.isascii() else host.encode("idna").decode()
    except UnicodeError:
        raise HarInvalid(f"{host[:60]!r} is not a host") from None


def _fields(message: dict[str, Any], where: str, host: str) -> Fields:
    given = _get(message, "headers", list, where, [])
    if len(given) > MAX_HEADERS:
        raise HarInvalid(f"{where}: {len(given)} headers; at most {MAX_HEADERS} are read")
    fields: Fields = []
    for pair in given:
        each = _object(pair, f"{where}: a header")
        name = _get(each, "name", str, f"{where}: a header")
        value = _get(each, "value", str, f"{where}: header {name[:60]}")
        if name.startswith(":"):  # a pseudo-header of HTTP/2
            continue
        if FIELD_NAME.fullmatch(name) is None:
            raise HarInvalid(f"{where}: {name[:60]!r} is not a header name")
        for line in _valid(value).split("\n"):  # Chromium joins repeated headers with line feeds
            line = line.strip(" \t\r")
            if FIELD_VALUE.fullmatch(line) is None:
                raise HarInvalid(f"{where}: the value of {name} has control characters")
            fields.append((name, line))
    if host and not any(name.lower() == "host" for name, _ in fields):
        fields.insert(0, ("host", host))
    return fields


def _post(request: dict[str, Any], where: str) -> Body:
    body = Body(complete=True)
    post = _get(request, "postData", dict, where, None)
    if post is not None:
        text = _get(post, "text", str, f"{where}: postData", None)
        if text is None:
            body.data += _form(post, f"{where}: postData")
        else:
            body.data += _decoded(post, text, f"{where}: postData")
    declared = max(0, _get(request, "bodySize", int, where, 0))
    body.size = len(body.data)
    if declared and not body.data:
        body.size, body.truncated = declared, True  # written by a tool that omits bodies
    return body


def _form(post: dict[str, Any], where: str) -> bytes:
    parameters = _get(post, "params", list, where, [])
    if not parameters:
        return b""
    if not _get(post, "mimeType", str, where, "").startswith("application/x-www-form-urlencoded"):
        raise HarInvalid(f"{where}: a multipart form without its text cannot be restored")
    each = [_object(parameter, where) for parameter in parameters]
    return urlencode([(_get(p, "name", str, where), _get(p, "value", str, where, "")) for p in each]).encode()


def _content(response: dict[str, Any], headers: Fields, where: str) -> Body:
    body = Body(complete=True)
    content = _get(response, "content", dict, where, {})
    text = _get(content, "text", str, where, None)
    size = max(0, _get(content, "size", int, where, 0))
    if text is None:
        body.size, body.truncated = size, size > 0
        return body
    body.data += _decoded(content, text, f"{where}: content")
    body.size = len(body.data)
    if size > len(body.data):  # cut by the tool that wrote it
        body.size, body.truncated = size, True
    # HAR: "the text is HTTP decoded (decompressed & unchunked)".
    body.decoded = value_of(headers, "content-encoding").strip().lower() not in ("", "identity")
    return body


def _decoded(content: dict[str, Any], text: str, where: str) -> bytes:
    if _get(content, "encoding", str, where, "") != "base64":
        return text.encode("utf-8", "surrogatepass")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise HarInvalid(f"{where}: the text is not base64") from None


def _message(each: Any, started: float, where: str) -> Message | None:
    """None for an error of the connection, which Chromium writes with opcode -1."""
    message = _object(each, where)
    number = _get(message, "opcode", int, where, 1)
    if number == -1:
        return None
    opcode = OPCODES.get(number)
    if opcode is None:
        raise HarInvalid(f"{where}: opcode {message['opcode']!r:.20} is none of {sorted(OPCODES)}")
    text = _get(message, "data", str, where)
    data = (
        text.encode("utf-8", "surrogatepass")
        if opcode == "text"
        else _decoded({"encoding": "base64"}, text, where)
    )
    at = _get(message, "_at", float, where, None)
    if at is None:
        at = max(0.0, _get(message, "time", float, where, started) - started)
    size = _get(message, "_size", int, where, len(data))
    return Message(at, message.get("type") == "send", opcode, data, max(len(data), size))


# --- values -------------------------------------------------------------------------------------------------


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise HarInvalid(f"{where} is not a JSON object")
    return value


_REQUIRED: Final = object()


def _get(container: dict[str, Any], name: str, kind: type[Any], where: str, default: Any = _REQUIRED) -> Any:
    value = container.get(name)
    if value is None:
        if default is _REQUIRED:
            raise HarInvalid(f"{where}: '{name}' is missing", hint="is this a HAR 1.2 file?")
        return default
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind is float and type(value) is int and abs(value) <= MAX_NUMBER:
        value = float(value)
    absurd = kind is float and isinstance(value, float) and not abs(value) <= MAX_NUMBER  # or NaN
    if not isinstance(value, kind) or isinstance(value, bool) or absurd:
        raise HarInvalid(f"{where}: '{name}' is not {_KIND_NAMES[kind]}")
    return value


_KIND_NAMES: Final[dict[type[Any], str]] = {
    dict: "an object", list: "a list", str: "a string", int: "a whole number",
    float: "a number",
}  # fmt: skip


def _seconds(container: dict[str, Any], name: str, where: str) -> float:
    """Seconds from milliseconds, where -1 means "not applicable"."""
    return float(max(0.0, _get(container, name, float, where, 0.0)) / 1000)


def _time(entry: dict[str, Any], where: str) -> float:
    """0 if it is unknown: some tools write the year 1."""
    text = _get(entry, "startedDateTime", str, where, "")
    if not text:
        return 0.0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise HarInvalid(f"{where}: startedDateTime {text[:40]!r} is not ISO 8601") from None
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return seconds if 0 <= seconds <= MAX_TIME else 0.0
