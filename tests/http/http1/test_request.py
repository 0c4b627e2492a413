"""Request heads: their framing, what is forwarded of them, and arrival in any pieces."""

import contextlib
import re
from time import process_time

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import DevrouteError, NotSupported, RequestMalformed
from devroute.http.http1.request import check_partial_head, parse_request_head
from devroute.http.message import MAX_HEAD_BYTES, Framing, Headers
from tests.conformance.memory import conversation
from tests.conformance.requests import CASES, SMUGGLED, Case
from tests.http.http1.heads import (
    ENDS_HERE,
    HOP,
    NAMES,
    OPTIONS,
    PROTECTED,
    SPACE,
    VALUES,
    as_line,
    head,
    many_options,
    parse,
)
from tests.support.examples import examples

# --- what is forwarded ------------------------------------------------------------------------------------


def read_by_another_parser(wire: bytes) -> h11.Request:
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
    second = read_by_another_parser(forwarded.wire)
    assert (second.method, second.target) == (b"POST", b"/a?b")
    assert list(second.headers) == [(name.lower(), value) for name, value in expected]


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


def test_values_that_the_proxy_reads_keep_their_case() -> None:
    contract = b'{"foo": "Alice"}'
    request = parse(b"X-DEVROUTE:\t" + contract + b" ", b"x-request-ID: Ab-1", b"X-Devroute-Matched: foo")
    assert (request.contract, request.matched, request.request_id) == ([contract], [b"foo"], b"Ab-1")
    assert parse(b"connection: upgrade", b"Upgrade: WebSocket").upgrade == b"WebSocket"


def test_each_line_of_a_repeated_contract_is_kept() -> None:
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


def test_http_1_0_is_forwarded_as_1_1_with_a_host_and_without_keep_alive() -> None:
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
def test_no_head_affects_the_next_one(before: bytes) -> None:
    """All connections share one validator."""

    def parse_it() -> None:
        with contextlib.suppress(DevrouteError):
            parse_request_head(before)

    parse_it()
    assert parse(b"x: y").forward().headers[:2] == [(b"host", b"foo"), (b"x", b"y")]
    parse_it()
    with pytest.raises(RequestMalformed, match="header token"):
        parse(b"x : y")


def test_the_message_names_the_fault() -> None:
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
def test_a_partial_head_is_refused_only_where_the_whole_head_is(case: Case, size: int) -> None:
    raw = re.sub(rb"\A(\r\n)+", b"", case.raw)
    end = raw.find(b"\r\n\r\n") + 4
    if end < 4 or size >= end:
        return
    try:
        check_partial_head(raw[: max(size, 1)])
    except RequestMalformed:
        with pytest.raises(DevrouteError):
            parse_request_head(raw[:end])


# --- fields found in a head -------------------------------------------------------------------------------

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
def test_the_fields_found_are_those_of_its_lines_read_one_by_one(start: bytes, lines: list[bytes]) -> None:
    """For each accepted head; a difference would let the next hop see another field or another body."""
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

    def values(name: bytes) -> list[bytes]:
        return [value for each, value in fields if each == name]

    options = {option.strip(b" \t").lower() for one in values(b"connection") for option in one.split(b",")}
    assert len(values(b"host")) == 1
    assert (request.contract, request.matched) == (values(b"x-devroute"), values(b"x-devroute-matched"))
    assert request.request_id == b"\n".join(values(b"x-request-id"))
    assert request.keep_alive is (start.endswith(b"1") and b"close" not in options)
    if codings := values(b"transfer-encoding"):
        assert [coding.lower() for coding in codings] == [b"chunked"]
        assert request.framing is Framing.CHUNKED
        assert not values(b"content-length")
    elif lengths := values(b"content-length"):
        assert [b"%d" % request.length] == lengths
    else:
        assert request.framing in (Framing.NONE, Framing.UPGRADE)
    kept = [field for field in fields if field[0] not in ENDS_HERE | (options - PROTECTED)]
    forwarded = [(name.lower(), value) for name, value in request.forward().headers]
    assert forwarded[: len(kept)] == kept
    assert {name for name, _ in forwarded[len(kept) :]} <= {*HOP, b"transfer-encoding", b"via"}


def test_connection_options_never_drop_our_own_fields() -> None:
    request = parse(b"Connection: X-Devroute-Via, x-devroute-trace, x-a", b"x-devroute-via: foo", b"x-a: 1")
    assert [name for name, _ in request.forward().headers] == [b"host", b"x-devroute-via", b"via"]


def test_thousands_of_connection_options_take_a_few_milliseconds() -> None:
    line, names = many_options(15_000)
    before = process_time()
    request = parse(line, b"zzz: 1", names[-1].upper() + b": 2", b"x-a: 3")
    assert process_time() - before < 1  # one search for each option took five seconds
    assert [name for name, _ in request.forward().headers] == [b"host", b"zzz", b"x-a", b"via"]


# --- a whole connection, cut anywhere ---------------------------------------------------------------------


SHORT = [case for case in CASES if len(case.raw) < 2000 and "preface" not in case.name]


@examples(60)
@given(st.sampled_from(SHORT), st.sampled_from([b"", SMUGGLED]), st.lists(st.integers(1, 700), max_size=20))
def test_any_split_of_a_connections_bytes_gives_the_same_responses(
    case: Case, more: bytes, cuts: list[int]
) -> None:
    raw = case.raw + more
    assert conversation(raw, cuts) == conversation(raw)


@examples(15)
@given(st.sampled_from(SHORT))
def test_a_connection_byte_by_byte_gives_the_same_responses(case: Case) -> None:
    assert conversation(case.raw, range(len(case.raw))) == conversation(case.raw)


def test_the_conversation_is_what_the_table_says() -> None:
    """Otherwise the two tests above could compare empty results."""
    case = next(case for case in CASES if case.name == "chunks: a request after the end")
    seen = conversation(case.raw)
    assert [status for status, _ in seen.answers] == [b"200", b"200"]
    assert [(one.head.wire.split(b" HTTP")[0], one.body) for one in seen.whole] == list(case.reached)
    assert not seen.ended
