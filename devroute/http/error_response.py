"""Errors as HTTP responses: a JSON body, x-devroute-result and x-devroute-reason. Pure.

The only place that writes them: as bytes for HTTP/1.1, as fields for HTTP/2 and gRPC, as headers for aiohttp.
"""

import json

from devroute.errors import DevrouteError, TokenInvalid
from devroute.headers import NO_RETRY, REASON, RESULT
from devroute.http.grpc import status_trailers
from devroute.http.message import REASON_PHRASES, Headers
from devroute.quoting import printable


def error_body(error: DevrouteError, request_id: str | None = None) -> bytes:
    """One line of JSON, with the same keys for every error."""
    return json.dumps(error.as_dict(request_id), ensure_ascii=False).encode() + b"\n"


def error_headers(error: DevrouteError) -> dict[str, str]:
    """The headers of each error response, save for those that frame its body."""
    headers = {"content-type": "application/json", "cache-control": "no-store", **_outcome(error)}
    if isinstance(error, TokenInvalid):
        headers["www-authenticate"] = 'Bearer realm="devroute"'  # RFC 9110 §11.6.1
    return headers


def http1_error(error: DevrouteError, *, close: bool) -> bytes:
    """A whole response, for a request without an id."""
    body = error_body(error)
    return http1_error_head(error, len(body), close=close) + body


def http1_error_head(error: DevrouteError, length: int, *, close: bool) -> bytes:
    """The head of a response whose body is `length` bytes of JSON."""
    headers = {"content-length": length, **error_headers(error)}
    if close:
        headers["connection"] = "close"
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    phrase = REASON_PHRASES.get(b"%d" % error.status, b"Error")
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (error.status, phrase, lines.encode("ascii"))


def http2_error_head(error: DevrouteError, length: int, *, grpc: bool) -> Headers:
    """The head of a response whose body is `length` bytes of JSON; for gRPC the whole response
    ("Trailers-Only")."""
    if grpc:
        head = [(b":status", b"200"), (b"content-type", b"application/grpc"), *status_trailers(error)]
        return head + _fields(_outcome(error))
    head = [(b":status", b"%d" % error.status), (b"content-length", b"%d" % length)]
    return head + _fields(error_headers(error))


def _outcome(error: DevrouteError) -> dict[str, str]:
    outcome = {RESULT: "error", REASON: printable(error.message)}
    if error.target is not None:  # it may have seen the request
        outcome[NO_RETRY] = "true"
    return outcome


def _fields(headers: dict[str, str]) -> Headers:
    return [(name.encode("ascii"), value.encode("ascii")) for name, value in headers.items()]
