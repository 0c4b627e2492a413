"""Request heads whose lines were passed before, and whose lines the caller has: judged like any other."""

import pytest

from devroute.errors import NotSupported, RequestMalformed
from devroute.http.http1.request import (
    MAX_START_BYTES,
    MAX_STARTS,
    known_starts,
    lines_of_head,
    parse_request_head,
)
from tests.http.http1.heads import head, parse

LINES = (b"accept: */*", b"x-request-id: 0c7d-1", b"x-b3-traceid: 80f1", b"x-devroute: {}")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "an empty line within the head|method GET is not one"),
        (b": x", "invalid header token"),
        (b" x: y", "obs-fold"),
        (b"x : y", "invalid header token"),
        (b"x: y\nz: a", "a bare CR or LF"),
        (b"x: y\x00", "invalid header value char"),
        (b"x-request-id : 1", "invalid header token"),
        (b"x-request-id", "invalid header token"),
        (b"x-request-idX", "invalid header token"),
        (b"x-request-id: a\rb", "a bare CR or LF"),
        (b"x-request-id: a\x00", "invalid header value char"),
        (b"authorization: a\nb: c", "a bare CR or LF"),
        (b"x-b3-spanid: \x7f", "invalid header value char"),
        (b"content-length: 1, 2", "invalid character in content-length"),
        (b"transfer-encoding: x", "invalid `transfer-encoding`"),
    ],
)
def test_a_line_is_refused_among_lines_that_were_passed_before(line: bytes, reason: str) -> None:
    """llhttp need not look at a head of which it has passed every line before."""
    for _ in range(2):
        assert parse(*LINES).request_id == b"0c7d-1"
        for at in range(len(LINES) + 1):
            with pytest.raises((RequestMalformed, NotSupported), match=reason):
                parse(*LINES[:at], line, *LINES[at:])
    assert parse(*LINES).contract == [b"{}"]


def test_a_method_that_is_refused_with_fields_is_refused_again_after_a_head_without() -> None:
    """llhttp takes `PRI *` for the start of HTTP/2's preface, and waits for the rest."""
    for lines in ((), LINES, ()):
        with pytest.raises(RequestMalformed, match="preface" if lines else "request target"):
            parse_request_head(head(*lines, start=b"PRI * HTTP/1.1"))
    parse(*LINES)
    with pytest.raises(RequestMalformed, match="preface"):
        parse(*LINES, start=b"PRI * HTTP/1.1")


@pytest.mark.parametrize("fields", [b"", b"x: y\r\n", b"host: foo\r\n"])
def test_two_heads_are_not_one(fields: bytes) -> None:
    """An agent's head for the mesh is one: the rest of it would be a request that nothing has judged."""
    one = head(b"host: foo")
    for _ in range(2):
        parse_request_head(one)
        with pytest.raises(RequestMalformed, match="empty line"):
            parse_request_head(one + b"GET /x HTTP/1.1\r\n" + fields + b"\r\n")
        with pytest.raises(RequestMalformed, match="empty line"):
            parse_request_head(one + b"GET /x HTTP/1.1")


def test_the_lines_are_those_of_one_whole_head() -> None:
    raw = head(b"host: foo", b"a: b")
    assert lines_of_head(raw) == [b"GET / HTTP/1.1", b"host: foo", b"a: b", b"", b""]
    for other in (raw[:-1], raw[:-2], raw + b"a", raw + raw, raw + b"\r\n", b"\r\n" + raw, b"", b"\r\n"):
        assert lines_of_head(other) is None
    assert parse_request_head(raw, lines=lines_of_head(raw)).forward() == parse_request_head(raw).forward()


def test_a_target_with_a_query_is_not_remembered() -> None:
    for target in (b"/a?token=secret", b"/a"):
        parse(start=b"GET " + target + b" HTTP/1.1")
    assert b"GET /a HTTP/1.1" in known_starts
    assert not [line for line in known_starts if b"?" in line]


def test_so_many_and_so_long_request_lines_are_remembered() -> None:
    for number in range(2 * MAX_STARTS):
        assert parse(start=b"GET /%d HTTP/1.1" % number).target == b"/%d" % number
        assert len(known_starts) <= MAX_STARTS
    long = b"GET /".ljust(MAX_START_BYTES, b"a") + b" HTTP/1.1"
    assert parse(start=long).target == long[4:-9]
    assert long not in known_starts
