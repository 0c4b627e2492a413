"""HTTP/2 field lists to HTTP/1.1 heads and back (RFC 9113 §8.3, RFC 9110 §7.6). Pure.

Inside the proxy heads are HTTP/1.1 text, so an HTTP/2 head becomes text and passes the same strict parser as
an HTTP/1.1 head. Fields that RFC 9113 calls malformed are refused before: as text they could become another
line or another field.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from devroute.errors import DevrouteError, HeadTooLarge, NotSupported, RequestMalformed, UpstreamInvalid
from devroute.http.http1.body import ChunkedBody
from devroute.http.http1.fields import TOKEN
from devroute.http.http1.request import parse_request_head
from devroute.http.http1.response import parse_response_head
from devroute.http.message import (
    HEAD_LIMITS,
    REASON_PHRASES,
    Framing,
    Headers,
    HeadLimits,
    InboundRequest,
    RequestHead,
    ResponseHead,
    Span,
)

#: An app's responses differ little: so many heads and trailers, of up to so many bytes, are parsed once.
MAX_REMEMBERED: Final = 1024
MAX_REMEMBERED_BYTES: Final = 1024

#: As decoded by HPACK, not checked.
Fields = Sequence[tuple[bytes, bytes]]

#: Fields that HTTP/2 does not permit (RFC 9113 §8.2.2); `te` may only have the value "trailers".
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"te")
)

#: 16 bytes in base64 (RFC 6455 §4.1).
_WEBSOCKET_KEY: Final = b"ZGV2cm91dGUvaHR0cC8yIQ=="

_NONE: Final = Framing.NONE
_UPGRADE: Final = Framing.UPGRADE
_REQUEST_PSEUDO: Final = frozenset((b":method", b":scheme", b":path", b":authority", b":protocol"))
_RESPONSE_PSEUDO: Final = frozenset((b":status",))
_NO_PSEUDO: Final[frozenset[bytes]] = frozenset()
# A request line, a status line, or the "0" before trailers; it may contain nothing that ends it early.
_START = re.compile(rb"[!-~]+ [!-~]+ HTTP/1\.1|HTTP/1\.1 [1-9][0-9][0-9] [A-Za-z' -]*|0")
_NAMES = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]*")
_TOKEN = re.compile(TOKEN)
_SECTION = re.compile(rb"(?:[!#$%&'*+\-.^_`|~0-9a-z]+: (?:[!-~\x80-\xff][\t -~\x80-\xff]*(?<![\t ]))?\r\n)*")
_STREAMING = re.compile(rb"\ncontent-type:[ \t]*application/(?:grpc|connect\+)", re.IGNORECASE)
_GRPC = re.compile(rb"\ncontent-type:[ \t]*application/grpc(?=[+;\r \t])", re.IGNORECASE)


def is_grpc(head: bytes) -> bool:
    """Whether a head has gRPC's content-type. gRPC-Web does not count: it may use HTTP/1.1."""
    return _GRPC.search(head) is not None


def may_be_idle(head: bytes) -> bool:
    """Whether a request is a stream of messages, of gRPC or Connect, whose client may send none for long."""
    return _STREAMING.search(head) is not None


def _is_short(fields: Fields) -> bool:
    return sum([len(name) + len(value) for name, value in fields]) <= MAX_REMEMBERED_BYTES


def _text(start: bytes, fields: Fields, error: type[DevrouteError]) -> bytes:
    """A head as text. Raises `error` for malformed fields (RFC 9113 §8.2).

    It is not enough that each line is a field: no name may contain a colon, no value the end of a line. White
    space at the ends of a value is removed.
    """
    if _START.fullmatch(start) is None:
        raise error("a pseudo-header field has characters that it may not have", hint="RFC 9113 §8.3")
    section = b"".join([b"%b: %b\r\n" % field for field in fields])
    if _NAMES.fullmatch(b"".join([name for name, _ in fields])) is None:
        raise error("a field name has upper case or characters that no name has", hint="RFC 9113 §8.2.1")
    if _SECTION.fullmatch(section) is None:
        # A grpc-message may end in a space. It may not (§8.2.1), but Envoy and every other peer passes it on.
        section = b"".join([b"%b: %b\r\n" % (name, value.strip(b" \t")) for name, value in fields])
    if _SECTION.fullmatch(section) is None or section.count(b"\n") != len(fields):
        raise error("a field value has control characters", hint="RFC 9113 §8.2.1")
    return b"%b\r\n%b\r\n" % (start, section)


def _split(
    fields: Fields, wanted: frozenset[bytes], error: type[DevrouteError]
) -> tuple[dict[bytes, bytes], Headers]:
    """(pseudo-header fields, other fields). Raises `error` for fields out of place (RFC 9113 §8.3)."""
    pseudo: dict[bytes, bytes] = {}
    rest: Headers = []
    for field in fields:
        name, value = field
        if name[:1] == b":":
            if rest or name in pseudo or name not in wanted:
                raise error("a pseudo-header field is unknown, repeated or late", hint="RFC 9113 §8.3")
            pseudo[name] = value
        elif name in _CONNECTION_SPECIFIC and (name != b"te" or value != b"trailers"):
            raise error(f"{name.decode()} is a field of HTTP/1.1 connections", hint="RFC 9113 §8.2.2")
        else:
            rest.append(field)
    return pseudo, rest


# --- requests -----------------------------------------------------------------------------------------------


def read_request(fields: Fields, *, ended: bool, limits: HeadLimits = HEAD_LIMITS) -> InboundRequest:
    """A client's request. `ended`: it has no body (its HEADERS have END_STREAM). An extended CONNECT is a GET
    that asks for an upgrade (RFC 8441).

    Raises RequestMalformed, HeadTooLarge or NotSupported.
    """
    pseudo, rest = _split(fields, _REQUEST_PSEUDO, RequestMalformed)
    start = _request_line(pseudo)
    protocol = pseudo.get(b":protocol")
    hosts = {value for name, value in rest if name == b"host"}
    if b":authority" in pseudo:
        hosts.add(pseudo[b":authority"])
    if len(hosts) != 1:
        raise RequestMalformed(
            f":authority and host name {len(hosts)} hosts; exactly one is required", hint="RFC 9113 §8.3.1"
        )
    names = {name for name, _ in rest}
    if b"host" in names:
        rest = [field for field in rest if field[0] != b"host"]
    if b"cookie" in names:
        rest = _join_cookies(rest)
    if protocol is not None:
        rest += _upgrade(protocol, names)
    elif not ended and b"content-length" not in names:
        rest.append((b"transfer-encoding", b"chunked"))
    rest.insert(0, (b"host", hosts.pop()))
    raw = _text(start, rest, RequestMalformed)
    if len(raw) > limits.size:
        raise HeadTooLarge(f"the request's head is longer than {limits.size} bytes")
    request = parse_request_head(raw, limits.fields)
    if protocol is not None:
        if ended or request.framing is not _UPGRADE:
            raise RequestMalformed(
                "an extended CONNECT that has a length, or ends at once", hint="RFC 8441 §5"
            )
    elif ended and request.framing is not _NONE:
        raise RequestMalformed("content-length announces a body, but there is none", hint="RFC 9113 §8.1.1")
    request.http2 = True
    return request


def _request_line(pseudo: dict[bytes, bytes]) -> bytes:
    """Without its CRLF; what it consists of is not checked. Raises RequestMalformed or NotSupported."""
    method, protocol = pseudo.get(b":method"), pseudo.get(b":protocol")
    if protocol is not None:
        if method != b"CONNECT" or _TOKEN.fullmatch(protocol) is None:
            raise RequestMalformed("a :protocol without CONNECT, or that is no name", hint="RFC 8441 §4")
        method = b"GET"
    elif method == b"CONNECT":
        raise NotSupported("CONNECT is not forwarded", hint="devroute is a gateway, not a forward proxy")
    if method is None or b":path" not in pseudo or b":scheme" not in pseudo:
        raise RequestMalformed("the request has no :method, :path or :scheme", hint="RFC 9113 §8.3.1")
    return b"%b %b HTTP/1.1" % (method, pseudo[b":path"])


def _upgrade(protocol: bytes, names: set[bytes]) -> Headers:
    """The fields by which HTTP/1.1 asks for what an extended CONNECT does. A WebSocket over HTTP/2 has no key
    (RFC 8441 §5); over HTTP/1.1 any key will do."""
    fields = [(b"connection", b"upgrade"), (b"upgrade", protocol)]
    if protocol.lower() == b"websocket" and b"sec-websocket-key" not in names:
        fields.append((b"sec-websocket-key", _WEBSOCKET_KEY))
    return fields


def _join_cookies(fields: Headers) -> Headers:
    """Join the cookie lines, which HTTP/2 may split (RFC 9113 §8.2.3)."""
    cookies = b"; ".join([value for name, value in fields if name == b"cookie"])
    return [*(field for field in fields if field[0] != b"cookie"), (b"cookie", cookies)]


def write_request(head: RequestHead) -> Headers:
    """A request for an upstream, without the fields of an HTTP/1.1 connection. An upgrade is dropped too:
    HTTP/2 has none (RFC 9113 §8.6), and a server may ignore it (RFC 9110 §7.8)."""
    authority = b""
    rest: Headers = []
    for name, value in head.headers:
        name = name.lower()
        if name == b"host":
            authority = value
        elif name not in _CONNECTION_SPECIFIC:
            rest.append((name, value))
        elif name == b"te" and value.lower() == b"trailers":
            rest.append((name, b"trailers"))
    return [
        (b":method", head.method),
        (b":scheme", b"http"),
        (b":path", head.target),
        (b":authority", authority),
        *rest,
    ]


# --- responses ----------------------------------------------------------------------------------------------


def read_response(fields: Fields, method: bytes, *, ended: bool) -> ResponseHead:
    """An upstream's final or interim response; it may be cached, so never change it. `ended`: its HEADERS
    have END_STREAM.

    An ended head gets "content-length: 0", since HTTP/1.1 has no other way to express that. Raises
    UpstreamInvalid.
    """
    if _is_short(fields):
        return _read_short_response(tuple(fields), method, ended)
    return _read_response(fields, method, ended)


def _read_response(fields: Fields, method: bytes, ended: bool) -> ResponseHead:
    pseudo, rest = _split(fields, _RESPONSE_PSEUDO, UpstreamInvalid)
    status = pseudo.get(b":status", b"")
    if status == b"101":
        raise UpstreamInvalid("the response switches protocols (101), which HTTP/2 does not support")
    if status[:1] != b"1" and not any(name == b"content-length" for name, _ in rest):
        if not ended:
            rest.append((b"transfer-encoding", b"chunked"))
        elif status not in (b"204", b"304") and method != b"HEAD":
            rest.append((b"content-length", b"0"))
    start = b"HTTP/1.1 %b %b" % (status, REASON_PHRASES.get(status, b""))
    head = parse_response_head(_text(start, rest, UpstreamInvalid), method)
    if ended and head.framing is not _NONE:
        raise UpstreamInvalid("the response's content-length announces a body, but there is none")
    return head


def write_response(head: ResponseHead, route_headers: Headers) -> Headers:
    """A response for a client, with `route_headers` at its end. A switch of protocols (101) is a 200, as an
    extended CONNECT gets it (RFC 8441 §5)."""
    if len(head.raw) <= MAX_REMEMBERED_BYTES:
        return [*_write_short_response(head.raw, head.status, head.framing, tuple(head.drop)), *route_headers]
    return _write_response(head) + route_headers


def _write_response(head: ResponseHead) -> Headers:
    fields = [(b":status", b"200" if head.status == 101 else b"%d" % head.status)]
    for field in head.end_to_end():
        name = field[0]
        if name in _CONNECTION_SPECIFIC:
            continue
        fields.append(field)
    if head.framing is _NONE and any(name == b"grpc-status" for name, _ in fields):
        # gRPC's "Trailers-Only" has no content-length; read_response added it.
        fields = [field for field in fields if field[0] != b"content-length"]
    return fields


_read_short_response = lru_cache(MAX_REMEMBERED)(_read_response)


@lru_cache(MAX_REMEMBERED)
def _write_short_response(raw: bytes, status: int, framing: Framing, drop: tuple[Span, ...]) -> Headers:
    return _write_response(ResponseHead(status, b"", framing, 0, True, raw, list(drop)))


# --- trailers -----------------------------------------------------------------------------------------------


def read_trailers(fields: Fields, error: type[DevrouteError]) -> Headers:
    """Raises `error` for fields that trailers may not have (RFC 9110 §6.5.1), and for too many."""
    if _is_short(fields):
        return list(_read_short_trailers(tuple(fields), error))  # type: ignore[arg-type]  # a class has a hash
    return _read_trailers(fields, error)


def _read_trailers(fields: Fields, error: type[DevrouteError]) -> Headers:
    _, rest = _split(fields, _NO_PSEUDO, error)
    text = _text(b"0", rest, error)
    reader = ChunkedBody(error)
    reader.feed(text)
    return reader.trailers


_read_short_trailers = lru_cache(MAX_REMEMBERED)(_read_trailers)


def write_trailers(trailers: Headers) -> Headers:
    return [(name.lower(), value) for name, value in trailers]
