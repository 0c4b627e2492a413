"""Responses that a rule or a user makes: framed by what they are (RFC 9110 §6.4.1), and sent as fast as the
client takes them.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

from devroute.errors import FaultInjected, UpstreamInvalid
from devroute.headers import RULE
from devroute.http.error_response import error_body
from devroute.http.grpc import CODES, UNKNOWN, status_trailers
from devroute.http.http1.response import parse_response_head
from devroute.http.message import REASON_PHRASES, Framing, Headers, RequestHead, ResponseHead, without_rule
from devroute.inspector.rules.settings import MAX_FIELD_BYTES, MAX_FIELDS
from devroute.quoting import printable
from devroute.upstream.interface import DiscardedRequest, ResponseSink, UpstreamStream
from devroute.upstream.quota import RefusedStream

#: Statuses whose responses have no body (RFC 9110 §15.3.5, §15.3.6, §15.4.5).
BODYLESS: Final = frozenset((204, 205, 304))
#: Bytes of a body that are sent before the client may pause it again.
PIECE: Final = 64 * 1024

_NONE: Final = Framing.NONE


class Made(NamedTuple):
    """A whole response to one request."""

    head: ResponseHead
    body: bytes
    trailers: Headers


def make_response(
    method: bytes, status: int, fields: Iterable[tuple[bytes, bytes]], body: bytes, trailers: Headers
) -> Made:
    """`fields` without those that frame the body, which are added: none for a status without a body, the
    length that GET would have for HEAD, chunks where there are trailers. Raises UpstreamInvalid."""
    listed = [b"%b: %b\r\n" % field for field in fields]
    lines = b"".join(listed)
    if len(listed) > MAX_FIELDS or len(lines) > MAX_FIELD_BYTES + 4 * MAX_FIELDS:
        raise UpstreamInvalid(
            f"the response has more than {MAX_FIELDS} fields or {MAX_FIELD_BYTES >> 10} KiB of them"
        )
    if status in BODYLESS:
        body, trailers = b"", []
        framing = b"content-length: 0\r\n" if status == 205 else b""
    elif trailers and method != b"HEAD":
        framing = b"transfer-encoding: chunked\r\n"
    else:
        framing = b"content-length: %d\r\n" % len(body)
    phrase = REASON_PHRASES.get(b"%d" % status, b"Made")
    raw = b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (status, phrase, lines, framing)
    head = parse_response_head(raw, method)
    if head.framing is _NONE:
        body, trailers = b"", []
    return Made(head, body, trailers)


def failure(request: RequestHead, status: int, grpc: bool, label: str) -> Made:
    """The response of `fail: STATUS`; for gRPC the status that stands for it."""
    error = FaultInjected(f"failed with {status} by rule '{label}' of the laptop")
    if grpc:
        trailers = {**dict(status_trailers(error)), b"grpc-status": b"%d" % CODES.get(status, UNKNOWN)}
        fields = [(b"content-type", b"application/grpc"), *trailers.items()]
        return make_response(request.method, 200, fields, b"", [])
    return make_response(
        request.method, status, [(b"content-type", b"application/json")], error_body(error), []
    )


def marked(head: ResponseHead, method: bytes, text: str) -> ResponseHead:
    """The head with what a rule did: as a header for the proxy, and for this process."""
    line = f"{RULE}: {printable(text)}\r\n\r\n".encode("ascii")
    made = parse_response_head(without_rule(head.raw)[:-2] + line, method)
    made.by_rule = printable(text)
    return made


class RespondUpstream:
    """Responds to each request with what `make` makes for it, and sends it nowhere."""

    def __init__(self, make: Callable[[RequestHead], Made]) -> None:
        self._make = make

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        try:
            return MadeStream(self._make(head), sink)
        except UpstreamInvalid as error:
            return RefusedStream(sink, error)


class MadeStream(DiscardedRequest):
    """Sends a response once open() has returned; ignores the request's body."""

    def __init__(self, made: Made, sink: ResponseSink) -> None:
        self._made = made
        self._sink = sink
        self._sent = -1  # bytes of the body; -1 before the head
        self._paused = False
        self._cancelled = False
        self._handle = asyncio.get_running_loop().call_soon(self._send)

    def _send(self) -> None:
        head, body, trailers = self._made
        if self._sent < 0:
            self._sent = 0
            self._sink.on_head(head)
        while self._sent < len(body):
            if self._paused or self._cancelled:
                return
            piece = body[self._sent : self._sent + PIECE]
            self._sent += len(piece)
            self._sink.on_data(piece)
        if not self._cancelled:
            self._cancelled = True
            self._sink.on_end(trailers)

    def cancel(self) -> None:
        self._cancelled = True
        self._handle.cancel()

    def pause_response(self) -> None:
        self._paused = True

    def resume_response(self) -> None:
        self._paused = False
        if self._sent >= 0 and not self._cancelled:
            self._handle.cancel()
            self._handle = asyncio.get_running_loop().call_soon(self._send)
