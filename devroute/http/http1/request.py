"""HTTP/1.1 request heads: parsed strictly, framing decided (RFC 9112). Pure.

llhttp (through httptools) has checked every line: in this head, or, where no line has a part in framing, in
an earlier one. This module adds what a gateway must decide itself: the framing of the body, and the checks
against request smuggling. Bodies are read by http/http1/body.py.
"""

import re
from typing import Final

from devroute.errors import NotSupported, RequestMalformed
from devroute.http.http1.fields import (
    CONTRACT,
    END_OF_HEAD,
    HOST,
    MARKER,
    MATCHED,
    OTHER,
    REQUEST_HOP,
    REQUEST_ID,
    REQUEST_KINDS,
    TOKEN,
    TRACE,
    TRACEPARENT,
    VIA,
    Field,
    FieldReader,
    list_members,
    named_fields,
    parse_content_length,
    spans_of,
    values_by_name,
)
from devroute.http.http1.shapes import Shapes
from devroute.http.http1.validation import validate
from devroute.http.message import MAX_FIELD_LINES, Framing, InboundRequest, Span

_reader: Final = FieldReader(REQUEST_KINDS)
_shapes: Final = Shapes()
_NO_FIELDS: Final[dict[bytes, bytes]] = {}

_REQUEST_LINE: Final = re.compile(rb"(" + TOKEN + rb") ([!-\"$-~]+) HTTP/1\.([01])\r\n")
# All in one match: removing them one by one would copy the rest of the buffer each time.
_EMPTY_LINES: Final = re.compile(rb"\A(?:\r\n)+")
_METHOD_START: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z\r]")
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?#@]+)([/?].*)?", re.DOTALL)

# uri-host [":" port] (RFC 9110 §7.2) without the comma, which appears only where repeated fields were joined.
_AUTHORITY: Final = re.compile(rb"(?:\[[0-9A-Za-z:.%_~-]+\]|[0-9A-Za-z!$%&'()*+\-.;=_~]*)(?::[0-9]*)?")

# Looking up an enum's member costs as much as a call in Python 3.11, and these are needed for each message.
_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_UPGRADING: Final = Framing.UPGRADE


class _Start:
    """A request line. `line` has its CRLF; `minor` is HTTP's minor version. `usual`: that is 1, and the
    target a path, so that all else is in the fields."""

    __slots__ = ("line", "method", "minor", "target", "usual")

    def __init__(self, line: bytes, method: bytes, target: bytes, minor: int) -> None:
        self.line = line
        self.method = method
        self.target = target
        self.minor = minor
        self.usual = minor == 1 and target.startswith(b"/")


#: Request lines, without CRLF, of whole messages that llhttp has passed: most are repeated. None has a query,
#: which may be secret. Cleared when full.
known_starts: Final[dict[bytes, _Start]] = {}
MAX_STARTS: Final = 1024
MAX_START_BYTES: Final = 256


def _read_start(raw: bytes, line: bytes) -> _Start:
    """`line` is the first of `raw`, which passes llhttp when this returns. Raises as parse_request_head."""
    match = _REQUEST_LINE.match(raw)
    if match is None:
        raise RequestMalformed("the request line is not 'METHOD target HTTP/1.1'", hint="RFC 9112 §3")
    method, target, version = match.groups()
    start = _Start(match[0], method, target, version[0] - 48)
    whole = validate(raw, method)
    if whole and len(line) <= MAX_START_BYTES and target.find(b"?") < 0:
        if len(known_starts) >= MAX_STARTS:
            known_starts.clear()
        known_starts[line] = start
    return start


class _Lines:
    """What the field lines of a request say. `by_name`: the fields of that kind; `via` and `trace`: the first
    value; `drop`: the spans of those that end at this hop, whatever Connection says. `id_lines`: the spans of
    those whose value was read as an id, and `request_id` which of them is the request's, -1 if none is;
    `known`: every other line was known."""

    __slots__ = (
        "by_name", "contract", "drop", "hosts", "id_lines", "ids", "known", "matched", "request_id", "trace",
        "traceparent", "via",
    )  # fmt: skip

    def __init__(self, lines: list[bytes], raw: bytes, method: bytes, valid: bool) -> None:
        """`lines` are those of `raw`: the first is no field, and the last two are empty. `valid`: llhttp has
        passed `raw`. If not, it has passed the request line, and checks `raw` if there is a line that it has
        not passed, or one with a part in framing. Raises as parse_request_head.

        Longer than 40 lines: all is found in one pass."""
        self.hosts: list[bytes] = []
        self.ids: list[bytes] = []
        self.contract: list[bytes] = []
        self.matched: list[bytes] = []
        self.by_name: list[Field] = []
        self.drop: list[Span] = []
        self.id_lines: list[Span] = []
        self.request_id = -1
        self.known = True
        self.via: bytes | None = None
        self.trace: bytes | None = None
        self.traceparent = False
        known = _reader.known
        at = len(lines[0]) + 2
        for index in range(1, len(lines) - 2):
            line = lines[index]
            end = at + len(line) + 2
            field = known.get(line)
            if field is None:
                field = _reader.read_id(line)
                if field is not None:
                    if field.kind == REQUEST_ID:
                        self.request_id = len(self.id_lines)
                    self.id_lines.append((at, end))
            if field is None:
                if not line:
                    raise RequestMalformed("an empty line within the head", hint="RFC 9112 §2.1")
                if not valid:
                    validate(raw, method)
                    valid = True
                field = _reader.read(line)
                self.known = False
            if field.kind != OTHER:
                self._take(field, at, end)
            at = end
        if self.by_name and not valid:
            validate(raw, method)

    def _take(self, field: Field, at: int, end: int) -> None:
        kind = field.kind
        if kind == HOST:
            self.hosts.append(field.value)
        elif kind == REQUEST_ID:
            self.ids.append(field.value)
        elif kind == CONTRACT:
            self.contract.append(field.value)
        elif kind == MARKER:
            self.matched.append(field.value)
            self.drop.append((at, end))
        elif kind == VIA:
            self.via = field.value if self.via is None else self.via
        elif kind == TRACE:
            self.trace = field.value if self.trace is None else self.trace
        elif kind == TRACEPARENT:
            self.traceparent = True
        else:
            self.by_name.append(field)
            if field.name in REQUEST_HOP:
                self.drop.append((at, end))


def without_empty_lines(data: bytes) -> bytes:
    """`data` from its first request on: empty lines before one are ignored (RFC 9112 §2.2)."""
    return _EMPTY_LINES.sub(b"", data, 1)


def lines_of_head(data: bytes) -> list[bytes] | None:
    """The lines of `data` if it is one head, with its two empty ones at the end; None if it is anything else.
    Costs less than to look for the head's end first."""
    if not data.endswith(END_OF_HEAD):
        return None
    lines = data.split(b"\r\n")
    for index in range(len(lines) - 2):
        if not lines[index]:
            return None
    return lines


def known_request(raw: bytes, max_fields: int) -> InboundRequest | None:
    """The request of a head whose fields differ from those of an earlier one in ids alone. None for anything
    else, which may not be a head at all. Raises as parse_request_head."""
    line, _, fields = raw.partition(b"\r\n")
    shape = _shapes.by_length.get(len(fields))
    if shape is None or shape.count > max_fields:
        return None
    request_id = shape.request_id(fields)
    if request_id is None:
        return None
    start = known_starts.get(line)
    if start is None:
        start = _read_start(raw, line)
    if not start.usual:
        return None
    return shape.request(start.method, start.target, start.line, raw, request_id)


def parse_request_head(
    raw: bytes, max_fields: int = MAX_FIELD_LINES, lines: list[bytes] | None = None
) -> InboundRequest:
    """Check a request's head and decide its framing (RFC 9112 §3, §5, §6.3).

    `raw` ends with its only CRLF CRLF; the caller checks its size. `lines`: what lines_of_head has returned.
    Raises RequestMalformed, or NotSupported for CONNECT, for methods that llhttp does not know and for
    transfer codings other than chunked.

    Longer than 40 lines: the checks stand in the order in which their errors take precedence.
    """
    if lines is None:
        if (request := known_request(raw, max_fields)) is not None:
            return request
        lines = raw.split(b"\r\n")
        if not raw.endswith(END_OF_HEAD):
            raise RequestMalformed("the head has no empty line at its end", hint="RFC 9112 §2.1")
    start = known_starts.get(lines[0])
    valid = start is None
    if start is None:
        start = _read_start(raw, lines[0])
    method, target, minor = start.method, start.target, start.minor
    if (count := len(lines) - 3) > max_fields:
        if not valid:
            validate(raw, method)
        raise RequestMalformed(f"{count} field lines; at most {max_fields} are accepted")
    found = _Lines(lines, raw, method, valid)
    fields = values_by_name(found.by_name) if found.by_name else _NO_FIELDS
    get = fields.get
    given = get(b"content-length")
    length = 0 if given is None else parse_content_length(given, RequestMalformed)
    if (coding := get(b"transfer-encoding")) is not None:
        _check_coding(coding, given, minor)
    hosts = found.hosts
    start_line = start.line
    if target[:1] != b"/" or minor == 0:
        target, authority = _origin_form(method, target, hosts[0] if hosts else None)
        start_line = b"%b %b HTTP/1.1\r\n" % (method, target)
        if minor == 0 and not hosts:  # the next hop gets HTTP/1.1, which requires a host field
            hosts = [authority]
            start_line += b"host: %b\r\n" % authority
    _check_host(hosts)
    keep_alive = minor == 1  # never for HTTP/1.0: RFC 9112 §9.3
    drop = found.drop
    options: list[bytes] = []
    if (connection := get(b"connection")) is not None:
        options = list_members(connection)
        keep_alive = keep_alive and b"close" not in options
        if named := named_fields(options):
            drop = spans_of(lines, REQUEST_HOP.union(named, (MATCHED,)))
    upgrade = b""
    if coding is not None:
        framing = _CHUNKED
    elif length > 0:
        framing = _LENGTH
    else:
        framing = _NONE
        if b"upgrade" in options and minor == 1 and get(b"upgrade"):
            framing = _UPGRADING
            upgrade = b", ".join([field.value for field in found.by_name if field.name == b"upgrade"])
    te = get(b"te")
    request = InboundRequest(
        method,
        target,
        minor,
        framing,
        length,
        keep_alive,
        minor == 1 and get(b"expect") == b"100-continue",
        upgrade,
        te is not None and b"trailers" in (member.partition(b";")[0] for member in list_members(te)),
        found.ids[0] if len(found.ids) == 1 else b"\n".join(found.ids),
        found.contract,
        found.matched,
        start_line,
        raw,
        drop,
    )
    request.via, request.trace, request.traceparent = found.via, found.trace, found.traceparent
    if found.known and not found.by_name and start.usual and len(found.ids) <= 1:
        _shapes.remember(request, len(start.line), found.id_lines, found.request_id)
    return request


def _check_coding(coding: bytes, content_length: bytes | None, minor: int) -> None:
    if coding.strip(b" \t") != b"chunked":
        raise NotSupported("the only transfer coding accepted is one 'chunked'", hint="RFC 9112 §6.1")
    if content_length is not None or minor == 0:
        raise RequestMalformed(
            "transfer-encoding with content-length, or in HTTP/1.0",
            hint="RFC 9112 §6.1: this is how smuggling starts",
        )


#: Host fields that were accepted: a mesh calls a service by few names. Cleared when full.
_known_hosts: Final[set[bytes]] = set()
_MAX_KNOWN_HOSTS: Final = 1024
_MAX_KNOWN_HOST_BYTES: Final = 260


def _check_host(hosts: list[bytes]) -> None:
    if len(hosts) != 1:
        raise RequestMalformed(f"{len(hosts)} host fields; HTTP/1.1 has exactly one", hint="RFC 9112 §3.2")
    host = hosts[0]
    if host in _known_hosts:
        return
    if _AUTHORITY.fullmatch(host.rstrip(b" \t")) is None:
        raise RequestMalformed("the host field is not a host with or without a port", hint="RFC 9112 §3.2")
    if len(_known_hosts) >= _MAX_KNOWN_HOSTS:
        _known_hosts.clear()
    if len(host) <= _MAX_KNOWN_HOST_BYTES:
        _known_hosts.add(host)


def _origin_form(method: bytes, target: bytes, host: bytes | None) -> tuple[bytes, bytes]:
    """(target, authority): absolute-form becomes origin-form, asterisk-form stays (RFC 9112 §3.2)."""
    if target[:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
        return target, b""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise RequestMalformed("the request target is neither a path nor an http URL", hint="RFC 9112 §3.2")
    authority, path = absolute.groups()
    if host is not None and host.lower() != authority.lower():
        raise RequestMalformed(
            "the request target and the host field name different hosts", hint="RFC 9112 §3.2.2"
        )
    if path is None:
        return (b"*" if method == b"OPTIONS" else b"/"), authority  # §3.2.4
    return (path if path[:1] == b"/" else b"/" + path), authority


def check_partial_head(held: bytes) -> None:
    """Refuse bytes that cannot become a valid head, so that their sender need not wait for a timeout.

    Raises RequestMalformed.
    """
    if held.count(b"\n") != held.count(b"\r\n"):
        raise RequestMalformed("a bare LF in the head", hint="RFC 9112 §2.2: lines end with CR LF")
    if _METHOD_START.match(held) is None or (b"\n" in held and _REQUEST_LINE.match(held) is None):
        raise RequestMalformed("the request line is not 'METHOD target HTTP/1.1'", hint="RFC 9112 §3")
