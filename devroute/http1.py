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


@dataclass(slots=True)
class InboundRequest:
    """A request as a client sent it, checked. `lines` are the start line and the field lines, `drop` the
    indexes of those that end at this hop."""

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
    lines: list[bytes]
    drop: list[int]

    def forward(self) -> RequestHead:
        """The head for the next hop, with fresh hop-by-hop fields and a Via (RFC 9110 §7.6.3).

        Call it once: it takes the lines apart.
        """
        lines = self.lines
        for index in reversed(self.drop):
            del lines[index]
        lines[0] = b"%b %b HTTP/1.1" % (self.method, self.target)
        if self.framing is Framing.UPGRADE:
            lines.append(b"connection: upgrade\r\nupgrade: " + self.upgrade)
        elif self.trailers_ok:
            lines.append(b"connection: te\r\nte: trailers")
        if self.framing is Framing.CHUNKED:
            lines.append(b"transfer-encoding: chunked")
        lines.append(b"via: 1.1 devroute\r\n\r\n")
        return RequestHead(self.method, self.target, self.framing, self.length, b"\r\n".join(lines))


@dataclass(slots=True)
class ResponseHead:
    """A response as an upstream gave it, parsed and checked, nothing removed yet.

    `raw` is the head as it was received, final CRLF CRLF included; `drop` holds the indexes (into its lines,
    the status line being 0) of fields that end at this hop.
    """

    status: int
    reason: bytes
    headers: Headers
    framing: Framing
    length: int
    keep_alive: bool
    raw: bytes
    drop: list[int]

    def end_to_end(self) -> Headers:
        """The fields for the next hop, names in lower case."""
        drop = self.drop
        return [(name.lower(), value) for i, (name, value) in enumerate(self.headers, 1) if i not in drop]

    def forward(self, extra: bytes, *, chunked: bool, close: bool) -> bytes:
        """The head for an HTTP/1.1 client. `extra` is whole field lines, each with its CRLF."""
        lines = self.raw.split(b"\r\n")
        del lines[-2:]
        for index in reversed(self.drop):
            del lines[index]
        lines[0] = b"HTTP/1.1 %d %b" % (self.status, self.reason)
        if chunked:
            lines.append(b"transfer-encoding: chunked")
        if close:
            lines.append(b"connection: close")
        lines.append(extra + b"\r\n")
        return b"\r\n".join(lines)


def split_fields(head: bytes) -> Headers:
    """The field lines of a head that was validated before."""
    fields: Headers = []
    for line in head.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields.append((name, value.strip(b" \t")))
    return fields


# --- llhttp -------------------------------------------------------------------------------------------


class _Fields:
    """What llhttp reports of one head. One object and its parser serve until a head announces a body or the
    connection's end: llhttp waits for either, and a new parser is cheaper than feeding it."""

    __slots__ = ("fields", "parser", "reusable")

    def __init__(self, kind: Callable[[object], Any]) -> None:
        self.fields: Headers = []
        self.reusable = False
        self.parser = kind(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_message_complete(self) -> None:
        self.reusable = self.parser.should_keep_alive()


class _Validator:
    """Runs heads through one kind of httptools parser, reusing it where that is possible."""

    def __init__(self, kind: Callable[[object], Any]) -> None:
        self._kind = kind
        self._fresh()

    def _fresh(self) -> None:
        self._seen = _Fields(self._kind)

    def fields(self, head: bytes) -> Headers:
        """Raises httptools.HttpParserError; an upgrade is no error."""
        seen = self._seen
        fields: Headers = []
        seen.fields = fields
        seen.reusable = False
        try:
            seen.parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            self._fresh()
            return fields
        except httptools.HttpParserError:
            self._fresh()
            raise
        if not seen.reusable:
            self._fresh()
        return fields


_requests = _Validator(httptools.HttpRequestParser)
_responses = _Validator(httptools.HttpResponseParser)

_REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-\"$-~]+) HTTP/1\.([01])\r\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t -~\x80-\xff]*))?\r\n")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#@]+)([/?].*)?", re.DOTALL)

# What the loops below look for. Numbers, so that the common fields cost one dictionary miss.
_HOST, _LENGTH, _CODING, _CONNECTION, _HOP, _UPGRADE, _TE, _EXPECT, _ID, _CONTRACT, _MATCHED = range(11)

_REQUEST_FIELDS: Final = {
    b"host": _HOST,
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"keep-alive": _HOP,
    b"proxy-connection": _HOP,
    b"proxy-authorization": _HOP,
    b"upgrade": _UPGRADE,
    b"te": _TE,
    b"expect": _EXPECT,
    b"x-request-id": _ID,
    b"x-devroute": _CONTRACT,
    b"x-devroute-matched": _MATCHED,
}

_RESPONSE_FIELDS: Final = {
    b"content-length": _LENGTH,
    b"transfer-encoding": _CODING,
    b"connection": _CONNECTION,
    b"keep-alive": _HOP,
    b"proxy-connection": _HOP,
    b"upgrade": _UPGRADE,
    b"x-devroute-result": _HOP,
    b"x-devroute-reason": _HOP,
}

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
    return [option.strip(b" \t") for option in value.lower().split(b",")]


def _named_by_connection(options: list[bytes], fields: Headers) -> list[int]:
    """Indexes of the lines that Connection names (RFC 9110 §7.6.1)."""
    named = {option for option in options if option and option not in _NEVER_DROPPED}
    return [i for i, (name, _) in enumerate(fields, 1) if name.lower() in named] if named else []


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
        fields = _requests.fields(raw)
    except httptools.HttpParserInvalidMethodError:
        raise NotSupported(f"method {method[:32].decode('ascii')} is not one that is forwarded") from None
    except httptools.HttpParserError as error:
        raise _refusal(raw, error) from None
    if method == b"CONNECT":
        raise NotSupported("CONNECT is not forwarded", hint="devroute is a gateway, not a forward proxy")
    if len(fields) > MAX_FIELD_LINES:
        raise RequestMalformed(f"{len(fields)} field lines; at most {MAX_FIELD_LINES} are accepted")
    minor = version[0] - 48
    lines = raw.split(b"\r\n")
    del lines[-2:]
    drop: list[int] = []
    hosts: list[bytes] = []
    contract: list[bytes] = []
    matched: list[bytes] = []
    options: list[bytes] = []
    upgrade = request_id = b""
    length = -1
    chunked = te = expects = False
    for index, (name, value) in enumerate(fields, 1):
        special = _REQUEST_FIELDS.get(name.lower())
        if special is None:
            continue
        if special == _HOST:
            hosts.append(value.strip(b" \t"))
        elif special == _CONTRACT:
            contract.append(value.strip(b" \t"))
        elif special == _MATCHED:
            matched.append(value.strip(b" \t"))
            drop.append(index)
        elif special == _ID:
            request_id = value
        elif special == _LENGTH:
            if length >= 0:
                raise RequestMalformed("content-length is repeated", hint="RFC 9112 §6.3")
            length = _length_of(value, RequestMalformed)
        elif special == _CODING:
            if chunked or value.strip(b" \t").lower() != b"chunked":
                raise NotSupported("the only transfer coding accepted is one 'chunked'", hint="RFC 9112 §6.1")
            chunked = True
            drop.append(index)
        elif special == _EXPECT:
            expects = value.strip(b" \t").lower() == b"100-continue"
        else:
            drop.append(index)
            if special == _CONNECTION:
                options += _options(value)
            elif special == _UPGRADE:
                upgrade = value if not upgrade else upgrade + b", " + value
            elif special == _TE:
                te = te or any(o.partition(b";")[0] == b"trailers" for o in _options(value))
    if chunked and (length >= 0 or minor == 0):
        raise RequestMalformed(
            "transfer-encoding with content-length, or in HTTP/1.0",
            hint="RFC 9112 §6.1: this is how smuggling starts",
        )
    if target[:1] != b"/":
        target = _origin_form(method, target, hosts)
    if len(hosts) != 1 and (minor or hosts):
        raise RequestMalformed(f"{len(hosts)} host fields; HTTP/1.1 has exactly one", hint="RFC 9112 §3.2")
    if options:
        if [o for o in options if o not in (b"close", b"keep-alive", b"upgrade", b"te", b"")]:
            drop = sorted({*drop, *_named_by_connection(options, fields)})
        if b"upgrade" not in options or minor == 0:
            upgrade = b""
        keep_alive = b"close" not in options and (minor == 1 or b"keep-alive" in options)
    else:
        upgrade = b""
        keep_alive = minor == 1
    if chunked:
        framing = Framing.CHUNKED
    elif length > 0:
        framing = Framing.LENGTH
    else:
        framing = Framing.UPGRADE if upgrade else Framing.NONE
    return InboundRequest(
        method, target, minor, framing, max(length, 0), keep_alive, expects and minor == 1,
        upgrade, te, request_id, contract, matched, lines, drop,
    )  # fmt: skip


def _origin_form(method: bytes, target: bytes, hosts: list[bytes]) -> bytes:
    """absolute-form becomes origin-form, asterisk-form stays (RFC 9112 §3.2)."""
    if target == b"*" and method == b"OPTIONS":
        return target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise RequestMalformed("the request target is neither a path nor an http URL", hint="RFC 9112 §3.2")
    authority, path = absolute.groups()
    if hosts and hosts[0].lower() != authority.lower():
        raise RequestMalformed(
            "the request target and the host field name different hosts", hint="RFC 9112 §3.2.2"
        )
    if path is None:
        return b"/"
    return bytes(path) if path[:1] == b"/" else b"/" + bytes(path)


def _refusal(raw: bytes, error: Exception) -> RequestMalformed:
    """llhttp's verdict, with the line at which it stands where we know better words for it."""
    if b"\r\n " in raw or b"\r\n\t" in raw:
        return RequestMalformed("a folded field line (obs-fold)", hint="RFC 9112 §5.2: write it on one line")
    if raw.count(b"\n") != raw.count(b"\r\n") or raw.count(b"\r") != raw.count(b"\r\n"):
        return RequestMalformed("a bare CR or LF in the head", hint="RFC 9112 §2.2: lines end with CR LF")
    return RequestMalformed(f"the head is not valid HTTP/1.1: {str(error).lower()}")


def parse_response_head(raw: bytes, request_method: bytes) -> ResponseHead:
    """Check a response's head and decide its framing (RFC 9112 §6.3).

    `raw` ends with CRLF CRLF. Raises UpstreamInvalid.
    """
    start = _STATUS_LINE.match(raw)
    if start is None:
        raise UpstreamInvalid("the answer does not start with an HTTP/1.1 status line")
    version, code, reason = start.groups()
    status = int(code)
    try:
        fields = _responses.fields(raw)
    except httptools.HttpParserError as error:
        raise UpstreamInvalid(f"the answer's head is not valid HTTP/1.1: {str(error).lower()}") from None
    if len(fields) > MAX_FIELD_LINES:
        raise UpstreamInvalid(
            f"the answer has {len(fields)} field lines; at most {MAX_FIELD_LINES} are accepted"
        )
    drop: list[int] = []
    options: list[bytes] = []
    length = length_at = -1
    chunked = False
    for index, (name, value) in enumerate(fields, 1):
        special = _RESPONSE_FIELDS.get(name.lower())
        if special is None:
            continue
        if special == _LENGTH:
            if length >= 0:
                raise UpstreamInvalid("the answer repeats content-length")
            length, length_at = _length_of(value, UpstreamInvalid), index
        elif special == _CODING:
            if chunked or value.strip(b" \t").lower() != b"chunked":
                raise UpstreamInvalid("the answer has a transfer coding other than one 'chunked'")
            chunked = True
            drop.append(index)
        elif special == _CONNECTION:
            options += _options(value)
            drop.append(index)
        elif special != _UPGRADE or status != 101:
            drop.append(index)
    if chunked and (length >= 0 or version == b"0"):
        raise UpstreamInvalid("the answer has transfer-encoding with content-length, or in HTTP/1.0")
    if [o for o in options if o not in (b"close", b"keep-alive", b"upgrade", b"")]:
        drop = sorted({*drop, *_named_by_connection(options, fields)})
    keep_alive = b"close" not in options and (version == b"1" or b"keep-alive" in options)
    if status == 101:
        framing = Framing.UPGRADE
    elif request_method == b"HEAD" or status in (204, 304) or status < 200:
        framing = Framing.NONE
    elif chunked:
        framing = Framing.CHUNKED
    elif length >= 0:
        framing = Framing.LENGTH if length else Framing.NONE
    else:
        framing = Framing.CLOSE
    if length_at >= 0 and (status == 204 or status < 200):  # RFC 9110 §8.6: such answers have none
        drop = sorted([*drop, length_at])
    if framing is not Framing.LENGTH:
        length = 0
    return ResponseHead(status, reason or b"", fields, framing, length, keep_alive, raw, drop)
