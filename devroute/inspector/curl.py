"""Writes a captured request as a curl command for a POSIX shell. Pure.

Pasting the command runs curl and nothing else, whatever the request holds: text is in single quotes; text
with control characters in $'…'; binary data, and data too long for an argument, comes through a pipe.
"""

import base64
import re
from typing import Final
from urllib.parse import urlsplit

from devroute.errors import NotReplayable
from devroute.inspector.capture import Capture
from devroute.inspector.replay_request import check_body

#: Linux limits an argument to 128 KiB. The limit does not apply to printf, which is built into shells.
MAX_ARGUMENT: Final = 100_000

#: Headers that curl writes itself, and headers that the mesh added.
_OMITTED: Final = frozenset((
    "content-length", "transfer-encoding", "connection", "keep-alive", "expect", "via",
    "x-forwarded-client-cert",
))  # fmt: skip
_UNQUOTED = re.compile(r"[\w@%+:,./-][\w@%+=:,./-]*", re.ASCII)  # zsh expands =word
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "'": "\\'"}


def as_curl(capture: Capture, base_url: str) -> str:
    """The command for a request to `base_url` (scheme, host, port). Raises NotReplayable if the stored
    request is not complete."""
    if capture.kind in ("websocket", "upgrade"):
        raise NotReplayable("curl cannot send a WebSocket or another upgraded connection")
    check_body(capture)
    body = bytes(capture.request_body.data)
    pipe, data = _data(body)
    parts = ["curl"]
    if base_url.startswith("https:"):
        parts.append("--insecure")  # an app on this machine signs its certificate itself
    elif capture.kind == "grpc":
        parts.append("--http2-prior-knowledge")
    if re.search(r"[\[\]{}]", capture.target):
        parts.append("--globoff")
    if re.search(r"/\.{1,2}(?:[/?]|\Z)", capture.target):
        parts.append("--path-as-is")
    if capture.method == "HEAD" and not body:
        parts.append("--head")
    elif capture.method != ("POST" if body else "GET"):
        parts.append(f"--request {quote(capture.method)}")
    lines = [" ".join((*parts, quote(base_url.rstrip("/") + capture.target)))]
    lines += _headers(capture, urlsplit(base_url).netloc, has_body=bool(body))
    if data:
        lines.append(data)
    return pipe + " \\\n  ".join(lines)


def _headers(capture: Capture, authority: str, *, has_body: bool) -> list[str]:
    lines: list[str] = []
    names = set()
    for name, value in capture.request_headers:
        low = name.lower()
        names.add(low)
        if low in _OMITTED or low.startswith("x-envoy-") or (low == "host" and value == authority):
            continue
        if low == "content-encoding" and capture.request_body.decoded:
            continue
        lines.append("-H " + quote(f"{name}: {value}" if value else f"{name};", latin=True))
    if not has_body and capture.method in ("POST", "PUT", "PATCH"):
        lines.append("-H 'content-length: 0'")
    if has_body and "content-type" not in names:
        lines.append("-H 'content-type:'")  # otherwise curl declares a form
    return lines


def _data(body: bytes) -> tuple[str, str]:
    """(The command before curl, the option)."""
    if not body:
        return "", ""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    if text and not _CONTROL.search(re.sub(r"[\n\r\t]", "", text)):
        quoted = quote(text, lines="\r" not in text and "\t" not in text)
        if len(body) <= MAX_ARGUMENT:
            return "", f"--data-raw {quoted}"
        return f"printf %s {quoted} |\n", "--data-binary @-"
    return f"printf %s {base64.b64encode(body).decode()} | base64 -d |\n", "--data-binary @-"


def quote(text: str, *, latin: bool = False, lines: bool = False) -> str:
    """One word for a shell. `latin`: the text is bytes as Latin-1. `lines`: line feeds need no escape."""
    if latin and not text.isascii():
        raw = text.encode("latin-1", "replace")
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            return "$'" + "".join(_escaped_byte(byte) for byte in raw) + "'"
    if _UNQUOTED.fullmatch(text):
        return text
    if _CONTROL.search(text.replace("\n", "") if lines else text):
        return "$'" + "".join(_escaped(char) for char in text) + "'"
    return "'" + text.replace("'", "'\\''") + "'"


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    return "".join(map(_octal, char.encode())) if _CONTROL.match(char) else char


def _escaped_byte(byte: int) -> str:
    return _escaped(chr(byte)) if byte < 0x7F else _octal(byte)


def _octal(byte: int) -> str:
    """Always three digits, so that a following digit is not part of it."""
    return f"\\{byte:03o}"
