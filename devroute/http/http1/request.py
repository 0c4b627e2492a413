"""HTTP/1.1 heads as they arrive: parsed strictly and judged once (RFC 9112). Pure.

llhttp (through httptools) validates every byte of a head; this module adds what a gateway must decide itself:
the framing of the body, and what smuggling would need. http/http1/fields.py finds and reads the fields that
this hangs on; bodies are counted in http/http1/body.py.
"""

import re
from typing import Final

import httptools

from devroute.errors import NotSupported, RequestMalformed, UpstreamInvalid
from devroute.headers import CONTRACT
from devroute.http.http1.fields import (
    MATCHED,
    NO_BODY_HOP,
    OF_RESPONSES,
    RARE_IN_REQUESTS,
    REQUEST_HOP,
    RESPONSE_HOP,
    SWITCHING_HOP,
    dropped,
    fields_of,
    length_of,
    options_of,
    spans_of,
    value_at,
    values_of,
)
from devroute.http.message import Framing, HeadLimits, InboundRequest, ResponseHead

#: Of an answer, and of a request where the proxy's settings say nothing else: Envoy's default limit is 60 KiB
#: for all of a request's head; what it lets through, we can read.
MAX_HEAD_BYTES: Final = 64 * 1024

#: Envoy's default is 100 field lines; the rest is room for what meshes add.
MAX_FIELD_LINES: Final = 200

#: For requests, unless the proxy's settings say otherwise.
HEAD_LIMITS: Final = HeadLimits(MAX_HEAD_BYTES, MAX_FIELD_LINES)

END_OF_HEAD: Final = b"\r\n\r\n"


class _Validator:
    """Runs requests' heads through llhttp, for its verdict alone: to be called for every field would cost
    more than the check itself.

    A parser serves until a head announces a body or the connection's end: llhttp waits for either, and a new
    parser is cheaper than feeding it.
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


_requests = _Validator()

#: The field lines of a response and the empty line (RFC 9112 §5, RFC 9110 §5.5). llhttp would have to be made
#: anew for each response that has a body, at three times the price.
_FIELD_LINES = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t -~\x80-\xff]*\r\n)*\r\n")

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-\"$-~]+) HTTP/1\.([01])\r\n")
_METHOD_START = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z\r]")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?\r\n")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#@]+)([/?].*)?", re.DOTALL)

# uri-host [":" port] (RFC 9110 §7.2) without the comma, which only repeated fields that were joined have.
_AUTHORITY = re.compile(rb"(?:\[[0-9A-Za-z:.%_~-]+\]|[0-9A-Za-z!$%&'()*+\-.;=_~]*)(?::[0-9]*)?")

# An enum's member costs as much as a call in Python 3.11; these are looked up for every message.
_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_CLOSING: Final = Framing.CLOSE
_UPGRADING: Final = Framing.UPGRADE


def parse_request_head(raw: bytes, max_fields: int = MAX_FIELD_LINES) -> InboundRequest:
    """Check a request's head and decide its framing (RFC 9112 §3, §5, §6.3).

    `raw` ends with CRLF CRLF; its size is the caller's to judge. Raises RequestMalformed, or NotSupported for
    CONNECT, for methods that llhttp does not know and for transfer codings other than chunked.
    """
    start = _REQUEST_LINE.match(raw)
    if start is None:
        raise RequestMalformed("the request line is not 'METHOD target HTTP/1.1'", hint="RFC 9112 §3")
    method, target, version = start.groups()
    try:
        _requests.check(raw)
    except httptools.HttpParserInvalidMethodError:
        raise NotSupported(f"method {method[:32].decode('ascii')} is not one that is forwarded") from None
    except httptools.HttpParserError as error:
        raise _refusal(raw, error) from None
    if method == b"CONNECT":
        raise NotSupported("CONNECT is not forwarded", hint="devroute is a gateway, not a forward proxy")
    if len(raw) > max_fields * 4 and (count := raw.count(b"\n") - 2) > max_fields:
        raise RequestMalformed(f"{count} field lines; at most {max_fields} are accepted")
    minor = version[0] - 48
    low = raw.lower()
    fields = fields_of(RARE_IN_REQUESTS, low)
    get = fields.get
    coding = get(b"transfer-encoding")
    length = -1
    if (given := get(b"content-length")) is not None:
        length = length_of(given, RequestMalformed)
    if coding is not None:
        if coding.strip(b" \t") != b"chunked":
            raise NotSupported("the only transfer coding accepted is one 'chunked'", hint="RFC 9112 §6.1")
        if length >= 0 or minor == 0:
            raise RequestMalformed(
                "transfer-encoding with content-length, or in HTTP/1.0",
                hint="RFC 9112 §6.1: this is how smuggling starts",
            )
    hosts = values_of(raw, low, b"\nhost:")
    host = hosts[0] if hosts else None
    start_line: bytes = start[0]
    if target[:1] != b"/" or minor == 0:
        target, authority = _origin_form(method, target, host)
        start_line = b"%b %b HTTP/1.1\r\n" % (method, target)
        if minor == 0 and host is None:  # the next hop gets HTTP/1.1, which has to have one
            host = authority
            start_line += b"host: %b\r\n" % authority
    if host is None or len(hosts) > 1:
        raise RequestMalformed(f"{len(hosts)} host fields; HTTP/1.1 has exactly one", hint="RFC 9112 §3.2")
    if host not in _known_hosts and not _is_authority(host):
        raise RequestMalformed("the host field is not a host with or without a port", hint="RFC 9112 §3.2")
    keep_alive = minor == 1  # HTTP/1.0 never: RFC 9112 §9.3
    options: list[bytes] = []
    if (connection := get(b"connection")) is not None:
        options = options_of(connection)
        keep_alive = keep_alive and b"close" not in options
    upgrade = b""
    if coding is not None:
        framing = _CHUNKED
    elif length > 0:
        framing = _LENGTH
    else:
        framing = _NONE
        length = 0
        if b"upgrade" in options and minor == 1 and get(b"upgrade"):
            framing = _UPGRADING
            upgrade = b", ".join(values_of(raw, low, b"\nupgrade:"))
    te = get(b"te")
    ids = values_of(raw, low, b"\nx-request-id:")
    marks = spans_of(low, MATCHED)
    drop = sorted([*marks, *dropped(low, REQUEST_HOP.intersection(fields), options)]) if fields else marks
    return InboundRequest(
        method,
        target,
        minor,
        framing,
        max(length, 0),
        keep_alive,
        minor == 1 and get(b"expect", b"").strip(b" \t") == b"100-continue",
        upgrade,
        te is not None and b"trailers" in (o.partition(b";")[0] for o in options_of(te)),
        b"\n".join(ids),
        values_of(raw, low, _CONTRACT),
        [value_at(raw, first + len(MATCHED) + 1, last - 2) for first, last in marks],
        start_line,
        raw,
        drop,
    )


_CONTRACT: Final = f"\n{CONTRACT}:".encode()

#: Hosts that were judged: a mesh calls a service by few names. Cleared when it is full.
_known_hosts: set[bytes] = set()
_MAX_KNOWN_HOSTS: Final = 1024
_MAX_KNOWN_HOST_BYTES: Final = 260


def _is_authority(host: bytes) -> bool:
    if _AUTHORITY.fullmatch(host.rstrip(b" \t")) is None:
        return False
    if len(_known_hosts) >= _MAX_KNOWN_HOSTS:
        _known_hosts.clear()
    if len(host) <= _MAX_KNOWN_HOST_BYTES:
        _known_hosts.add(host)
    return True


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
    """Refuse what no further byte can make a head, so that its sender need not wait for a timeout.

    Raises RequestMalformed.
    """
    if held.count(b"\n") != held.count(b"\r\n"):
        raise RequestMalformed("a bare LF in the head", hint="RFC 9112 §2.2: lines end with CR LF")
    if _METHOD_START.match(held) is None or (b"\n" in held and _REQUEST_LINE.match(held) is None):
        raise RequestMalformed("the request line is not 'METHOD target HTTP/1.1'", hint="RFC 9112 §3")


def _refusal(raw: bytes, error: Exception) -> RequestMalformed:
    """llhttp's verdict, in other words where we know better ones."""
    problem, hint = _known_fault(raw)
    return RequestMalformed(problem or f"the head is not valid HTTP/1.1: {str(error).lower()}", hint=hint)


def _known_fault(raw: bytes) -> tuple[str, str]:
    """(what, hint) for what is often wrong with lines; ("", "") for anything else."""
    if b"\r\n " in raw or b"\r\n\t" in raw:
        return "a folded field line (obs-fold)", "RFC 9112 §5.2: write it on one line"
    if raw.count(b"\n") != raw.count(b"\r\n") or raw.count(b"\r") != raw.count(b"\r\n"):
        return "a bare CR or LF in the head", "RFC 9112 §2.2: lines end with CR LF"
    return "", ""


def _answer_refusal(raw: bytes) -> UpstreamInvalid:
    problem, hint = _known_fault(raw)
    if not problem:
        lines = raw[:-4].split(b"\r\n")[1:]
        wrong = next(
            (at for at, line in enumerate(lines, 1) if not _FIELD_LINES.fullmatch(line + END_OF_HEAD)), 0
        )
        problem = f"field line {wrong} is not 'name: value'"
    return UpstreamInvalid(f"the answer's head is not valid HTTP/1.1: {problem}", hint=hint)


#: Status lines that were seen: apps have a handful. Cleared when it is full, so that nobody can fill memory.
_status_lines: dict[bytes, tuple[int, int, bytes]] = {}
_MAX_STATUS_LINES: Final = 512
_MAX_KNOWN_LINE: Final = 64


def _parse_status_line(line: bytes) -> tuple[int, int, bytes]:
    """Minor version, status and reason. Raises UpstreamInvalid."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise UpstreamInvalid("the answer does not start with an HTTP/1.1 status line")
    known = (int(match[1]), int(match[2]), match[3] or b"")
    if len(line) <= _MAX_KNOWN_LINE:
        if len(_status_lines) >= _MAX_STATUS_LINES:
            _status_lines.clear()
        _status_lines[line] = known
    return known


def parse_response_head(raw: bytes, request_method: bytes) -> ResponseHead:
    """Check a response's head and decide its framing (RFC 9112 §6.3).

    `raw` ends with CRLF CRLF. Raises UpstreamInvalid.
    """
    start = raw.find(b"\n") + 1
    line = raw[:start]
    known = _status_lines.get(line)
    if known is None:
        known = _parse_status_line(line)
    version, status, reason = known
    if _FIELD_LINES.fullmatch(raw, start) is None:
        raise _answer_refusal(raw)
    if len(raw) > MAX_FIELD_LINES * 4 and (count := raw.count(b"\n") - 2) > MAX_FIELD_LINES:
        raise UpstreamInvalid(f"the answer has {count} field lines; at most {MAX_FIELD_LINES} are accepted")
    low = raw.lower()
    fields = fields_of(OF_RESPONSES, low)
    get = fields.get
    length = -1
    if (given := get(b"content-length")) is not None:
        length = length_of(given, UpstreamInvalid)
    chunked = False
    if (coding := get(b"transfer-encoding")) is not None:
        chunked = True
        if coding.strip(b" \t") != b"chunked":
            raise UpstreamInvalid("the answer has a transfer coding other than one 'chunked'")
        if length >= 0 or version == 0:
            raise UpstreamInvalid("the answer has transfer-encoding with content-length, or in HTTP/1.0")
    keep_alive = version == 1
    options: list[bytes] = []
    if (connection := get(b"connection")) is not None:
        options = options_of(connection)
        keep_alive = b"close" not in options and (keep_alive or b"keep-alive" in options)
    hop = RESPONSE_HOP
    if status < 200:
        hop = SWITCHING_HOP if status == 101 else NO_BODY_HOP
    elif status == 204:
        hop = NO_BODY_HOP
        if chunked or length > 0:
            keep_alive = False  # it may send the body that it announced
    if status == 101:
        framing = _UPGRADING
    elif request_method == b"HEAD" or status == 204 or status == 304 or status < 200:
        framing = _NONE
    elif chunked:
        framing = _CHUNKED
    elif length > 0:
        framing = _LENGTH
    else:
        framing = _NONE if length == 0 else _CLOSING
    if framing is not _LENGTH:
        length = 0
    drop = dropped(low, hop.intersection(fields), options) if fields else []
    return ResponseHead(status, reason, framing, length, keep_alive, raw, drop)


#: Of a head that is remembered; larger ones are rare, and differ.
MAX_REMEMBERED_BYTES: Final = 2048


class ResponseHeadParser:
    """Judges the heads of one app's responses. An app under load says the same thing until the second of its
    date changes, so the last head is remembered, and what was found out about it."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: ResponseHead | None = None

    def parse(self, raw: bytes, request_method: bytes) -> ResponseHead:
        """As parse_response_head; what it returns may be another exchange's, and must not be changed."""
        last = self._last
        if last is not None and last.raw == raw and request_method != b"HEAD":
            return last
        head = parse_response_head(raw, request_method)
        if len(raw) <= MAX_REMEMBERED_BYTES and request_method != b"HEAD":
            self._last = head
        return head
