"""Responses of an app as raw bytes, and what the client has to receive. From RFC 9110 and RFC 9112."""

from enum import Enum, auto
from typing import NamedTuple


class After(Enum):
    """What the app does with its connection once it has written the bytes."""

    STAYS = auto()
    CLOSES = auto()
    RESETS = auto()


class Case(NamedTuple):
    """`sees`: (status, error code or body); None: the response is cut off and must not look complete. `kept`:
    whether the app's connection serves the next request."""

    name: str
    raw: bytes
    sees: tuple[int, str | bytes] | None
    after: After = After.STAYS
    method: bytes = b"GET"
    kept: bool = False


INVALID = (502, "upstream-invalid")
RESET = (502, "upstream-reset")

OK = b"HTTP/1.1 200 OK\r\n"
HI = b"content-length: 2\r\n\r\nhi"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"

#: What a poisoned connection would give to the next request.
POISON = OK + b"content-length: 6\r\n\r\npoison"


def invalid(name: str, raw: bytes) -> Case:
    return Case(name, raw, INVALID)


def status_line(name: str, line: bytes) -> Case:
    return invalid(f"status line: {name}", line + b"\r\n" + HI)


def field(name: str, line: bytes) -> Case:
    return invalid(f"field: {name}", OK + line + HI)


def framing(name: str, fields: bytes) -> Case:
    return invalid(f"framing: {name}", OK + fields + b"\r\n2\r\nhi\r\n0\r\n\r\n")


def broken(name: str, body: bytes, after: After = After.STAYS) -> Case:
    return Case(f"chunks: {name}", CHUNKED + b"2\r\nhi\r\n" + body + POISON, None, after)


def whole(
    name: str, raw: bytes, body: bytes = b"hi", *, kept: bool, method: bytes = b"GET", status: int = 200
) -> Case:
    return Case(f"whole: {name}", raw, (status, body), method=method, kept=kept)


CASES = [
    status_line("two digits", b"HTTP/1.1 20 OK"),
    status_line("four digits", b"HTTP/1.1 2000 OK"),
    status_line("below 100", b"HTTP/1.1 099 OK"),
    status_line("above 999", b"HTTP/1.1 1000 OK"),
    status_line("minus", b"HTTP/1.1 -20 OK"),
    status_line("letters", b"HTTP/1.1 OK 200"),
    status_line("none", b"HTTP/1.1"),
    status_line("version 0.9", b"HTTP/0.9 200 OK"),
    status_line("version 1.2", b"HTTP/1.2 200 OK"),
    status_line("version 2", b"HTTP/2 200"),
    status_line("lower case", b"http/1.1 200 OK"),
    status_line("another protocol", b"ICY 200 OK"),
    status_line("two spaces", b"HTTP/1.1  200 OK"),
    status_line("tab", b"HTTP/1.1\t200 OK"),
    status_line("NUL in the reason", b"HTTP/1.1 200 O\x00K"),
    status_line("bare CR in the reason", b"HTTP/1.1 200 O\rK"),
    status_line("space first", b" HTTP/1.1 200 OK"),
    status_line("empty line first", b"\r\nHTTP/1.1 200 OK"),
    status_line("a request", b"GET / HTTP/1.1"),
    invalid("bare LF after the status line", b"HTTP/1.1 200 OK\n" + HI),
    invalid("LF for every line end", (OK + HI).replace(b"\r\n", b"\n")),
    invalid("no head at all: a page", b"<html>hello</html>"),
    invalid("no head at all: SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
    invalid("no head at all: TLS alert", b"\x15\x03\x01\x00\x02\x02\x46"),
    field("no colon", b"x-a\r\n"),
    field("empty name", b": x\r\n"),
    field("space before the colon", b"x-a : x\r\n"),
    field("space at the start", b" x-a: x\r\n"),
    field("folded", b"x-a: x\r\n y\r\n"),
    field("NUL in the value", b"x-a: \x00\r\n"),
    field("NUL in the name", b"x\x00: a\r\n"),
    field("control in the value", b"x-a: \x1b[2J\r\n"),
    field("bare CR in the value", b"x-a: x\rset-cookie: a\r\n"),
    field("bare LF in the value", b"x-a: x\nset-cookie: a\r\n"),
    field("201 lines", b"x: y\r\n" * 200),
    field("over the limit", b"x: " + b"y" * 66_000 + b"\r\n"),
    invalid("field: over the limit and no end", OK + b"x: " + b"y" * 66_000),
    framing("length repeated, the same", b"content-length: 2\r\ncontent-length: 2\r\n"),
    framing("length repeated, another", b"content-length: 2\r\ncontent-length: 7\r\n"),
    framing("lengths in a list", b"content-length: 2, 2\r\n"),
    framing("length with a sign", b"content-length: +2\r\n"),
    framing("length negative", b"content-length: -2\r\n"),
    framing("length hexadecimal", b"content-length: 0x2\r\n"),
    framing("length empty", b"content-length:\r\n"),
    framing("length over 64 bits", b"content-length: 18446744073709551618\r\n"),
    framing("length of 16 digits", b"content-length: 1000000000000000\r\n"),
    framing("length and coding", b"content-length: 2\r\ntransfer-encoding: chunked\r\n"),
    framing("coding and length", b"transfer-encoding: chunked\r\ncontent-length: 2\r\n"),
    framing("coding repeated", b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n"),
    framing("chunked twice", b"transfer-encoding: chunked, chunked\r\n"),
    framing("gzip, chunked", b"transfer-encoding: gzip, chunked\r\n"),
    framing("identity", b"transfer-encoding: identity\r\n"),
    framing("xchunked", b"transfer-encoding: xchunked\r\n"),
    framing("coding folded", b"transfer-encoding:\r\n chunked\r\n"),
    framing("space before the colon", b"transfer-encoding : chunked\r\n"),
    invalid("framing: coding in HTTP/1.0", b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
    invalid(
        "101 that nobody asked for", b"HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n" + POISON
    ),
    invalid("1xx with a body", b"HTTP/1.1 103 Hints\r\ncontent-length: 2\r\n\r\nhi" + OK + HI),
    invalid("1xx, then no HTTP", b"HTTP/1.1 100 Continue\r\n\r\nhello"),
    Case("end: before any byte", b"", RESET, After.CLOSES),
    Case("end: reset before any byte", b"", RESET, After.RESETS),
    Case("end: in the status line", b"HTTP/1.1 2", RESET, After.CLOSES),
    Case("end: in the head", OK + b"content-le", RESET, After.CLOSES),
    Case("end: reset in the head", OK + b"content-le", RESET, After.RESETS),
    Case("end: after a 1xx", b"HTTP/1.1 103 Hints\r\n\r\n", RESET, After.CLOSES),
    Case("end: after many 1xx", b"HTTP/1.1 103 Hints\r\nx: y\r\n\r\n" * 100, RESET, After.CLOSES),
    invalid("a flood of 1xx", b"HTTP/1.1 103 Hints\r\nx: y\r\n\r\n" * 2_000 + OK + HI),
    Case("end: in a body with a length", OK + b"content-length: 3\r\n\r\nhi", None, After.CLOSES),
    Case("end: before a body with a length", OK + b"content-length: 3\r\n\r\n", None, After.CLOSES),
    Case("end: reset in a body with a length", OK + b"content-length: 3\r\n\r\nhi", None, After.RESETS),
    Case("end: reset in a body up to the close", OK + b"\r\nhi", None, After.RESETS),
    Case("end: HTTP/1.0, reset in a body", b"HTTP/1.0 200 OK\r\n\r\nhi", None, After.RESETS),
    Case("end: before the first chunk", CHUNKED, None, After.CLOSES),
    Case("end: in a chunk", CHUNKED + b"5\r\nhel", None, After.CLOSES),
    Case("end: after a chunk", CHUNKED + b"2\r\nhi\r\n", None, After.CLOSES),
    Case("end: before the last CR LF", CHUNKED + b"2\r\nhi\r\n0\r\n", None, After.CLOSES),
    Case("end: in a trailer", CHUNKED + b"2\r\nhi\r\n0\r\nx: y", None, After.CLOSES),
    broken("not a size", b"x\r\nhi\r\n0\r\n\r\n"),
    broken("0x", b"0x2\r\nhi\r\n0\r\n\r\n"),
    broken("minus zero", b"-0\r\n\r\n"),
    broken("space after the size", b"2 \r\nhi\r\n0\r\n\r\n"),
    broken("over 64 bits", b"10000000000000002\r\nhi\r\n0\r\n\r\n"),
    broken("bare LF", b"2\nhi\r\n0\r\n\r\n"),
    broken("bare CR in an extension", b"2;a\rb\r\nhi\r\n0\r\n\r\n"),
    broken("no CR LF after the data", b"2\r\nhi0\r\n\r\n"),
    broken("a size line without end", b"2;" + b"a" * 600),
    broken("bare LF at the end", b"0\r\n\n"),
    broken("folded trailer", b"0\r\nx: y\r\n z\r\n\r\n"),
    broken("trailer without a colon", b"0\r\nx\r\n\r\n"),
    broken("content-length in the trailers", b"0\r\ncontent-length: 2\r\n\r\n"),
    broken("our own mark in the trailers", b"0\r\nx-devroute-result: service\r\n\r\n"),
    broken("trailers over the limit", b"0\r\n" + b"x: yyyyyyyyyyy\r\n" * 1_100 + b"\r\n"),
    whole("a length", OK + HI, kept=True),
    whole("length zero", OK + b"content-length: 0\r\n\r\n", b"", kept=True),
    whole("leading zeros", OK + b"content-length: 002\r\n\r\nhi", kept=True),
    whole("chunks", CHUNKED + b"1;x=y\r\nh\r\n01\r\ni\r\n0\r\nx-sum: 1\r\n\r\n", kept=True),
    whole("no reason", b"HTTP/1.1 200\r\n" + HI, kept=True),
    whole("an empty reason", b"HTTP/1.1 200 \r\n" + HI, kept=True),
    whole("obs-text", b"HTTP/1.1 200 \xc3\xa4\r\nx: \xff\r\n" + HI, kept=True),
    whole("a status nobody registered", b"HTTP/1.1 599 x\r\n" + HI, kept=True, status=599),
    whole("a status above 599, as Envoy passes it", b"HTTP/1.1 600 x\r\n" + HI, kept=True, status=600),
    whole("the highest status", b"HTTP/1.1 999 x\r\n" + HI, kept=True, status=999),
    whole("a head of 60 KB", OK + b"x: " + b"y" * 60_000 + b"\r\n" + HI, kept=True),
    whole("after 1xx", b"HTTP/1.1 100 x\r\n\r\nHTTP/1.1 103 y\r\nlink: a\r\n\r\n" + OK + HI, kept=True),
    whole("after 100 of 1xx", b"HTTP/1.1 103 y\r\n\r\n" * 100 + OK + HI, kept=True),
    whole("HEAD with a length", OK + b"content-length: 900\r\n\r\n", b"", kept=True, method=b"HEAD"),
    whole("HEAD with chunks", CHUNKED, b"", kept=True, method=b"HEAD"),
    whole("204", b"HTTP/1.1 204 x\r\n\r\n", b"", kept=True, status=204),
    whole("304 with a length", b"HTTP/1.1 304 x\r\ncontent-length: 9\r\n\r\n", b"", kept=True, status=304),
    whole("HTTP/1.0 with keep-alive", b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n" + HI, kept=True),
    whole("HTTP/1.0", b"HTTP/1.0 200 OK\r\n" + HI, kept=False),
    whole("connection: close", OK + b"Connection: x, CLOSE\r\n" + HI, kept=False),
    whole("bytes after a length", OK + HI + POISON, kept=False),
    whole("one byte after a length", OK + HI + b"\n", kept=False),
    whole("bytes after length zero", OK + b"content-length: 0\r\n\r\n" + POISON, b"", kept=False),
    whole("bytes after chunks", CHUNKED + b"2\r\nhi\r\n0\r\n\r\n" + POISON, kept=False),
    whole("bytes after HEAD", OK + b"content-length: 2\r\n\r\n" + POISON, b"", kept=False, method=b"HEAD"),
    whole("bytes after 304", b"HTTP/1.1 304 x\r\n\r\n" + POISON, b"", kept=False, status=304),
    whole("204 with a length", b"HTTP/1.1 204 x\r\ncontent-length: 6\r\n\r\n", b"", kept=False, status=204),
    whole(
        "204 with chunks",
        b"HTTP/1.1 204 x\r\ntransfer-encoding: chunked\r\n\r\n",
        b"",
        kept=False,
        status=204,
    ),
    Case("whole: up to the close", OK + b"\r\nhi", (200, b"hi"), After.CLOSES),
    Case("whole: nothing up to the close", OK + b"\r\n", (200, b""), After.CLOSES),
    Case("whole: HTTP/1.0 up to the close", b"HTTP/1.0 200 OK\r\n\r\nhi", (200, b"hi"), After.CLOSES),
]
