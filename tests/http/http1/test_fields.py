"""Field lines: what is remembered of those that were read, and that it changes no head's meaning."""

import pytest

from devroute.errors import UpstreamInvalid
from devroute.http.http1.fields import (
    HOST,
    MAX_REMEMBERED,
    MAX_REMEMBERED_BYTES,
    OTHER,
    REQUEST_ID,
    REQUEST_KINDS,
    RESPONSE_KINDS,
    TRACEPARENT,
    FieldReader,
)
from devroute.http.http1.request import parse_request_head
from devroute.http.http1.response import parse_response_head
from tests.http.http1.heads import head


def test_a_line_is_remembered_with_its_value() -> None:
    reader = FieldReader(REQUEST_KINDS)
    read = reader.read(b"Host: \tfoo ")
    assert (read.kind, read.name, read.value) == (HOST, b"host", b"foo")
    assert reader.known == {b"Host: \tfoo ": read}


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "proxy-authorization",
        "cookie",
        "X-Devroute-Authorization",
        "x-request-id",
        "traceparent",
    ],
)
def test_what_is_secret_or_differs_in_each_request_is_not_remembered(name: str) -> None:
    reader = FieldReader(REQUEST_KINDS)
    reader.read(f"{name}: secret".encode())
    assert not reader.known


def test_cookies_that_a_response_sets_are_not_remembered() -> None:
    reader = FieldReader(RESPONSE_KINDS)
    assert reader.read(b"Set-Cookie: session=secret").kind == OTHER
    assert not reader.known


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"x-request-id: 0c7dd1ef-BD9c", REQUEST_ID),
        (b"x-request-id:\t1 ", REQUEST_ID),
        (b"traceparent: 00-80f1-e457-01", TRACEPARENT),
        (b"x-b3-traceid: 80f1", OTHER),
        (b"authorization: abc", OTHER),
        (b"traceparent:00-80f1-e457-01", None),
        (b"X-request-id: 1", None),
        (b"x-request-id: a b", None),
        (b"x-request-id: \xe9", None),
        (b"x-request-id: \x00", None),
        (b"x-request-id: ", None),
        (b"x-request-id : 1", None),
        (b"x-request-idX", None),
        (b" x-request-id: 1", None),
        (b"cookie: a=b", None),
        (b"accept: a", None),
        (b"host: foo", None),
        (b":", None),
        (b"", None),
    ],
)
def test_a_line_with_an_id_is_read_as_any_other(line: bytes, kind: int | None) -> None:
    reader = FieldReader(REQUEST_KINDS)
    found = reader.read_id(line)
    assert (None if found is None else found.kind) == kind
    assert not reader.known
    if found is not None:
        read = reader.read(line)
        assert read.kind == kind
        assert kind == TRACEPARENT or (read.name, read.value) == (found.name, found.value)


def test_so_many_and_so_long_lines_are_remembered() -> None:
    reader = FieldReader(REQUEST_KINDS)
    most = 0
    for number in range(3 * MAX_REMEMBERED):
        reader.read(b"x-number: %d" % number)
        most = max(most, len(reader.known))
    assert most == MAX_REMEMBERED
    long = b"x-long: ".ljust(MAX_REMEMBERED_BYTES + 1, b"x")
    reader.read(long)
    reader.read(long[:-1])
    assert long not in reader.known
    assert long[:-1] in reader.known


def test_a_line_that_was_read_before_ends_where_it_stands() -> None:
    lines = (b"x-devroute-matched: foo", b"te: trailers", b"accept: */*")
    for fields in (lines, lines[::-1], lines[1:] + lines[:1], lines):
        raw = head(b"host: foo", *fields)
        request = parse_request_head(raw)
        dropped = {raw[first:last] for first, last in request.drop}
        assert dropped == {b"x-devroute-matched: foo\r\n", b"te: trailers\r\n"}
        assert request.matched == [b"foo"]


def test_what_a_client_spells_otherwise_than_sidecars_is_none_of_theirs() -> None:
    for via in (b"X-Devroute-Via: b", b"x-devroute-via:b", b"x-devroute-via:  c", b"x-devroute-via: b"):
        request = parse_request_head(head(b"host: foo", via, b"x-devroute-via: d"))
        assert request.via == {b"x-devroute-via: b": b"b", b"x-devroute-via:  c": b"c"}.get(via, b"d")
    spelled = parse_request_head(head(b"host: foo", b"x-devroute-trace: 1", b"traceparent: 2"))
    other = parse_request_head(head(b"host: foo", b"X-devroute-trace: 1", b"Traceparent: 2"))
    assert (spelled.trace, spelled.traceparent) == (b"1", True)
    assert (other.trace, other.traceparent) == (None, False)


def test_a_malformed_line_is_refused_each_time() -> None:
    raw = head(b"x: 1", b"y : 2", start=b"HTTP/1.1 200 OK")
    for _ in range(2):
        with pytest.raises(UpstreamInvalid, match="field line 2 is not"):
            parse_response_head(raw, b"GET")
