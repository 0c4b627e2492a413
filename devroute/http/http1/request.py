"""HTTP/1.1 request heads: parsed strictly, framing decided (RFC 9112). Pure.

llhttp (through httptools) checks every byte of a head. This module adds what a gateway must decide itself:
the framing of the body, and the checks against request smuggling. Bodies are read by http/http1/body.py.
"""

import re
from typing import Final

import httptools

from devroute.errors import NotSupported, RequestMalformed
from devroute.http.http1.fields import (
    CONTRACT,
    HOST,
    MARKER,
    MATCHED,
    OTHER,
    REQUEST_HOP,
    REQUEST_ID,
    REQUEST_KINDS,
    TRACE,
    TRACEPARENT,
    VIA,
    Field,
    FieldReader,
    known_fault,
    list_members,
    named_fields,
    parse_content_length,
    spans_of,
    values_by_name,
)
from devroute.http.message import MAX_FIELD_LINES, Framing, InboundRequest, Span


class _Validator:
    """Checks request heads with llhttp, without callbacks: one for each field would cost more than the check.

    A parser is reused until a head announces a body or the end of the connection: llhttp then waits for that,
    and a new parser is cheaper than feeding it.
    """

    def __init__(self) -> None:
        self._reusable = False
        self._parser = httptools.HttpRequestParser(self)

    def on_message_complete(self) -> None:
        self._reusable = self._parser.should_keep_alive()

    def check(self, head: bytes) -> None:
        """Raises httptools.HttpParserError; an upgrade is no error."""
        self._reusable = False
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            self._reusable = False
        except httptools.HttpParserError:
            self._reusable = False  # it may come after the message was complete, and would come again
            raise
        finally:
            if not self._reusable:
                self._parser = httptools.HttpRequestParser(self)


_validator: Final = _Validator()
_reader: Final = FieldReader(REQUEST_KINDS)
_NO_FIELDS: Final[dict[bytes, bytes]] = {}

_REQUEST_LINE: Final = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-\"$-~]+) HTTP/1\.([01])\r\n")
_METHOD_START: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z\r]")
_ABSOLUTE: Final = re.compile(rb"(?i:https?)://([^/?#@]+)([/?].*)?", re.DOTALL)

# uri-host [":" port] (RFC 9110 §7.2) without the comma, which appears only where repeated fields were joined.
_AUTHORITY: Final = re.compile(rb"(?:\[[0-9A-Za-z:.%_~-]+\]|[0-9A-Za-z!$%&'()*+\-.;=_~]*)(?::[0-9]*)?")

# Looking up an enum's member costs as much as a call in Python 3.11, and these are needed for each message.
_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_UPGRADING: Final = Framing.UPGRADE


class _Lines:
    """What the field lines of a request say. `by_name`: the fields of that kind; `via` and `trace`: the first
    value; `drop`: the spans of those that end at this hop, whatever Connection says."""

    __slots__ = ("by_name", "contract", "drop", "hosts", "ids", "matched", "trace", "traceparent", "via")

    def __init__(self, lines: list[bytes]) -> None:
        """`lines` are those of a valid head: the first is no field, and the last two are empty."""
        self.hosts: list[bytes] = []
        self.ids: list[bytes] = []
        self.contract: list[bytes] = []
        self.matched: list[bytes] = []
        self.by_name: list[Field] = []
        self.drop: list[Span] = []
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
                field = _reader.read(line)
            if field.kind != OTHER:
                self._take(field, at, end)
            at = end

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


def parse_request_head(raw: bytes, max_fields: int = MAX_FIELD_LINES) -> InboundRequest:
    """Check a request's head and decide its framing (RFC 9112 §3, §5, §6.3).

    `raw` ends with CRLF CRLF; the caller checks its size. Raises RequestMalformed, or NotSupported for
    CONNECT, for methods that llhttp does not know and for transfer codings other than chunked.

    Longer than 40 lines: the checks stand in the order in which their errors take precedence.
    """
    start = _REQUEST_LINE.match(raw)
    if start is None:
        raise RequestMalformed("the request line is not 'METHOD target HTTP/1.1'", hint="RFC 9112 §3")
    method, target, version = start.groups()
    _validate(raw, method)
    minor = version[0] - 48
    lines = raw.split(b"\r\n")
    if (count := len(lines) - 3) > max_fields:
        raise RequestMalformed(f"{count} field lines; at most {max_fields} are accepted")
    found = _Lines(lines)
    fields = values_by_name(found.by_name) if found.by_name else _NO_FIELDS
    get = fields.get
    given = get(b"content-length")
    length = 0 if given is None else parse_content_length(given, RequestMalformed)
    if (coding := get(b"transfer-encoding")) is not None:
        _check_coding(coding, given, minor)
    hosts = found.hosts
    start_line: bytes = start[0]
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
        b"\n".join(found.ids),
        found.contract,
        found.matched,
        start_line,
        raw,
        drop,
    )
    request.via, request.trace, request.traceparent = found.via, found.trace, found.traceparent
    return request


def _validate(raw: bytes, method: bytes) -> None:
    try:
        _validator.check(raw)
    except httptools.HttpParserInvalidMethodError:
        raise NotSupported(f"method {method[:32].decode('ascii')} is not one that is forwarded") from None
    except httptools.HttpParserError as error:
        problem, hint = known_fault(raw)
        problem = problem or f"the head is not valid HTTP/1.1: {str(error).lower()}"
        raise RequestMalformed(problem, hint=hint) from None
    if method == b"CONNECT":
        raise NotSupported("CONNECT is not forwarded", hint="devroute is a gateway, not a forward proxy")


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
