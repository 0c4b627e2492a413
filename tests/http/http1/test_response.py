"""Response heads: their framing, what is forwarded of them, and the memory of the last one."""

import contextlib
import itertools
from time import process_time

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import DevrouteError, UpstreamInvalid
from devroute.http.http1.response import MAX_REMEMBERED_BYTES, ResponseHeadParser, parse_response_head
from devroute.http.message import Framing, Headers
from tests.http.http1.heads import NAMES, OPTIONS, PROTECTED, SPACE, VALUES, as_line, head, many_options
from tests.support.examples import examples


@examples(40)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), OPTIONS, SPACE, SPACE)
def test_a_valid_response_is_forwarded_with_exactly_its_end_to_end_fields(
    fields: Headers, options: list[bytes], before: bytes, after: bytes
) -> None:
    fields = [
        *fields,
        (b"Connection", b",".join(options)),
        (b"X-Devroute-Result", b"x"),
        (b"X-Devroute-Unsent", b"delayed connect error"),  # on which a sidecar would send the request again
        (b"Upgrade", b"h2c"),
    ]
    lines = [as_line(field, before, after) for field in fields]
    response = parse_response_head(head(*lines, b"content-length: 2", start=b"HTTP/1.1 200 Fine"), b"GET")

    here = {b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"x-devroute-result"}
    here |= {b"x-devroute-unsent"}
    named = {option.lower() for option in options} - PROTECTED - {b"te"}
    kept = [(name.lower(), value) for name, value in fields if name.lower() not in here | named]
    assert response.end_to_end() == [*kept, (b"content-length", b"2")]
    passed = response.forward(b"x-mark: 1\r\n", chunked=False, close=True)
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method=b"GET", target=b"/", headers=[(b"host", b"foo")]))
    reader.receive_data(passed + b"hi")
    event = reader.next_event()
    assert isinstance(event, h11.Response)
    assert (event.status_code, event.reason) == (200, b"Fine")
    extra = [(b"x-mark", b"1"), (b"connection", b"close")]
    assert sorted(event.headers) == sorted([*kept, (b"content-length", b"2"), *extra])


@pytest.mark.parametrize(
    ("status", "method", "lines", "framing"),
    [
        (200, b"GET", [], Framing.CLOSE),
        (200, b"GET", [b"content-length: 0"], Framing.NONE),
        (200, b"GET", [b"content-length: 9"], Framing.LENGTH),
        (200, b"GET", [b"transfer-encoding: chunked"], Framing.CHUNKED),
        (200, b"HEAD", [b"content-length: 9"], Framing.NONE),
        (200, b"HEAD", [b"transfer-encoding: chunked"], Framing.NONE),
        (200, b"HEAD", [], Framing.NONE),
        (204, b"GET", [], Framing.NONE),
        (304, b"GET", [b"content-length: 9"], Framing.NONE),
        (103, b"GET", [], Framing.NONE),
        (101, b"GET", [b"upgrade: x", b"connection: upgrade"], Framing.UPGRADE),
    ],
)
def test_the_framing_of_a_response(status: int, method: bytes, lines: list[bytes], framing: Framing) -> None:
    response = parse_response_head(head(*lines, start=b"HTTP/1.1 %d x" % status), method)
    assert response.framing is framing
    assert response.length == (9 if framing is Framing.LENGTH else 0)


@pytest.mark.parametrize(
    "before",
    [
        head(b"connection: upgrade", b"upgrade: x", start=b"HTTP/1.1 101 x"),
        head(b"content-length: 5", start=b"HTTP/1.1 200 x"),
        head(start=b"HTTP/1.1 200 x"),
        head(start=b"HTTP/1.0 200 x"),
        head(start=b"HTTP/1.1 204 x"),
        head(start=b"HTTP/1.1 100 x"),
        head(b"x : y", start=b"HTTP/1.1 200 x"),
    ],
)
def test_no_head_affects_the_next_one(before: bytes) -> None:
    def parse_it() -> None:
        with contextlib.suppress(DevrouteError):
            parse_response_head(before, b"GET")

    parse_it()
    fine = parse_response_head(head(b"x: y", b"content-length: 0", start=b"HTTP/1.1 200 x"), b"GET")
    assert fine.end_to_end() == [(b"x", b"y"), (b"content-length", b"0")]
    parse_it()
    with pytest.raises(UpstreamInvalid):
        parse_response_head(head(b"x : y", start=b"HTTP/1.1 200 x"), b"GET")


def test_thousands_of_connection_options_take_a_few_milliseconds() -> None:
    line, names = many_options(15_000)
    before = process_time()
    response = parse_response_head(head(line, names[-1] + b": 2", start=b"HTTP/1.1 200 OK"), b"GET")
    assert process_time() - before < 1  # one search for each option took five seconds
    assert response.end_to_end() == []


def test_a_repeated_head_is_parsed_once_except_after_a_HEAD_request() -> None:
    response_parser = ResponseHeadParser()
    raw = head(b"content-length: 3", start=b"HTTP/1.1 200 OK")
    first = response_parser.parse(raw, b"GET")
    assert first.framing is Framing.LENGTH
    assert response_parser.parse(bytes(bytearray(raw)), b"POST") is first
    assert response_parser.parse(raw, b"HEAD").framing is Framing.NONE
    assert response_parser.parse(raw, b"GET") is first
    other = response_parser.parse(raw.replace(b"3", b"4"), b"GET")
    assert other.length == 4
    assert response_parser.parse(raw, b"GET").length == 3
    with pytest.raises(UpstreamInvalid):
        response_parser.parse(
            head(b"content-length: 3", b"content-length: 4", start=b"HTTP/1.1 200 OK"), b"GET"
        )
    assert response_parser.parse(raw, b"GET").length == 3


def test_a_large_head_is_not_remembered() -> None:
    response_parser = ResponseHeadParser()
    raw = head(b"x: " + b"a" * MAX_REMEMBERED_BYTES, start=b"HTTP/1.1 200 OK")
    assert response_parser.parse(raw, b"GET") is not response_parser.parse(raw, b"GET")


def test_a_repeated_head_is_forwarded_as_a_new_one_would_be() -> None:
    raw = head(b"content-length: 3", b"connection: x", b"x: y", start=b"HTTP/1.1 200 OK")
    repeated = ResponseHeadParser()
    for extra, chunked, close in [*itertools.product((b"", b"a: b\r\n"), (False, True), (False, True))] * 2:
        expected = parse_response_head(raw, b"GET").forward(extra, chunked=chunked, close=close)
        for _ in range(3):
            found = repeated.parse(raw, b"GET").forward(extra, chunked=chunked, close=close)
            assert found == expected
    same = [repeated.parse(raw, b"GET").forward(b"", chunked=False, close=False) for _ in range(2)]
    assert same[0] is same[1], "it is made once"
    assert repeated.parse(raw, b"GET").dropping([]).forward(b"", chunked=False, close=False) == same[0]
