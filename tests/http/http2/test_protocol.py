"""Frames: read as h2 reads them, however they are split."""

import itertools
from collections.abc import Callable

import pytest
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import ProtocolError
from hypothesis import given
from hypothesis import strategies as st

from devroute.http.http2.protocol import MAX_FRAME_BYTES, PREFACE, Http2Protocol
from tests.support.examples import examples

#: Blocks without the dynamic table, so that they mean the same anywhere.
REQUEST = b"\x82\x86\x84\x41\x03foo"
LENGTH = b"\x82\x86\x84\x41\x03foo\x5c\x012"
TRAILERS = b"\x00\x01x\x011"


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + payload


STREAMS = st.sampled_from([1, 1, 3, 5, 2, 0])
#: Types with flags and payloads, valid and invalid ones.
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


def outcome(
    protocol: Http2Protocol, receive: Callable[[bytes], list[Event]], pieces: list[bytes]
) -> tuple[list[str], bytes, str]:
    events: list[str] = []
    try:
        for piece in pieces:
            events += map(repr, receive(piece))
    except ProtocolError as error:
        # Events before the error are lost; the error has to be the same.
        return [], b"", ErrorCodes(error.error_code).name
    return events, protocol.data_to_send(), ""


@examples(200)
@given(st.lists(FRAMES, max_size=8), st.lists(st.integers(0, 120), max_size=5))
def test_frames_are_read_as_by_h2_however_they_are_split(frames: list[bytes], cuts: list[int]) -> None:
    data = PREFACE + frame(4, 0, 0, b"") + frame(1, 4, 1, REQUEST) + b"".join(frames)
    places = sorted({0, len(data), *(len(PREFACE) + cut for cut in cuts if len(PREFACE) + cut < len(data))})
    pieces = [data[a:b] for a, b in itertools.pairwise(places)]
    ours, theirs = Http2Protocol(client=False), Http2Protocol(client=False)
    assert outcome(ours, ours.receive, pieces) == outcome(theirs, theirs.receive_data, [data])


def test_a_frame_that_is_too_large_is_refused_by_its_header() -> None:
    protocol = Http2Protocol(client=False)
    protocol.receive(PREFACE + frame(4, 0, 0, b""))
    protocol.data_to_send()
    with pytest.raises(ProtocolError):
        protocol.receive((MAX_FRAME_BYTES + 1).to_bytes(3) + b"\0\0" + (1).to_bytes(4))
    assert protocol.data_to_send()[3] == 7  # GOAWAY
