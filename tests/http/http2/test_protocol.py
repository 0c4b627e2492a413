"""HPACK against the hpack library, and what h2_heads and grpc_status say."""

import itertools
from collections.abc import Callable

import hpack
import pytest
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import ProtocolError
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import BY_CODE, LaptopOffline, RequestMalformed, UpstreamInvalid
from devroute.http.grpc import CODES, status_trailers, timeout_of
from devroute.http.http2.headers import (
    is_grpc,
    read_request,
    read_response,
    read_trailers,
    write_request,
    write_response,
)
from devroute.http.http2.hpack import Decoder, Encoder
from devroute.http.http2.protocol import MAX_FRAME_BYTES, PREFACE, Http2Protocol
from devroute.http.message import Framing
from devroute.token_bucket import TokenBucket
from tests.support.examples import examples

NAMES = st.sampled_from([b":path", b":status", b"accept", b"authorization", b"cookie", b"x", b"x-long" * 30])
VALUES = st.one_of(st.sampled_from([b"", b"/", b"200", b"y" * 126, b"y" * 127]), st.binary(max_size=400))
BLOCKS = st.lists(st.lists(st.tuples(NAMES, VALUES), max_size=8), max_size=4)


@examples(60)
@given(BLOCKS)
def test_what_the_encoder_writes_every_decoder_reads(blocks: list[list[tuple[bytes, bytes]]]) -> None:
    encoder, decoder = Encoder(), hpack.Decoder()
    decoder.max_allowed_table_size = 0  # a peer that wants no table at all
    for block in blocks:
        assert list(decoder.decode(encoder.encode(block), raw=True)) == block


@examples(60)
@given(BLOCKS, st.booleans(), st.sampled_from([0, 100, 4096]))
def test_what_any_encoder_writes_the_decoder_reads(
    blocks: list[list[tuple[bytes, bytes]]], huffman: bool, table: int
) -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    encoder.header_table_size = table
    for block in blocks:
        for _ in range(2):  # again, from the table
            assert decoder.decode(encoder.encode(block, huffman=huffman)) == block


@examples(150)
@given(st.binary(max_size=60))
def test_any_bytes_are_read_as_the_library_reads_them_or_are_an_error(data: bytes) -> None:
    try:
        wanted = list(hpack.Decoder().decode(data, raw=True))
    except (HPACKError, IndexError):
        wanted = None
    try:
        found = Decoder().decode(data)
    except (HPACKError, IndexError):
        found = None
    assert found == wanted


def test_the_secrets_of_callers_are_marked_never_to_be_indexed() -> None:
    block = Encoder().encode([(b"authorization", b"Bearer 1"), (b"x-other", b"1")])
    secret, other = hpack.Decoder().decode(block, raw=True)
    assert (secret.indexable, other.indexable) == (False, True)


def test_a_list_that_grows_beyond_its_limit_is_an_error() -> None:
    with pytest.raises(OversizedHeaderListError):
        Decoder(1000).decode(hpack.Encoder().encode([(b"x", b"y" * 100)] * 20))


# --- frames ------------------------------------------------------------------------------------------------

#: Of an encoder without a table, so a block means the same anywhere.
REQUEST = b"\x82\x86\x84\x41\x03foo"
LENGTH = b"\x82\x86\x84\x41\x03foo\x5c\x012"
TRAILERS = b"\x00\x01x\x011"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


STREAMS = st.sampled_from([1, 1, 3, 5, 2, 0])
#: type, flags that make sense or hardly, payloads likewise
KINDS: list[tuple[list[int], list[int], list[bytes]]] = [
    ([0], [0, 0, 1, 8], [b"", b"ab", b"\1a\0"]),
    ([1], [4, 5, 0, 1, 0x24], [REQUEST, REQUEST, LENGTH, TRAILERS, b"\xff", b""]),
    ([9], [0, 4], [b"", TRAILERS]),
    ([3, 8], [0], [b"\0\0\0\1", bytes(4), b""]),
    ([4, 6, 7, 2, 5, 77], [0, 1], [b"", bytes(8), bytes(5)]),
]
FRAMES = st.one_of(
    *(
        st.builds(frame, st.sampled_from(types), st.sampled_from(flags), STREAMS, st.sampled_from(payloads))
        for types, flags, payloads in KINDS
    )
)


def said(
    wire: Http2Protocol, receive: Callable[[bytes], list[Event]], pieces: list[bytes]
) -> tuple[list[str], bytes, str]:
    events: list[str] = []
    try:
        for piece in pieces:
            events += map(repr, receive(piece))
    except ProtocolError as error:
        # What was said before is lost; that it is an error, and which, has to be the same.
        return [], b"", ErrorCodes(error.error_code).name
    return events, wire.data_to_send(), ""


@examples(200)
@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 120), max_size=5))
def test_frames_are_read_as_h2_reads_them_however_they_are_split(
    frames: list[bytes], cuts: list[int]
) -> None:
    data = PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, REQUEST) + b"".join(frames)
    places = sorted({0, len(data), *(len(PREFACE) + cut for cut in cuts if len(PREFACE) + cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    ours, theirs = Http2Protocol(client=False), Http2Protocol(client=False)
    assert said(ours, ours.receive, pieces) == said(theirs, theirs.receive_data, [data])


def test_a_frame_that_is_too_large_is_refused_before_it_is_there() -> None:
    wire = Http2Protocol(client=False)
    wire.receive(PREFACE + frame(4, 0, 0, b""))
    wire.data_to_send()
    with pytest.raises(ProtocolError):
        wire.receive((MAX_FRAME_BYTES + 1).to_bytes(3) + b"\0\0" + (1).to_bytes(4))
    assert wire.data_to_send()[3] == 7  # GOAWAY


# --- heads -------------------------------------------------------------------------------------------------

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a?b"), (b":authority", b"foo:80")]


@pytest.mark.parametrize(
    ("more", "ended", "framing", "length"),
    [
        ([], True, Framing.NONE, 0),
        ([], False, Framing.CHUNKED, 0),
        ([(b"content-length", b"5")], False, Framing.LENGTH, 5),
        ([(b"content-length", b"0")], True, Framing.NONE, 0),
        ([(b"content-length", b"0")], False, Framing.NONE, 0),
    ],
)
def test_a_requests_framing(
    more: list[tuple[bytes, bytes]], ended: bool, framing: Framing, length: int
) -> None:
    request = read_request([*GET, *more], ended=ended)
    assert (request.framing, request.length) == (framing, length)
    forward = request.forward()
    assert forward.wire.startswith(b"GET /a?b HTTP/1.1\r\nhost: foo:80\r\n")
    assert write_request(forward) == [*GET, *more, (b"via", b"1.1 devroute")]


@pytest.mark.parametrize(
    ("status", "more", "method", "ended", "framing"),
    [
        (b"200", [], b"GET", True, Framing.NONE),
        (b"200", [], b"GET", False, Framing.CHUNKED),
        (b"200", [(b"content-length", b"5")], b"GET", False, Framing.LENGTH),
        (b"200", [(b"content-length", b"5")], b"HEAD", True, Framing.NONE),
        (b"304", [(b"content-length", b"5")], b"GET", True, Framing.NONE),
        (b"204", [], b"GET", True, Framing.NONE),
        (b"103", [(b"link", b"</a>")], b"GET", False, Framing.NONE),
    ],
)
def test_a_responses_framing(
    status: bytes, more: list[tuple[bytes, bytes]], method: bytes, ended: bool, framing: Framing
) -> None:
    head = read_response([(b":status", status), *more], method, ended=ended)
    assert (head.status, head.framing) == (int(status), framing)


@pytest.mark.parametrize(
    "fields",
    [
        [(b":status", b"101")],
        [(b":status", b"200 OK\r\nx: 1")],
        [(b":status", b"20")],
        [],
        [(b":status", b"200"), (b":path", b"/")],
        [(b":status", b"200"), (b"content-length", b"5")],
        [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
        [(b":status", b"200"), (b"x", b"1\r\ny: 2")],
    ],
)
def test_a_response_that_is_none_is_refused(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(UpstreamInvalid):
        read_response(fields, b"GET", ended=True)


def test_an_answer_of_grpc_loses_the_length_that_http11_gave_it() -> None:
    fields = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"5")]
    head = read_response(fields, b"POST", ended=True)
    assert b"content-length: 0" in head.raw
    assert write_response(head, [(b"x", b"1")]) == [*fields, (b"x", b"1")]


@pytest.mark.parametrize(
    "trailers", [[(b":status", b"1")], [(b"content-length", b"1")], [(b"x", b"1\n")], [(b"x", b"y" * 20_000)]]
)
def test_trailers_that_may_not_be_trailers(trailers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(RequestMalformed):
        read_trailers([(b"x-good", b"1"), *trailers], RequestMalformed)


# --- gRPC --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "grpc"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=x", True),
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/json", False),
    ],
)
def test_what_needs_http2(kind: bytes, grpc: bool) -> None:
    assert is_grpc(b"POST / HTTP/1.1\r\nContent-Type: %b\r\n\r\n" % kind) is grpc


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"250m", 0.25), (b"5u", 5e-6), (b"7n", 7e-9), (b"1", None)],
)
def test_deadlines(text: bytes, seconds: float | None) -> None:
    assert timeout_of(b"POST / HTTP/1.1\r\ngrpc-timeout: %b\r\n\r\n" % text) == pytest.approx(seconds)


def test_every_error_has_a_status_of_grpc_and_its_message_survives() -> None:
    assert {kind.status for kind in BY_CODE.values()} - set(CODES) <= {
        401,
        404,
        405,
        409,
        413,
        429,
    }  # control port
    assert status_trailers(LaptopOffline("100 % ü\n", hint="")) == [
        (b"grpc-status", b"14"),
        (b"grpc-message", b"100 %25 %C3%BC%0A"),
    ]


def test_an_allowance_is_spent_earned_and_given_again_with_time() -> None:
    allowance = TokenBucket(2, 10, 0.0)
    assert [allowance.spend(0.0) for _ in range(3)] == [True, True, False]
    assert allowance.spend(0.15)
    assert not allowance.spend(0.15)
    allowance.earn(5)
    assert [allowance.spend(0.15) for _ in range(3)] == [True, True, False]
