"""Writes a captured request as a curl command for a POSIX shell. Pure.

Pasting the command runs curl and nothing else, whatever the request holds: text is in single quotes; text
with control characters in $'…'; binary data, and data too long for an argument, comes through a pipe. What
was redacted is a shell variable, without which the shell refuses to run the command.
"""

import base64
import re
from typing import Final, NamedTuple, get_args
from urllib.parse import urlsplit

from devroute.errors import NotReplayable
from devroute.headers import BAGGAGE_CONTRACT, CONTRACT, PREFIX, TRACESTATE
from devroute.http.carriers import KNOWN, Slot, header_of, is_list
from devroute.inspector.capture import REDACTED, REDACTED_QUERY, Capture
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
#: Headers of one way through the mesh, which each request through it gets by itself.
_OF_THE_WAY: Final = frozenset((
    "host", CONTRACT, "forwarded", "x-request-id", "traceparent", TRACESTATE, "b3",
    *(header_of(each, slot) for each in KNOWN if not is_list(each) for slot in get_args(Slot)),
))  # fmt: skip
#: Headers that are so if they hold a contract.
_SHARED: Final = frozenset(filter(is_list, KNOWN)) - _OF_THE_WAY
_OF_THE_WAY_PREFIXES: Final = (f"{PREFIX}-", "x-forwarded-", "x-b3-")
_REDACTION = re.compile(f"{re.escape(REDACTED)}|{REDACTED_QUERY}")
#: The name of a value in a header, a query, a form or JSON, backwards from the value; a header may have a
#: scheme before it.
_NAME_BEFORE = re.compile(r"""(?:[ ][A-Za-z]{1,16}+)?["']?[ \t]*[:=][ \t]*["']?([A-Za-z0-9_-]{1,64})""")
#: Characters before a redaction that are searched for it.
_BEFORE: Final = 100
_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", "'": "\\'"}


class CurlCommand(NamedTuple):
    """`secrets`: the shell variables that have to be set first."""

    command: str
    secrets: list[str]


def as_curl(capture: Capture, base_url: str, contract: str | None = None, proxy: str = "") -> CurlCommand:
    """The command for a request to `base_url` (scheme, host, port): that of the app, for an outgoing request
    that of the local port which leads to its service, or with a `contract` that of an entry of the mesh.
    `proxy`: the URL of the HTTP proxy that it goes through, "" for none. Raises
    NotReplayable if the stored request is not complete."""
    if capture.kind in ("websocket", "upgrade"):
        raise NotReplayable("curl cannot send a WebSocket or another upgraded connection")
    check_body(capture)
    secrets: dict[str, None] = {}
    body = capture.request_body.redacted
    pipe, data = _data(body, secrets)
    parts = ["curl"]
    if base_url.startswith("https:") and contract is None:
        parts.append("--insecure")  # an app on this machine signs its certificate itself
    elif capture.kind == "grpc" and not base_url.startswith("https:"):
        parts.append("--http2-prior-knowledge")
    if proxy:
        parts.append(f"--proxytunnel --proxy {quote(proxy)}")
    if re.search(r"[\[\]{}]", capture.target):
        parts.append("--globoff")
    if re.search(r"/\.{1,2}(?:[/?]|\Z)", capture.target):
        parts.append("--path-as-is")
    if capture.method == "HEAD" and not body:
        parts.append("--head")
    elif capture.method != ("POST" if body else "GET"):
        parts.append(f"--request {quote(capture.method)}")
    lines = [" ".join((*parts, _with_secrets(base_url.rstrip("/") + capture.target, secrets)))]
    if contract is not None:
        lines.append("-H " + _with_secrets(f"X-devroute: {contract}", secrets))
    # Who listens at the local port of a service names it to the mesh.
    own_host = None if capture.direction == "out" else urlsplit(base_url).netloc
    lines += _headers(capture, own_host, secrets, through_mesh=contract is not None)
    if data:
        lines.append(data)
    return CurlCommand(pipe + " \\\n  ".join(lines), list(secrets))


def _headers(
    capture: Capture, own_host: str | None, secrets: dict[str, None], *, through_mesh: bool
) -> list[str]:
    """`own_host`: the Host that curl writes by itself, None if it is to write its own in any case."""
    lines: list[str] = []
    names = set()
    has_body = bool(capture.request_body.data)
    for name, value in capture.request_headers:
        low = name.lower()
        names.add(low)
        if low in _OMITTED or low.startswith("x-envoy-") or (low == "host" and own_host in (None, value)):
            continue
        if low == "content-encoding" and capture.request_body.decoded:
            continue
        if through_mesh and _is_of_the_way(low, value):
            continue
        text = f"{name}: {value}" if value else f"{name};"
        lines.append("-H " + _with_secrets(text, secrets, latin=True))
    if not has_body and capture.method in ("POST", "PUT", "PATCH"):
        lines.append("-H 'content-length: 0'")
    if has_body and "content-type" not in names:
        lines.append("-H 'content-type:'")  # otherwise curl declares a form
    return lines


def _is_of_the_way(name: str, value: str) -> bool:
    if name in _SHARED:
        return any(member.strip().startswith(BAGGAGE_CONTRACT) for member in value.split(","))
    return name in _OF_THE_WAY or name.startswith(_OF_THE_WAY_PREFIXES)


def _data(body: bytes, secrets: dict[str, None]) -> tuple[str, str]:
    """(The command before curl, the option)."""
    if not body:
        return "", ""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        text = ""
    if text and not _CONTROL.search(re.sub(r"[\n\r\t]", "", text)):
        quoted = _with_secrets(text, secrets, lines="\r" not in text and "\t" not in text)
        if len(body) <= MAX_ARGUMENT:
            return "", f"--data-raw {quoted}"
        return f"printf %s {quoted} |\n", "--data-binary @-"
    return f"printf %s {base64.b64encode(body).decode()} | base64 -d |\n", "--data-binary @-"


def _with_secrets(text: str, secrets: dict[str, None], *, latin: bool = False, lines: bool = False) -> str:
    """One word as `quote` has it, with a variable for each redaction. Adds the variables to `secrets`."""
    pieces: list[str] = []
    at = 0
    for match in _REDACTION.finditer(text):
        start = match.start()
        if at < start:
            pieces.append(quote(text[at:start], latin=latin, lines=lines))
        named = _NAME_BEFORE.match(text[max(0, start - _BEFORE) : start][::-1])
        # The prefix keeps it from being PATH or another variable that the shell has.
        name = "value" if named is None else named[1][::-1]
        variable = "SECRET_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
        secrets[variable] = None
        pieces.append(f'"${{{variable}:?was redacted}}"')
        at = match.end()
    if at < len(text) or not pieces:
        pieces.append(quote(text[at:], latin=latin, lines=lines))
    return "".join(pieces)


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
