"""HTTP/2 field lists to HTTP/1.1 heads and back (RFC 9113 §8.3, RFC 9110 §7.6). Pure.

Between the two halves of a relay heads are HTTP/1.1 text, so an HTTP/2 head becomes text and passes the same
strict parser as everybody else's. Nothing may pass that would become two lines there.
"""

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Final

from devroute.body import ChunkedBody
from devroute.errors import DevrouteError, HeadTooLarge, NotSupported, RequestMalformed, UpstreamInvalid
from devroute.http1 import (
    MAX_HEAD_BYTES,
    Framing,
    Headers,
    InboundRequest,
    RequestHead,
    ResponseHead,
    parse_request_head,
    parse_response_head,
)

#: As the h2 library gives them: pseudo-header fields first, names in lower case.
Fields = Sequence[tuple[bytes, bytes]]

#: What a reader of HTTP/2 must not see (RFC 9113 §8.2.2). `te` may only say "trailers".
_CONNECTION_SPECIFIC: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"te")
)

_NONE: Final = Framing.NONE
_COLON: Final = ord(":")
_REASONS: Final = {b"%d" % status: status.phrase.encode() for status in HTTPStatus}
_GRPC = re.compile(rb"\ncontent-type:[ \t]*application/grpc(?=[+;\r \t])", re.IGNORECASE)


def is_grpc(head: bytes) -> bool:
    """Whether a head is gRPC's, and not gRPC-Web's, which travels over HTTP/1.1 too."""
    return _GRPC.search(head) is not None


def _text(lines: list[bytes], error: type[DevrouteError]) -> bytes:
    """The lines as a head. A CR or LF inside one would make it two, so they are counted."""
    raw = b"\r\n".join(lines) + b"\r\n\r\n"
    breaks = len(lines) + 1
    if raw.count(b"\n") != breaks or raw.count(b"\r") != breaks:
        raise error("a line break in a field", hint="RFC 9113 §8.2.1")
    return raw


# --- requests -----------------------------------------------------------------------------------------------


def read_request(fields: Fields, *, ended: bool) -> InboundRequest:
    """A client's request. `ended`: it has no body (END_STREAM on its HEADERS).

    Raises RequestMalformed, HeadTooLarge or NotSupported.
    """
    method = target = authority = b""
    lines = [b"", b""]
    framed = ended
    for name, value in fields:
        if name[0] == _COLON:
            if name == b":path":
                target = value
            elif name == b":method":
                method = value
            elif name == b":authority":
                authority = value
        elif name == b"host":
            authority = authority or value
        else:
            framed = framed or name == b"content-length"
            lines.append(b"%b: %b" % (name, value))
    if method == b"CONNECT":
        raise NotSupported("CONNECT is not forwarded", hint="devroute is a gateway, not a forward proxy")
    lines[0] = b"%b %b HTTP/1.1" % (method, target)
    lines[1] = b"host: " + authority
    if not framed:
        lines.append(b"transfer-encoding: chunked")
    raw = _text(lines, RequestMalformed)
    if len(raw) > MAX_HEAD_BYTES:
        raise HeadTooLarge(f"the request's head is longer than {MAX_HEAD_BYTES} bytes")
    request = parse_request_head(raw)
    if ended and request.framing is not _NONE:
        raise RequestMalformed("content-length announces a body, but there is none", hint="RFC 9113 §8.1.1")
    return request


def write_request(head: RequestHead) -> Headers:
    """A request for an upstream. What belongs to an HTTP/1.1 connection stays behind; so does an upgrade,
    which HTTP/2 does not have (RFC 9113 §8.6) and which a server may ignore (RFC 9110 §7.8)."""
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
    """An upstream's response or its 1xx. `ended`: nothing follows (END_STREAM on its HEADERS).

    An ended head gets "content-length: 0", for HTTP/1.1 has no other way to say so. Raises UpstreamInvalid.
    """
    status = b""
    lines = [b""]
    framed = False
    for name, value in fields:
        if name[0] == _COLON:
            status = value
        else:
            framed = framed or name == b"content-length"
            lines.append(b"%b: %b" % (name, value))
    if status == b"101":
        raise UpstreamInvalid(
            "the answer switches protocols (101), which HTTP/2 cannot", hint="RFC 9113 §8.6"
        )
    lines[0] = b"HTTP/1.1 %b %b" % (status, _REASONS.get(status, b""))
    if not framed and status[:1] != b"1":
        if not ended:
            lines.append(b"transfer-encoding: chunked")
        elif status not in (b"204", b"304") and method != b"HEAD":
            lines.append(b"content-length: 0")
    head = parse_response_head(_text(lines, UpstreamInvalid), method)
    if ended and head.framing is not _NONE:
        raise UpstreamInvalid("the answer's content-length announces a body, but there is none")
    return head


def write_response(head: ResponseHead, marks: Headers) -> Headers:
    """A response for a client, with `marks` at its end."""
    fields = [(b":status", b"%d" % head.status)]
    for field in head.end_to_end():
        name = field[0]
        if name in _CONNECTION_SPECIFIC:
            continue
        fields.append(field)
    if head.framing is _NONE and any(name == b"grpc-status" for name, _ in fields):
        # gRPC's "Trailers-Only" has no length; it was added on its way through HTTP/1.1.
        fields = [field for field in fields if field[0] != b"content-length"]
    return fields + marks


# --- trailers -----------------------------------------------------------------------------------------------


def read_trailers(fields: Fields, error: type[DevrouteError]) -> Headers:
    """Raises `error` for what may not stand in a trailer section or is too much of it (RFC 9110 §6.5.1)."""
    text = _text([b"0", *(b"%b: %b" % field for field in fields)], error)
    reader = ChunkedBody(error)
    reader.feed(text)
    return reader.trailers


def write_trailers(trailers: Headers) -> Headers:
    return [(name.lower(), value) for name, value in trailers]
