"""HTTP/1.1 request heads: parsed strictly, framing decided (RFC 9112). Pure.

llhttp (through httptools) checks every byte of a head. This module adds what a gateway must decide itself:
the framing of the body, and the checks against request smuggling. Bodies are read by http/http1/body.py.
"""

import re
from typing import Final

import httptools

from devroute.errors import NotSupported, RequestMalformed
from devroute.headers import CONTRACT
from devroute.http.http1.fields import (
    MATCHED,
    REQUEST_FIELDS,
    REQUEST_HOP,
    field_spans,
    field_values,
    find_fields,
    hop_by_hop_spans,
    known_fault,
    list_members,
    parse_content_length,
    value_at,
)
from devroute.http.message import MAX_FIELD_LINES, Framing, InboundRequest


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


_validator = _Validator()

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-\"$-~]+) HTTP/1\.([01])\r\n")
_METHOD_START = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z\r]")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#@]+)([/?].*)?", re.DOTALL)

# uri-host [":" port] (RFC 9110 §7.2) without the comma, which appears only where repeated fields were joined.
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Za-z:.%_~-]+\]|[0-9A-Za-z!$%&'()*+\-.;=_~]*)(?::[0-9]*)?")

_CONTRACT_NEEDLE: Final = f"\n{CONTRACT}:".encode()

# Looking up an enum's member costs as much as a call in Python 3.11, and these are needed for each message.
_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_UPGRADING: Final = Framing.UPGRADE


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
    _validate(raw, method, max_fields)
    minor = version[0] - 48
    low = raw.lower()
    fields = find_fields(REQUEST_FIELDS, low)
    get = fields.get
    given = get(b"content-length")
    length = 0 if given is None else parse_content_length(given, RequestMalformed)
    if (coding := get(b"transfer-encoding")) is not None:
        _check_coding(coding, given, minor)
    hosts = field_values(raw, low, b"\nhost:")
    start_line: bytes = start[0]
    if target[:1] != b"/" or minor == 0:
        target, authority = _origin_form(method, target, hosts[0] if hosts else None)
        start_line = b"%b %b HTTP/1.1\r\n" % (method, target)
        if minor == 0 and not hosts:  # the next hop gets HTTP/1.1, which requires a host field
            hosts = [authority]
            start_line += b"host: %b\r\n" % authority
    _check_host(hosts)
    keep_alive = minor == 1  # never for HTTP/1.0: RFC 9112 §9.3
    options: list[bytes] = []
    if (connection := get(b"connection")) is not None:
        options = list_members(connection)
        keep_alive = keep_alive and b"close" not in options
    upgrade = b""
    if coding is not None:
        framing = _CHUNKED
    elif length > 0:
        framing = _LENGTH
    else:
        framing = _NONE
        if b"upgrade" in options and minor == 1 and get(b"upgrade"):
            framing = _UPGRADING
            upgrade = b", ".join(field_values(raw, low, b"\nupgrade:"))
    te = get(b"te")
    markers = field_spans(low, MATCHED)
    drop = markers
    if fields:
        drop = sorted([*markers, *hop_by_hop_spans(low, REQUEST_HOP.intersection(fields), options)])
    return InboundRequest(
        method,
        target,
        minor,
        framing,
        length,
        keep_alive,
        minor == 1 and get(b"expect", b"").strip(b" \t") == b"100-continue",
        upgrade,
        te is not None and b"trailers" in (member.partition(b";")[0] for member in list_members(te)),
        b"\n".join(field_values(raw, low, b"\nx-request-id:")),
        field_values(raw, low, _CONTRACT_NEEDLE),
        [value_at(raw, first + len(MATCHED) + 1, last - 2) for first, last in markers],
        start_line,
        raw,
        drop,
    )


def _validate(raw: bytes, method: bytes, max_fields: int) -> None:
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
    if len(raw) > max_fields * 4 and (count := raw.count(b"\n") - 2) > max_fields:
        raise RequestMalformed(f"{count} field lines; at most {max_fields} are accepted")


def _check_coding(coding: bytes, content_length: bytes | None, minor: int) -> None:
    if coding.strip(b" \t") != b"chunked":
        raise NotSupported("the only transfer coding accepted is one 'chunked'", hint="RFC 9112 §6.1")
    if content_length is not None or minor == 0:
        raise RequestMalformed(
            "transfer-encoding with content-length, or in HTTP/1.0",
            hint="RFC 9112 §6.1: this is how smuggling starts",
        )


#: Host fields that were accepted: a mesh calls a service by few names. Cleared when full.
_known_hosts: set[bytes] = set()
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
