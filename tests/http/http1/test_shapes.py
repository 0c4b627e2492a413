"""Request heads whose fields differ from earlier ones in ids alone: judged, and read, as line by line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import DevrouteError, NotSupported, RequestMalformed
from devroute.http.http1.request import known_request, lines_of_head, parse_request_head
from devroute.http.http1.shapes import MAX_SHAPE_BYTES, MAX_SHAPES, Shapes
from devroute.http.message import MAX_FIELD_LINES, InboundRequest
from tests.http.http1.heads import head
from tests.support.examples import examples

FIELDS = (
    b"host: foo",
    b"x-request-id: 0c7dd1ef-bd9c-4bf2",
    b"accept: */*",
    b"x-devroute-matched: foo",
    b"traceparent: 00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01",
    b"x-b3-traceid:80f1 ",
    b"x-devroute-via: a",
    b'x-devroute: {"foo": "alice"}',
)
RAW = head(*FIELDS)


#: Not from __slots__, which a compiled class does not have.
MEMBERS = (
    *(
        "contract",
        "drop",
        "expects_continue",
        "framing",
        "http2",
        "keep_alive",
        "length",
        "matched",
        "method",
    ),
    *("minor", "raw", "request_id", "start_line", "target", "trace", "traceparent", "trailers_ok", "upgrade"),
    "via",
)


def read(raw: bytes) -> list[object]:
    """All of a request, or why there is none; by its shape, if that is known."""
    try:
        return _members(parse_request_head(raw))
    except DevrouteError as error:
        return [type(error), error.message]


def read_lines(raw: bytes) -> list[object]:
    """The same, line by line."""
    lines = raw.split(b"\r\n") if raw.endswith(b"\r\n\r\n") else None
    try:
        return _members(parse_request_head(raw, lines=lines))
    except DevrouteError as error:
        return [type(error), error.message]


def _members(request: InboundRequest) -> list[object]:
    return [getattr(request, name) for name in MEMBERS] + [request.forward().wire]


@pytest.fixture(autouse=True)
def known() -> None:
    """What has read RAW twice knows its lines, and its shape."""
    for _ in range(2):
        read_lines(RAW)
    assert known_request(RAW, MAX_FIELD_LINES) is not None


def test_a_head_is_read_by_its_shape_whatever_its_ids_and_its_request_line() -> None:
    for raw in (
        RAW,
        RAW.replace(b"0c7d", b"AZ-9"),
        RAW.replace(b"80f198ee", b"00000000"),
        RAW.replace(b"80f1 ", b"abcd "),
        RAW.replace(b"GET /", b"POST /orders/17"),
        RAW.replace(b"GET /", b"GET /orders?page=2"),
    ):
        request = known_request(raw, MAX_FIELD_LINES)
        assert request is not None
        assert _members(request) == read_lines(raw)
    assert parse_request_head(RAW.replace(b"0c7d", b"AZ-9")).request_id == b"AZ-9d1ef-bd9c-4bf2"


@pytest.mark.parametrize(
    "raw",
    [
        RAW.replace(b"0c7d", b"0c d"),
        RAW.replace(b"0c7d", b"0c_d"),
        RAW.replace(b"0c7d", b"0\r\nd"),
        RAW.replace(b"0c7d", b"\xe9c7d"),
        RAW.replace(b"0c7dd1ef", b"c:\r\nte: "),
        RAW.replace(b"80f1 ", b"     "),
        RAW.replace(b"x-request-id", b"X-Request-Id"),
        RAW.replace(b"accept: */*", b"accept: *\r*"),
        RAW.replace(b"accept: */*", b"accept : */"),
        RAW.replace(b"accept: */*", b"te: trailer"),
        RAW.replace(b"HTTP/1.1", b"HTTP/1.0"),
        RAW.replace(b"GET /", b"GET http://foo/"),
        RAW.replace(b"GET /", b"OPTIONS *"),
        RAW[:-2],
        RAW[:-4],
        RAW + b"\r\n",
        RAW + RAW,
        b"\r\n" + RAW,
    ],
)
def test_anything_else_is_read_line_by_line(raw: bytes) -> None:
    assert known_request(raw, MAX_FIELD_LINES) is None
    assert read(raw) == read_lines(raw)


def test_a_request_line_is_judged_beside_known_fields() -> None:
    for line, error in (
        (b"GET  / HTTP/1.1", RequestMalformed),
        (b"GET / HTTP/1.1 ", RequestMalformed),
        (b"GET /\n HTTP/1.1", RequestMalformed),
        (b"", RequestMalformed),
        (b"CONNECT / HTTP/1.1", NotSupported),
        (b"BREW / HTTP/1.1", NotSupported),
    ):
        raw = head(*FIELDS, start=line)
        with pytest.raises(error):
            known_request(raw, MAX_FIELD_LINES)
        assert read(raw) == read_lines(raw)


def test_the_limit_of_field_lines_holds_for_known_shapes() -> None:
    assert known_request(RAW, len(FIELDS)) is not None
    assert known_request(RAW, len(FIELDS) - 1) is None
    with pytest.raises(RequestMalformed, match="at most 7"):
        parse_request_head(RAW, len(FIELDS) - 1)


@pytest.mark.parametrize(
    "line",
    [
        b"content-length: 0",
        b"transfer-encoding: chunked",
        b"connection: x-b3-traceid",
        b"te: trailers",
        b"expect: 100-continue",
        b"x-request-id: another",
        b"authorization: Bearer of-a-secret",
        b"cookie: a=b",
    ],
)
def test_fields_with_a_part_in_framing_or_with_secrets_are_read_each_time(line: bytes) -> None:
    raw = head(*FIELDS, line)
    for _ in range(3):
        read_lines(raw)
        assert known_request(raw, MAX_FIELD_LINES) is None


@examples(300)
@given(st.integers(0, len(RAW) - 1), st.integers(0, 255), st.integers(0, 255), st.integers(0, 2))
def test_a_head_with_any_bytes_changed_is_read_as_line_by_line(
    at: int, first: int, second: int, size: int
) -> None:
    """`size`: of what two bytes take the place of."""
    raw = RAW[:at] + bytes((first, second)) + RAW[at + size :]
    read(RAW)
    assert read(raw) == read_lines(raw)


def test_a_shape_holds_no_id() -> None:
    raw = head(b"host: foo", b"authorization: abcdef", b"x-request-id: 12345")
    shapes = Shapes()
    request = parse_request_head(raw, lines=lines_of_head(raw))
    start = raw.index(b"authorization")
    lines = [(start, start + 23), (start + 23, start + 44)]
    assert [raw[first:last] for first, last in lines] == [
        b"authorization: abcdef\r\n",
        b"x-request-id: 12345\r\n",
    ]
    shapes.remember(request, raw.index(b"host"), lines, 1)
    (shape,) = shapes.by_length.values()
    fields = raw[raw.index(b"host") :].replace(b"abcdef", b"ABCDEF").replace(b"12345", b"54321")
    assert shape.request_id(fields) == b"54321"


def test_so_many_and_so_long_shapes_are_remembered() -> None:
    shapes = Shapes()
    for number in range(2 * MAX_SHAPES):
        raw = head(b"host: foo", b"a: " + b"b" * number)
        shapes.remember(parse_request_head(raw), 16, [], -1)
        assert 0 < len(shapes.by_length) <= MAX_SHAPES
    long = head(b"host: foo", b"a: " + b"b" * MAX_SHAPE_BYTES)
    shapes.remember(parse_request_head(long), 16, [], -1)
    assert max(shapes.by_length) <= MAX_SHAPE_BYTES
