"""Responses that a rule or a user makes: framed by what they are (RFC 9110 §6.4.1)."""

from collections.abc import Callable, Iterable

from devroute.errors import FaultInjected, UpstreamInvalid
from devroute.headers import RULE
from devroute.http.error_response import error_body
from devroute.http.grpc import CODES, UNKNOWN, status_trailers
from devroute.http.http1.response import parse_response_head
from devroute.http.message import REASON_PHRASES, Headers, RequestHead, ResponseHead, without_rule
from devroute.inspector.rules.settings import MAX_FIELD_BYTES, MAX_FIELDS
from devroute.quoting import printable
from devroute.upstream.interface import ResponseSink, UpstreamStream
from devroute.upstream.made_response import BODYLESS, Made, MadeStream, made
from devroute.upstream.quota import RefusedStream


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
    return made(raw, method, body, trailers)


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
    parsed = parse_response_head(without_rule(head.raw)[:-2] + line, method)
    parsed.by_rule = printable(text)
    parsed.outcome = head.outcome
    return parsed


class RespondUpstream:
    """Responds to each request for `service` with what `make` makes for it, and sends it nowhere."""

    def __init__(self, make: Callable[[RequestHead], Made], service: str) -> None:
        self._make = make
        self._outcome = "laptop", f"{service} answered by this laptop"

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        try:
            made = self._make(head)
        except UpstreamInvalid as error:
            return RefusedStream(sink, error)
        made.head.outcome = self._outcome  # for a program of this laptop; the proxy says so of others
        return MadeStream(made, sink)
