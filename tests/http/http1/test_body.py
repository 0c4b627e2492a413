"""Bodies: where they end, however their bytes are split."""

import itertools
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import DevrouteError, RequestMalformed, UpstreamInvalid
from devroute.http.http1.body import (
    MAX_CHUNK_LINE_BYTES,
    MAX_TRAILER_BYTES,
    BodyReader,
    ChunkedBody,
    body_reader,
    encode_last_chunk,
)
from devroute.http.message import Framing, Headers
from devroute.tunnel.protocol import frames
from tests.support.cpu_time import cpu_seconds
from tests.support.examples import examples

NEXT = b"GET / HTTP/1.1\r\n"


def read(reader: BodyReader, data: bytes, cuts: Iterable[int] = ()) -> tuple[bytes, bytes]:
    """(body, rest) of these bytes, fed in pieces that end at `cuts`."""
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    body = rest = b""
    for start, stop in itertools.pairwise(places):
        if reader.done:
            rest += data[start:stop]
            continue
        piece, left = reader.feed(data[start:stop])
        body += piece
        rest += left
    return body, rest


def outcome(data: bytes, cuts: Iterable[int]) -> tuple[object, ...]:
    reader = ChunkedBody(RequestMalformed)
    try:
        body, rest = read(reader, data, cuts)
    except DevrouteError as error:
        return (error.code, error.message)
    return (body, rest, reader.done, reader.trailers)


def chunked(pieces: Iterable[bytes], trailers: Headers = []) -> bytes:  # noqa: B006 - never changed
    coded = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece)
    return coded + encode_last_chunk(trailers)


CUTS = st.lists(st.integers(1, 400), max_size=12)
NAMES = st.text("!#$%&'*+.^_`|~012ABCabc-", max_size=8).map(lambda text: b"x-" + text.encode())
VALUES = st.text([chr(code) for code in (9, *range(32, 127), *range(128, 256))], max_size=12).map(
    lambda text: text.encode("latin-1").strip(b" \t")
)


@examples(25)
@given(st.lists(st.binary(max_size=60), max_size=6), st.lists(st.tuples(NAMES, VALUES), max_size=3), CUTS)
def test_a_chunked_body_is_decoded_however_it_is_split(
    pieces: list[bytes], trailers: Headers, cuts: list[int]
) -> None:
    reader = ChunkedBody(RequestMalformed)
    assert read(reader, chunked(pieces, trailers) + NEXT, cuts) == (b"".join(pieces), NEXT)
    assert reader.trailers == trailers
    assert reader.done


SCRAPS = st.sampled_from(
    [
        b"3\r\nabc\r\n",
        b"3;a=b\r\nabc\r\n",
        b"0\r\n",
        b"\r\n",
        b"\r",
        b"\n",
        b"a: b\r\n",
        b"host: x\r\n",
        b"A",
        b" ",
    ]
)


@examples(50)
@given(st.lists(SCRAPS, max_size=8).map(b"".join), CUTS)
def test_any_split_of_any_bytes_gives_the_same_outcome(data: bytes, cuts: list[int]) -> None:
    assert outcome(data, cuts) == outcome(data, range(len(data)))


@examples(25)
@given(st.binary(max_size=80), st.integers(0, 80), CUTS)
def test_a_body_with_a_length_takes_that_many_bytes(data: bytes, length: int, cuts: list[int]) -> None:
    reader = body_reader(Framing.LENGTH, length, RequestMalformed)
    assert read(reader, data, cuts) == (data[:length], data[length:])
    assert reader.done is (len(data) >= length)


def test_without_a_body_all_bytes_belong_to_the_next_message() -> None:
    reader = body_reader(Framing.NONE, 0, RequestMalformed)
    assert reader.done
    assert reader.feed(NEXT) == (b"", NEXT)


@pytest.mark.parametrize("framing", [Framing.CLOSE, Framing.UPGRADE])
def test_up_to_the_close_all_bytes_are_body(framing: Framing) -> None:
    reader = body_reader(framing, 0, UpstreamInvalid)
    assert reader.feed(NEXT) == (NEXT, b"")
    assert not reader.done


@pytest.mark.parametrize(
    "data",
    [
        b"3\nabc\r\n", b"\n3\r\nabc\r\n", b"\r\n3\r\nabc\r\n", b"3\r\r\nabc\r\n", b"3\rabc\r\n",
        b"0x3\r\nabc\r\n", b"+3\r\nabc\r\n", b"-3\r\nabc\r\n", b" 3\r\nabc\r\n", b"3 \r\nabc\r\n",
        b"3\t\r\nabc\r\n", b"3\x00\r\nabc\r\n",
        b"3_0\r\n", b"g\r\n", b"\xb2\r\n", b";a\r\n", b"fffffffffffff\r\n", b"00000000000003\r\nabc\r\n",
        b"3 a=b\r\nabc\r\n", b"3;a\x00\r\nabc", b"3;a\rb\r\nabc\r\n", b"3;a\nb\r\nabc\r\n",
        b"3\r\nabcd\r\n", b"3\r\nabc\n0\r\n", b"3\r\nabc\r0\r\n\r\n", b"3\r\nabc0\r\n\r\n", b"3\r\nabc\n\r\n",
        b"0\r\na\r\n", b"0\r\na : b\r\n", b"0\r\n a: b\r\n", b"0\r\na: b\r\n c\r\n", b"0\r\n: b\r\n",
        b"0\r\na: \x00\r\n", b"0\r\na: b\rc\r\n", b"0\r\na: b\n\r\n", b"0\r\n\n", b"0\r\na: \x7f\r\n",
    ],
)  # fmt: skip
def test_malformed_chunks_are_refused_with_the_given_error(data: bytes) -> None:
    for error in (RequestMalformed, UpstreamInvalid):
        with pytest.raises(error):
            ChunkedBody(error).feed(data)


@pytest.mark.parametrize(
    "name",
    ["Content-Length", "transfer-encoding", "Host", "TE", "Connection", "trailer", "upgrade", "expect",
     "X-Devroute", "X-Devroute-Matched", "x-devroute-result", "X-Devroute-Unsent", "Keep-Alive"],
)  # fmt: skip
def test_fields_that_frame_or_route_are_refused_in_trailers(name: str) -> None:
    with pytest.raises(RequestMalformed, match="in a trailer section"):
        ChunkedBody(RequestMalformed).feed(b"0\r\n%b: 0\r\n\r\n" % name.encode())


@pytest.mark.parametrize(
    "form", [b"3", b"03", b"0000000003", b"3;", b"3;a", b"3;a=b", b'3 ; a="b;c"', b"3\t;\xe9=1"]
)
def test_chunk_sizes_may_have_leading_zeros_and_extensions(form: bytes) -> None:
    assert ChunkedBody(RequestMalformed).feed(form + b"\r\nabc\r\n0\r\n\r\n") == (b"abc", b"")


def test_a_chunk_line_may_be_as_long_as_its_limit_and_no_longer() -> None:
    fits = b"3;" + b"a" * (MAX_CHUNK_LINE_BYTES - 2)
    assert ChunkedBody(RequestMalformed).feed(fits + b"\r\nabc")[0] == b"abc"
    for end in (b"", b"\r\n"):
        with pytest.raises(RequestMalformed, match="chunk-size line"):
            ChunkedBody(RequestMalformed).feed(fits + b"aa" + end)


def test_an_endless_trailer_section_is_refused_at_its_limit() -> None:
    reader = ChunkedBody(RequestMalformed)
    reader.feed(b"0\r\n")
    for _ in range(MAX_TRAILER_BYTES // 5):
        reader.feed(b"a:\r\n")
    with pytest.raises(RequestMalformed, match="trailer section"):
        reader.feed(b"a:\r\n")
    with pytest.raises(RequestMalformed, match="trailer section"):
        ChunkedBody(RequestMalformed).feed(b"0\r\na: " + b"b" * MAX_TRAILER_BYTES)


def test_trailers_that_are_accepted_fit_into_a_tunnel_frame() -> None:
    """Otherwise one client's trailers would end a laptop's link."""
    reader = ChunkedBody(RequestMalformed)
    reader.feed(b"0\r\n" + b"a:\r\n" * (MAX_TRAILER_BYTES // 5) + b"\r\n")
    payload = frames.encode_trailers(reader.trailers)
    assert len(payload) > MAX_TRAILER_BYTES - 5
    frames.check_header(frames.FrameType.TRAILERS, 0, 1, len(payload))
    assert frames.decode_trailers(payload) == reader.trailers


@pytest.mark.parametrize(
    "value", [b" " * 16000 + b"\x00", b"a" + b" \t" * 8000 + b"\x00", b"a " * 8000 + b"\x00"]
)
def test_a_trailer_is_parsed_in_linear_time(value: bytes) -> None:
    def parse() -> None:
        with pytest.raises(RequestMalformed, match="malformed"):
            ChunkedBody(RequestMalformed).feed(b"0\r\na:" + value + b"\r\n\r\n")

    assert cpu_seconds(parse) < 0.1
