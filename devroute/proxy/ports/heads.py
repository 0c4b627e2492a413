"""Heads of requests as this server reads them, and of responses as it writes them."""

import re
import time
from typing import Final

from devroute.errors import BodyTooLarge, HeadTooLarge, NotSupported, RequestMalformed
from devroute.http.http1.fields import TOKEN
from devroute.http.http1.request import parse_request_head
from devroute.http.message import REASON_PHRASES, InboundRequest
from devroute.proxy.ports.limits import MAX_BODY_BYTES, MAX_FIELD_BYTES, MAX_FIELDS
from devroute.proxy.ports.message import Response
from devroute.timestamps import http_date

_PATH: Final = re.compile(rb"(?:\r\n)*" + TOKEN + rb" (/[^ ?\r\n]*)[ ?]")


def path_of(head: bytes) -> bytes:
    """The path that a request line names, b"" if it names none."""
    found = _PATH.match(head)
    return b"" if found is None else found[1]


def parse_head(head: bytes) -> InboundRequest:
    """Raises RequestMalformed, HeadTooLarge and BodyTooLarge."""
    if len(head) > MAX_FIELD_BYTES and max(map(len, head.split(b"\r\n"))) > MAX_FIELD_BYTES:
        raise HeadTooLarge(f"a header field or the request line is longer than {MAX_FIELD_BYTES} bytes")
    try:
        request = parse_request_head(head, MAX_FIELDS)
    except NotSupported:
        raise RequestMalformed("this is not a valid request", hint="this port speaks HTTP/1.1") from None
    if request.length > MAX_BODY_BYTES:
        raise BodyTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes")
    return request


def write_head(response: Response, *, keep_alive: bool) -> bytes:
    status = b"%d" % response.status
    lines = "".join([f"{name}: {value}\r\n" for name, value in response.fields.items()])
    if response.status != 204:  # RFC 9110 §8.6
        lines += f"content-length: {len(response.body)}\r\n"
    if not keep_alive:
        lines += "connection: close\r\n"
    phrase = REASON_PHRASES.get(status, b"")
    return b"HTTP/1.1 %b %b\r\n%b%b\r\n" % (status, phrase, lines.encode("ascii"), _date.line(time.time()))


class _Date:
    """The header Date (RFC 9110 §6.6.1), written once a second."""

    def __init__(self) -> None:
        self._second = 0
        self._line = b""

    def line(self, now: float) -> bytes:
        second = int(now)
        if second != self._second:
            self._second = second
            self._line = f"date: {http_date(second)}\r\n".encode("ascii")
        return self._line


_date: Final = _Date()
