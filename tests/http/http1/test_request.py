"""Heads: what is forwarded of them, and that it does not matter how their bytes arrive."""

import contextlib
import re
from time import perf_counter

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import DevrouteError, NotSupported, RequestMalformed, UpstreamInvalid
from devroute.http.http1.request import (
    MAX_HEAD_BYTES,
    MAX_REMEMBERED_BYTES,
    ResponseHeadParser,
    check_partial_head,
    parse_request_head,
    parse_response_head,
)
from devroute.http.message import Framing, Headers, InboundRequest
from tests.conformance.memory import conversation
from tests.conformance.requests import CASES, SMUGGLED, Case
from tests.support.examples import examples

HOP = {b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"upgrade"}
ENDS_HERE = HOP | {b"transfer-encoding", b"x-devroute-matched"}
PROTECTED = {b"host", b"content-length", b"x-devroute", b"x-request-id"}


def head(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join((start, *lines)) + b"\r\n\r\n"


def parse(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> InboundRequest:
    return parse_request_head(head(b"host: foo", *lines, start=start))


# --- what is forwarded ------------------------------------------------------------------------------------

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


def as_a_second_parser_reads(wire: bytes) -> h11.Request:
    reader = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES * 2)
    reader.receive_data(wire)
    event = reader.next_event()
    assert isinstance(event, h11.Request)
    return event


@examples(60)
@given(
    st.lists(st.tuples(NAMES, VALUES), max_size=8),
    OPTIONS,
    st.sampled_from([(), (b"content-length", b"5"), (b"Transfer-Encoding", b"chunked")]),
    st.integers(0, 8),
    SPACE,
    SPACE,
)
def test_a_valid_head_is_forwarded_with_exactly_the_fields_of_the_next_hop(
    fields: Headers,
    options: list[bytes],
    framing: tuple[bytes, bytes],
    place: int,
    before: bytes,
    after: bytes,
) -> None:
    fields = [(b"Host", b"foo:80"), *fields, (b"Connection", b", ".join(options))]
    if framing:
        fields.insert(min(place, len(fields)), framing)
    lines = [as_line(field, before, after if field[1] != b"chunked" else b"") for field in fields]
    request = parse_request_head(head(*lines, start=b"POST /a?b HTTP/1.1"))

    named = {option.lower() for option in options} - PROTECTED
    chunked = framing[:1] == (b"Transfer-Encoding",)
    expected = [field for field in fields if field[0].lower() not in ENDS_HERE | named]
    expected += [(b"transfer-encoding", b"chunked")] if chunked else []
    expected.append((b"via", b"1.1 devroute"))
    forwarded = request.forward()
    assert forwarded.wire.startswith(b"POST /a?b HTTP/1.1\r\n")
    assert forwarded.headers == expected
    assert (request.framing is Framing.CHUNKED) is chunked
    assert request.keep_alive is (b"close" not in options)
    second = as_a_second_parser_reads(forwarded.wire)
    assert (second.method, second.target) == (b"POST", b"/a?b")
    assert list(second.headers) == [(name.lower(), value) for name, value in expected]


@examples(40)
@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), OPTIONS, SPACE, SPACE)
def test_a_valid_answer_is_passed_on_with_exactly_its_end_to_end_fields(
    fields: Headers, options: list[bytes], before: bytes, after: bytes
) -> None:
    fields = [
        *fields,
        (b"Connection", b",".join(options)),
        (b"X-Devroute-Result", b"x"),
        (b"Upgrade", b"h2c"),
    ]
    lines = [as_line(field, before, after) for field in fields]
    answer = parse_response_head(head(*lines, b"content-length: 2", start=b"HTTP/1.1 200 Fine"), b"GET")

    here = {b"connection", b"keep-alive", b"proxy-connection", b"upgrade", b"x-devroute-result"}
    named = {option.lower() for option in options} - PROTECTED - {b"te"}
    kept = [(name.lower(), value) for name, value in fields if name.lower() not in here | named]
    assert answer.end_to_end() == [*kept, (b"content-length", b"2")]
    passed = answer.forward(b"x-mark: 1\r\n", chunked=False, close=True)
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method=b"GET", target=b"/", headers=[(b"host", b"foo")]))
    reader.receive_data(passed + b"hi")
    event = reader.next_event()
    assert isinstance(event, h11.Response)
    assert (event.status_code, event.reason) == (200, b"Fine")
    extra = [(b"x-mark", b"1"), (b"connection", b"close")]
    assert sorted(event.headers) == sorted([*kept, (b"content-length", b"2"), *extra])


@pytest.mark.parametrize(
    ("lines", "framing", "length"),
    [
        ([], Framing.NONE, 0),
        ([b"content-length: 0"], Framing.NONE, 0),
        ([b"content-length: 007"], Framing.LENGTH, 7),
        ([b"transfer-encoding: CHUNKED"], Framing.CHUNKED, 0),
        ([b"connection: upgrade", b"upgrade: websocket"], Framing.UPGRADE, 0),
        ([b"connection: x, Upgrade", b"Upgrade: websocket"], Framing.UPGRADE, 0),
        ([b"connection: upgrade"], Framing.NONE, 0),
        ([b"upgrade: websocket"], Framing.NONE, 0),
        ([b"connection: upgrade", b"upgrade: x", b"content-length: 1"], Framing.LENGTH, 1),
        ([b"connection: upgrade", b"upgrade: x", b"transfer-encoding: chunked"], Framing.CHUNKED, 0),
    ],
)
def test_the_framing_of_a_request(lines: list[bytes], framing: Framing, length: int) -> None:
    request = parse(*lines)
    assert (request.framing, request.length) == (framing, length)


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
def test_the_framing_of_an_answer(status: int, method: bytes, lines: list[bytes], framing: Framing) -> None:
    answer = parse_response_head(head(*lines, start=b"HTTP/1.1 %d x" % status), method)
    assert answer.framing is framing
    assert answer.length == (9 if framing is Framing.LENGTH else 0)


def test_what_the_relay_needs_to_know_keeps_the_case_it_was_written_in() -> None:
    contract = b'{"foo": "Alice"}'
    request = parse(b"X-DEVROUTE:\t" + contract + b" ", b"x-request-ID: Ab-1", b"X-Devroute-Matched: foo")
    assert (request.contract, request.matched, request.request_id) == ([contract], [b"foo"], b"Ab-1")
    assert parse(b"connection: upgrade", b"Upgrade: WebSocket").upgrade == b"WebSocket"


def test_each_line_of_a_repeated_contract_is_counted() -> None:
    request = parse(b"x-devroute: {}", b"X-Devroute: {}", b"x-devroute-matched: a", b"x-devroute-matched: a")
    assert (len(request.contract), len(request.matched)) == (2, 2)


@pytest.mark.parametrize(
    ("lines", "version", "expects"),
    [
        ([b"expect: 100-Continue"], b"1.1", True),
        ([b"expect: 100-continue "], b"1.1", True),
        ([b"expect: 100-continue"], b"1.0", False),
        ([b"expect: 200-ok"], b"1.1", False),
        ([], b"1.1", False),
    ],
)
def test_an_expectation_counts_in_1_1_only(lines: list[bytes], version: bytes, expects: bool) -> None:
    assert parse(*lines, start=b"PUT / HTTP/" + version).expects_continue is expects


def test_te_passes_as_trailers_or_not_at_all() -> None:
    assert parse(b"TE: trailers, gzip;q=0.5").forward().headers[1:3] == [
        (b"connection", b"te"),
        (b"te", b"trailers"),
    ]
    assert parse(b"TE: gzip").forward().headers == [(b"host", b"foo"), (b"via", b"1.1 devroute")]


def test_http_1_0_goes_on_as_1_1_with_a_host_and_never_keeps_its_connection() -> None:
    request = parse_request_head(head(b"connection: keep-alive", start=b"GET http://Foo:80/a HTTP/1.0"))
    assert not request.keep_alive
    assert request.forward().wire == b"GET /a HTTP/1.1\r\nhost: Foo:80\r\nvia: 1.1 devroute\r\n\r\n"


@pytest.mark.parametrize(
    "before",
    [
        head(b"host: foo", b"connection: upgrade", b"upgrade: x"),
        head(b"host: foo", b"connection: upgrade", b"upgrade: x", b"content-length: 5"),
        head(b"host: foo", b"content-length: 5"),
        head(b"host: foo", b"transfer-encoding: chunked"),
        head(b"host: foo", start=b"CONNECT foo:1 HTTP/1.1"),
        head(b"host: foo", start=b"SMUGGLE / HTTP/1.1"),
        head(b"host: foo", start=b"PRI * HTTP/1.1"),
        head(b"host: foo", b"x : y"),
        head(b"host: foo", b"connection: close"),
        head(b"host: foo", start=b"HEAD / HTTP/1.1"),
        head(start=b"GET / HTTP/1.0"),
    ],
)
def test_no_head_changes_how_the_next_one_is_judged(before: bytes) -> None:
    """The parser behind is shared by all connections."""

    def judge() -> None:
        with contextlib.suppress(DevrouteError):
            parse_request_head(before)

    judge()
    assert parse(b"x: y").forward().headers[:2] == [(b"host", b"foo"), (b"x", b"y")]
    judge()
    with pytest.raises(RequestMalformed):
        parse(b"x : y")


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
def test_no_answer_changes_how_the_next_one_is_judged(before: bytes) -> None:
    def judge() -> None:
        with contextlib.suppress(DevrouteError):
            parse_response_head(before, b"GET")

    judge()
    fine = parse_response_head(head(b"x: y", b"content-length: 0", start=b"HTTP/1.1 200 x"), b"GET")
    assert fine.end_to_end() == [(b"x", b"y"), (b"content-length", b"0")]
    judge()
    with pytest.raises(UpstreamInvalid):
        parse_response_head(head(b"x : y", start=b"HTTP/1.1 200 x"), b"GET")


def test_the_message_says_what_is_wrong() -> None:
    for lines, message in [
        ((b"a: b\r\n c",), "obs-fold"),
        ((b"a: b\rc",), "bare CR or LF"),
        ((b"a : b",), "header token"),
        ((b"host: bar",), "2 host fields"),
        ((b"x: y",) * 200, "201 field lines"),
    ]:
        with pytest.raises(RequestMalformed, match=message):
            parse(*lines)
    with pytest.raises(NotSupported, match="CONNECT"):
        parse(start=b"CONNECT foo:1 HTTP/1.1")


@examples(60)
@given(st.sampled_from([case for case in CASES if not case.name.startswith("chunks")]), st.integers(0, 400))
def test_a_beginning_is_refused_only_where_the_whole_is(case: Case, size: int) -> None:
    raw = re.sub(rb"\A(\r\n)+", b"", case.raw)
    end = raw.find(b"\r\n\r\n") + 4
    if end < 4 or size >= end:
        return
    try:
        check_partial_head(raw[: max(size, 1)])
    except RequestMalformed:
        with pytest.raises(DevrouteError):
            parse_request_head(raw[:end])


# --- what is found in a head ------------------------------------------------------------------------------

MEANINGFUL = st.sampled_from(
    [
        *(b"host", b"Content-Length", b"content-length", b"Transfer-Encoding", b"CONNECTION", b"connection"),
        *(b"te", b"Upgrade", b"expect", b"keep-alive", b"x-request-id", b"X-Request-Id", b"X-Devroute"),
        *(
            b"x-devroute",
            b"x-devroute-matched",
            b"x-a",
            b"xhost",
            b"host ",
            b" te",
            b"h\xf6st",
            b"x\x00",
            b"",
        ),
    ]
)
MEANINGS = st.sampled_from(
    [
        *(
            b"a",
            b"5",
            b"0",
            b"+5",
            b"5, 5",
            b"5\xa0",
            b"chunked",
            b"Chunked",
            b"chunked\x0b",
            b"close",
            b"x-a, te",
        ),
        *(
            b"Upgrade,x-a",
            b"trailers",
            b"100-continue",
            b"{}",
            b"",
            b"a\tb",
            b"a\rb",
            b"a\nhost: b",
            b"a\x00",
            b"\xff",
        ),
    ]
)
COLONS = st.sampled_from([b":", b": ", b":\t", b":  ", b" :", b""])
ENDS = st.sampled_from([b"", b"", b"", b" ", b"\t", b"\r", b"\n"])
STARTS = st.sampled_from([b"GET / HTTP/1.1", b"POST /a HTTP/1.0", b"GET http://a/ HTTP/1.1"])


@examples(400)
@given(STARTS, st.lists(st.tuples(MEANINGFUL, COLONS, MEANINGS, ENDS).map(b"".join), max_size=5))
def test_what_is_found_in_a_head_is_what_its_lines_say_one_by_one(start: bytes, lines: list[bytes]) -> None:
    """Whatever is accepted; else somebody else would find another field in it, or another body after it."""
    raw = head(b"host: a", *lines, start=start)
    raw = raw[: raw.index(b"\r\n\r\n") + 4]
    try:
        request = parse_request_head(raw)
    except DevrouteError:
        return
    fields = []
    for line in raw[:-4].split(b"\r\n")[1:]:
        name, value = line.split(b":", 1)
        assert re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+", name)
        assert not re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value)
        fields.append((name.lower(), value.strip(b" \t")))

    def said(name: bytes) -> list[bytes]:
        return [value for each, value in fields if each == name]

    options = {option.strip(b" \t").lower() for one in said(b"connection") for option in one.split(b",")}
    assert len(said(b"host")) == 1
    assert (request.contract, request.matched) == (said(b"x-devroute"), said(b"x-devroute-matched"))
    assert request.request_id == b"\n".join(said(b"x-request-id"))
    assert request.keep_alive is (start.endswith(b"1") and b"close" not in options)
    if codings := said(b"transfer-encoding"):
        assert [coding.lower() for coding in codings] == [b"chunked"]
        assert request.framing is Framing.CHUNKED
        assert not said(b"content-length")
    elif lengths := said(b"content-length"):
        assert [b"%d" % request.length] == lengths
    else:
        assert request.framing in (Framing.NONE, Framing.UPGRADE)
    kept = [field for field in fields if field[0] not in ENDS_HERE | (options - PROTECTED)]
    forwarded = [(name.lower(), value) for name, value in request.forward().headers]
    assert forwarded[: len(kept)] == kept
    assert {name for name, _ in forwarded[len(kept) :]} <= {*HOP, b"transfer-encoding", b"via"}


def test_connection_takes_none_of_our_own_fields_away() -> None:
    request = parse(b"Connection: X-Devroute-Via, x-devroute-trace, x-a", b"x-devroute-via: foo", b"x-a: 1")
    assert [name for name, _ in request.forward().headers] == [b"host", b"x-devroute-via", b"via"]


def test_thousands_of_connection_options_hold_nobody_up() -> None:
    letters = b"abcdefghijklmnopqrstuvwxyz0123456789"
    names = [bytes((a, b, c)) for a in letters for b in letters for c in letters][:15_000]
    line = b"connection: " + b",".join(names)
    before = perf_counter()
    request = parse(line, b"zzz: 1", names[-1].upper() + b": 2", b"x-a: 3")
    answer = parse_response_head(head(line, names[-1] + b": 2", start=b"HTTP/1.1 200 OK"), b"GET")
    assert perf_counter() - before < 1  # a few milliseconds; one look for each option took five seconds
    assert [name for name, _ in request.forward().headers] == [b"host", b"zzz", b"x-a", b"via"]
    assert answer.end_to_end() == []


def test_an_answer_s_head_that_is_repeated_is_judged_once_and_never_for_another_method() -> None:
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


# --- a whole connection, cut anywhere ---------------------------------------------------------------------


SHORT = [case for case in CASES if len(case.raw) < 2000 and "preface" not in case.name]


@examples(60)
@given(st.sampled_from(SHORT), st.sampled_from([b"", SMUGGLED]), st.lists(st.integers(1, 700), max_size=20))
def test_any_split_of_a_connections_bytes_gives_the_same_answers(
    case: Case, more: bytes, cuts: list[int]
) -> None:
    raw = case.raw + more
    assert conversation(raw, cuts) == conversation(raw)


@examples(15)
@given(st.sampled_from(SHORT))
def test_a_connection_byte_by_byte_gives_the_same_answers(case: Case) -> None:
    assert conversation(case.raw, range(len(case.raw))) == conversation(case.raw)


def test_the_conversation_is_what_the_table_says() -> None:
    """Else the two tests above could agree on nothing at all."""
    case = next(case for case in CASES if case.name == "chunks: a request after the end")
    seen = conversation(case.raw)
    assert [status for status, _ in seen.answers] == [b"200", b"200"]
    assert [(one.head.wire.split(b" HTTP")[0], one.body) for one in seen.whole] == list(case.reached)
    assert not seen.ended
