"""HTTP/1.1 heads: parsed strictly, judged once, rewritten once (RFC 9112, RFC 9110 §7.6). Pure.

llhttp (through httptools) validates every byte of a head; this module adds what a gateway must decide itself:
the framing of the body, which fields end here, and what smuggling would need. Bodies are counted in body.py.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Final

import httptools

from devroute.errors import DevrouteError, NotSupported, RequestMalformed, UpstreamInvalid

#: Field lines in order, names as they were received (compare with .lower()).
Headers = list[tuple[bytes, bytes]]

#: Envoy's default limit is 60 KiB for all of a request's head; what it lets through, we can read.
MAX_HEAD_BYTES: Final = 64 * 1024

#: Envoy's default is 100 field lines; the rest is room for what meshes add.
MAX_FIELD_LINES: Final = 200

#: RFC 9112 §6.2 sets no limit; 15 digits stay an exact float everywhere and are more than any disk holds.
MAX_LENGTH_DIGITS: Final = 15

END_OF_HEAD: Final = b"\r\n\r\n"


class Framing(Enum):
    """How a body's end is found (RFC 9112 §6.3)."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()
    UPGRADE = auto()


@dataclass(slots=True)
class RequestHead:
    """A request as an upstream gets it: hop-by-hop fields gone, framing decided.

    `wire` is the head as it stands on an HTTP/1.1 connection or in an OPEN frame, final CRLF CRLF included.
    `length` is the body's length in bytes where framing is LENGTH, else 0.
    """

    method: bytes
    target: bytes
    framing: Framing
    length: int
    wire: bytes

    @property
    def headers(self) -> Headers:
        """The field lines of `wire`; split on each call, since most requests pass without anybody looking."""
        return split_fields(self.wire)


#: Where a field line starts and where the next one does, as offsets into a head.
Span = tuple[int, int]


@dataclass(slots=True)
class InboundRequest:
    """A request as a client sent it, checked. `drop` are the spans of the fields that end at this hop."""

    method: bytes
    target: bytes
    minor: int
    framing: Framing
    length: int
    keep_alive: bool
    expects_continue: bool
    upgrade: bytes
    trailers_ok: bool
    request_id: bytes
    contract: list[bytes]
    matched: list[bytes]
    start_line: bytes
    raw: bytes
    drop: list[Span]

    def forward(self) -> RequestHead:
        """The head for the next hop, with fresh hop-by-hop fields and a Via (RFC 9110 §7.6.3)."""
        framing = self.framing
        if framing is _UPGRADING:
            extra = b"connection: upgrade\r\nupgrade: %b\r\n%b" % (self.upgrade, _VIA)
        elif self.trailers_ok:
            extra = b"connection: te\r\nte: trailers\r\n" + _VIA
        else:
            extra = _VIA
        if framing is _CHUNKED:
            extra = b"transfer-encoding: chunked\r\n" + extra
        wire = _without(self.raw, self.drop, self.start_line, extra)
        return RequestHead(self.method, self.target, framing, self.length, wire)


@dataclass(slots=True)
class ResponseHead:
    """A response as an upstream gave it, parsed and checked, nothing removed yet.

    `raw` is the head as it was received, final CRLF CRLF included; `drop` holds the spans of the field lines
    that end at this hop.
    """

    status: int
    reason: bytes
    framing: Framing
    length: int
    keep_alive: bool
    raw: bytes
    drop: list[Span]

    @property
    def headers(self) -> Headers:
        """All field lines; split on each call."""
        return split_fields(self.raw)

    def end_to_end(self) -> Headers:
        """The fields for the next hop, names in lower case."""
        kept = _without(self.raw, self.drop, b"\r\n", b"\r\n")
        return [(name.lower(), value) for name, value in split_fields(kept)]

    def forward(self, extra: bytes, *, chunked: bool, close: bool) -> bytes:
        """The head for an HTTP/1.1 client. `extra` is whole field lines, each with its CRLF."""
        if chunked:
            extra += b"transfer-encoding: chunked\r\n"
        if close:
            extra += b"connection: close\r\n"
        start = b"HTTP/1.1 %d %b\r\n" % (self.status, self.reason)
        return _without(self.raw, self.drop, start, extra + b"\r\n")


def _without(raw: bytes, drop: list[Span], start_line: bytes, end: bytes) -> bytes:
    """A head with another start line, without some of its field lines, and with `end` for its empty line."""
    at = raw.index(b"\n") + 1
    if not drop:
        return b"%b%b%b" % (start_line, raw[at:-2], end)
    pieces = [start_line]
    for first, last in drop:
        pieces.append(raw[at:first])
        at = last
    pieces.append(raw[at:-2])
    pieces.append(end)
    return b"".join(pieces)


def split_fields(head: bytes) -> Headers:
    """The field lines of a head that was validated before."""
    fields: Headers = []
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields.append((name, value.strip(b" \t")))
    return fields


# --- llhttp -------------------------------------------------------------------------------------------


class _Validator:
    """Runs heads through one kind of httptools parser, for its verdict only: without callbacks for fields
    that costs a quarter. A parser serves until a head announces a body or the connection's end: llhttp waits
    for either, and a new parser is cheaper than feeding it."""

    def __init__(self, kind: Callable[[object], Any]) -> None:
        self._kind = kind
        self._reusable = False
        self._parser = kind(self)

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
                self._parser = self._kind(self)


_requests = _Validator(httptools.HttpRequestParser)
_responses = _Validator(httptools.HttpResponseParser)

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

_VIA: Final = b"via: 1.1 devroute\r\n\r\n"

# The fields that mean something here. One search over the head in lower case finds those that are there, with
# their values; a loop over all fields would cost three times as much.
_REQUEST_FIELD = re.compile(
    rb"\n(host|x-(?:devroute(?:-matched)?|request-id)|con(?:tent-length|nection)|t(?:e|ransfer-encoding)|expect"
    rb"|upgrade|keep-alive|proxy-(?:connection|authorization)):[ \t]*([^\r]*)"
)
_RESPONSE_FIELD = re.compile(
    rb"\n(con(?:tent-length|nection)|transfer-encoding|keep-alive|upgrade|proxy-connection"
    rb"|x-devroute-(?:result|reason)):[ \t]*([^\r]*)"
)

#: Fields that a Connection option may not take away: without them the message would mean something else.
_NEVER_DROPPED: Final = frozenset(
    (b"host", b"content-length", b"x-devroute", b"x-request-id", b"te", b"close")
)


def _length_of(value: bytes, error: type[DevrouteError]) -> int:
    value = value.strip(b" \t")
    if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
        raise error("content-length is not a plain decimal number", hint="RFC 9110 §8.6")
    return int(value)


def _options(value: bytes) -> list[bytes]:
    if value == b"keep-alive" or value == b"close":
        return [value]
    return [option.strip(b" \t") for option in value.lower().split(b",")]


def _spans(low: bytes, name: bytes) -> list[Span]:
    """Where the lines of a field stand. `low` is the head in lower case."""
    needle = b"\n" + name + b":"
    at = low.find(needle)
    if at < 0:
        return []
    end = low.find(b"\n", at + 1)
    spans = [(at + 1, end + 1)]
    while (at := low.find(needle, end)) >= 0:
        end = low.find(b"\n", at + 1)
        spans.append((at + 1, end + 1))
    return spans


def _named_by_connection(options: list[bytes], low: bytes) -> list[Span]:
    """The lines that Connection names (RFC 9110 §7.6.1)."""
    return [
        span
        for option in {o for o in options if o and b":" not in o and o not in _NEVER_DROPPED}
        for span in _spans(low, option)
    ]


def _value(raw: bytes, low: bytes, needle: bytes) -> bytes:
    """A field's first value as it was written; `needle` is LF name colon, and it is there."""
    first = low.find(needle) + len(needle)
    return raw[first : low.find(b"\r", first)].strip(b" \t")


def parse_request_head(raw: bytes) -> InboundRequest:
    """Check a request's head and decide its framing (RFC 9112 §3, §5, §6.3).

    `raw` ends with CRLF CRLF. Raises RequestMalformed, or NotSupported for CONNECT, for methods that llhttp
    does not know and for transfer codings other than chunked.
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
    if len(raw) > MAX_FIELD_LINES * 4 and (count := raw.count(b"\n") - 2) > MAX_FIELD_LINES:
        raise RequestMalformed(f"{count} field lines; at most {MAX_FIELD_LINES} are accepted")
    minor = version[0] - 48
    hosts: list[bytes] = []
    contract: list[bytes] = []
    matched: list[bytes] = []
    options: list[bytes] = []
    ending: list[bytes] = []  # the names of fields that end here
    upgrade = request_id = b""
    length = -1
    chunked = te = expects = False
    low = raw.lower()
    for name, value in _REQUEST_FIELD.findall(low):
        if name == b"host":
            hosts.append(value.rstrip(b" \t"))
        elif name == b"x-devroute":
            contract.append(value)
        elif name == b"x-devroute-matched":
            matched.append(value.rstrip(b" \t"))
            ending.append(name)
        elif name == b"x-request-id":
            request_id = value
        elif name == b"content-length":
            if length >= 0:
                raise RequestMalformed("content-length is repeated", hint="RFC 9112 §6.3")
            length = _length_of(value, RequestMalformed)
        elif name == b"transfer-encoding":
            if chunked or value.rstrip(b" \t") != b"chunked":
                raise NotSupported("the only transfer coding accepted is one 'chunked'", hint="RFC 9112 §6.1")
            chunked = True
            ending.append(name)
        elif name == b"expect":
            expects = value.rstrip(b" \t") == b"100-continue"
        else:
            ending.append(name)
            if name == b"connection":
                options += _options(value)
            elif name == b"upgrade":
                upgrade = value if not upgrade else upgrade + b", " + value
            elif name == b"te":
                te = te or any(o.partition(b";")[0] == b"trailers" for o in _options(value))
    if contract:
        contract[0] = _value(raw, low, b"\nx-devroute:")
    if request_id:
        request_id = _value(raw, low, b"\nx-request-id:")
    if chunked and (length >= 0 or minor == 0):
        raise RequestMalformed(
            "transfer-encoding with content-length, or in HTTP/1.0",
            hint="RFC 9112 §6.1: this is how smuggling starts",
        )
    start_line: bytes = start[0]
    if target[:1] != b"/" or minor == 0:
        target, authority = _origin_form(method, target, hosts)
        start_line = b"%b %b HTTP/1.1\r\n" % (method, target)
        if minor == 0 and not hosts:  # the next hop gets HTTP/1.1, which has to have one
            hosts.append(authority)
            start_line += b"host: %b\r\n" % authority
    if len(hosts) != 1:
        raise RequestMalformed(f"{len(hosts)} host fields; HTTP/1.1 has exactly one", hint="RFC 9112 §3.2")
    if _AUTHORITY.fullmatch(hosts[0]) is None:
        raise RequestMalformed("the host field is not a host with or without a port", hint="RFC 9112 §3.2")
    if not ending:
        drop = []
    elif len(ending) == 1:
        drop = _spans(low, ending[0])
    else:
        drop = sorted(span for name in set(ending) for span in _spans(low, name))
    keep_alive = minor == 1
    if options:
        if [o for o in options if o not in (b"close", b"keep-alive", b"upgrade", b"te", b"")]:
            drop = sorted({*drop, *_named_by_connection(options, low)})
        keep_alive = minor == 1 and b"close" not in options  # HTTP/1.0 never: RFC 9112 §9.3
    if upgrade:
        asked = b"upgrade" in options and minor == 1 and not chunked and length <= 0
        upgrade = _value(raw, low, b"\nupgrade:") if asked else b""
    if chunked:
        framing = _CHUNKED
    elif length > 0:
        framing = _LENGTH
    else:
        framing = _UPGRADING if upgrade else _NONE
        length = 0
    return InboundRequest(
        method, target, minor, framing, max(length, 0), keep_alive, expects and minor == 1,
        upgrade, te, request_id, contract, matched, start_line, raw, drop,
    )  # fmt: skip


def _origin_form(method: bytes, target: bytes, hosts: list[bytes]) -> tuple[bytes, bytes]:
    """(target, authority): absolute-form becomes origin-form, asterisk-form stays (RFC 9112 §3.2)."""
    if target[:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
        return target, b""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise RequestMalformed("the request target is neither a path nor an http URL", hint="RFC 9112 §3.2")
    authority, path = absolute.groups()
    if hosts and hosts[0].lower() != authority.lower():
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
    """llhttp's verdict, with the line at which it stands where we know better words for it."""
    if b"\r\n " in raw or b"\r\n\t" in raw:
        return RequestMalformed("a folded field line (obs-fold)", hint="RFC 9112 §5.2: write it on one line")
    if raw.count(b"\n") != raw.count(b"\r\n") or raw.count(b"\r") != raw.count(b"\r\n"):
        return RequestMalformed("a bare CR or LF in the head", hint="RFC 9112 §2.2: lines end with CR LF")
    return RequestMalformed(f"the head is not valid HTTP/1.1: {str(error).lower()}")


#: Status lines that were seen: apps have a handful. Cleared when it is full, so that nobody can fill memory.
_status_lines: dict[bytes, tuple[int, int, bytes]] = {}
_MAX_STATUS_LINES: Final = 512


def _parse_status_line(line: bytes) -> tuple[int, int, bytes]:
    """Minor version, status and reason. Raises UpstreamInvalid."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise UpstreamInvalid("the answer does not start with an HTTP/1.1 status line")
    if len(_status_lines) >= _MAX_STATUS_LINES:
        _status_lines.clear()
    known = _status_lines[line] = (int(match[1]), int(match[2]), match[3] or b"")
    return known


def parse_response_head(raw: bytes, request_method: bytes) -> ResponseHead:
    """Check a response's head and decide its framing (RFC 9112 §6.3).

    `raw` ends with CRLF CRLF. Raises UpstreamInvalid.
    """
    line = raw[: raw.find(b"\n") + 1]
    known = _status_lines.get(line)
    if known is None:
        known = _parse_status_line(line)
    version, status, reason = known
    try:
        _responses.check(raw)
    except httptools.HttpParserError as error:
        raise UpstreamInvalid(f"the answer's head is not valid HTTP/1.1: {str(error).lower()}") from None
    if len(raw) > MAX_FIELD_LINES * 4 and (count := raw.count(b"\n") - 2) > MAX_FIELD_LINES:
        raise UpstreamInvalid(f"the answer has {count} field lines; at most {MAX_FIELD_LINES} are accepted")
    options: list[bytes] = []
    ending: list[bytes] = []
    length = -1
    chunked = False
    low = raw.lower()
    for name, value in _RESPONSE_FIELD.findall(low):
        if name == b"content-length":
            if length >= 0:
                raise UpstreamInvalid("the answer repeats content-length")
            length = _length_of(value, UpstreamInvalid)
        elif name == b"transfer-encoding":
            if chunked or value.rstrip(b" \t") != b"chunked":
                raise UpstreamInvalid("the answer has a transfer coding other than one 'chunked'")
            chunked = True
            ending.append(name)
        elif name == b"connection":
            options += _options(value)
            ending.append(name)
        elif name != b"upgrade" or status != 101:
            ending.append(name)
    if chunked and (length >= 0 or version == 0):
        raise UpstreamInvalid("the answer has transfer-encoding with content-length, or in HTTP/1.0")
    if length >= 0 and (status == 204 or status < 200):
        ending.append(b"content-length")  # RFC 9110 §8.6: such answers have none
    if not ending:
        drop = []
    elif len(ending) == 1:
        drop = _spans(low, ending[0])
    else:
        drop = sorted(span for name in set(ending) for span in _spans(low, name))
    keep_alive = version == 1
    if options:
        if [o for o in options if o not in (b"close", b"keep-alive", b"upgrade", b"")]:
            drop = sorted({*drop, *_named_by_connection(options, low)})
        keep_alive = b"close" not in options and (keep_alive or b"keep-alive" in options)
    if status == 204 and (chunked or length > 0):
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
    return ResponseHead(status, reason, framing, length, keep_alive, raw, drop)
