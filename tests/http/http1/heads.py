"""Heads as tests write them, and strategies for their fields."""

from hypothesis import strategies as st

from devroute.http.http1.request import parse_request_head
from devroute.http.message import InboundRequest

HOP = {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"upgrade"}
OURS = {b"x-devroute-matched", b"x-devroute-failover", b"x-devroute-host", b"x-devroute-subject"}
ENDS_HERE = HOP | {b"transfer-encoding"} | OURS
PROTECTED = {b"host", b"content-length", b"x-devroute", b"x-request-id"}


def head(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join((start, *lines)) + b"\r\n\r\n"


def parse(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> InboundRequest:
    """Such a head, with a Host."""
    return parse_request_head(head(b"host: foo", *lines, start=start))


NAMES = st.one_of(
    st.sampled_from(
        [
            b"X-A",
            b"x-a",
            b"x-b",
            b"Cookie",
            b"via",
            b"X-Request-Id",
            b"keep-alive",
            b"x-devroute-matched",
            b"x-devroute-failover",
            b"x-devroute-subject",
            b"X-Devroute-Host",
            b"Proxy-Connection",
            b"proxy-authorization",
            b"x-hop",
            b"Trailer",
            b"Expect",
            b"X-Devroute",
        ]
    ),
    st.text("!#$%&'*+.^_`|~0123456789ABCXYZabcxyz-", min_size=1, max_size=12).map(str.encode),
)
VALUES = st.text([chr(code) for code in (9, *range(32, 127), *range(128, 256))], max_size=12).map(
    lambda text: text.encode("latin-1").strip(b" \t")
)
OPTIONS = st.lists(
    st.sampled_from(
        [
            b"close",
            b"Keep-Alive",
            b"X-A",
            b"x-hop",
            b"Cookie",
            b"host",
            b"content-length",
            b"upgrade",
            b"x-devroute",
            b"X-Request-ID",
            b"te",
            b"host: foo",
            b"",
            b"via",
            b"transfer-encoding",
        ]
    ),
    max_size=4,
)
SPACE = st.sampled_from([b"", b" ", b"\t", b"  "])


def as_line(field: tuple[bytes, bytes], before: bytes, after: bytes) -> bytes:
    return field[0] + b":" + before + field[1] + after


def many_options(count: int) -> tuple[bytes, list[bytes]]:
    """A Connection line with so many options of three letters, and the options."""
    letters = b"abcdefghijklmnopqrstuvwxyz0123456789"
    names = [bytes((a, b, c)) for a in letters for b in letters for c in letters][:count]
    return b"connection: " + b",".join(names), names
