"""Frames: read as h2 reads them, however they are split."""

import itertools
from collections.abc import Callable

import pytest
from h2.errors import ErrorCodes
from h2.events import Event
from h2.exceptions import ProtocolError
from h2.stream import H2StreamStateMachine, StreamInputs
from hypothesis import given
from hypothesis import strategies as st

from devroute.http.http2.protocol import (
    MAX_FRAME_BYTES,
    PREFACE,
    ExpectedFrame,
    Http2Protocol,
    StrayFrame,
)
from devroute.http.http2.streams import StreamRecord
from tests.support.canned import frame
from tests.support.examples import examples

#: Blocks without the dynamic table, so that they mean the same anywhere.
REQUEST = b"\x82\x86\x84\x41\x03foo"
LENGTH = b"\x82\x86\x84\x41\x03foo\x5c\x012"
TRAILERS = b"\x00\x01x\x011"
RESPONSE = b"\x88"
INTERIM = b"\x08\x03100"


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


#: What stands for frames of which h2 reports nothing.
OF_OURS = (StrayFrame, ExpectedFrame)


def outcome(
    protocol: Http2Protocol, receive: Callable[[bytes], list[Event]], pieces: list[bytes]
) -> tuple[list[str], bytes, str]:
    events: list[str] = []
    try:
        for piece in pieces:
            events += [repr(event) for event in receive(piece) if not isinstance(event, OF_OURS)]
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


RESPONSES = st.one_of(
    FRAMES,
    st.builds(
        frame, st.just(1), st.sampled_from([4, 5]), STREAMS, st.sampled_from([RESPONSE, INTERIM, TRAILERS])
    ),
    st.builds(frame, st.just(1), st.just(4), STREAMS, st.just(RESPONSE + LENGTH[-3:])),
)


@examples(200)
@given(st.lists(RESPONSES, max_size=8), st.sampled_from([b"GET", b"HEAD"]), st.booleans())
def test_a_client_reads_frames_as_h2_does(frames: list[bytes], method: bytes, ended: bool) -> None:
    ours, theirs = Http2Protocol(client=True), Http2Protocol(client=True)
    for protocol in (ours, theirs):
        for number in (1, 3):
            protocol.send_head(number, [(b":method", method)], end=ended)
    pieces = [frame(4, 0, 0, b""), *frames]
    assert outcome(ours, ours.receive, pieces) == outcome(theirs, theirs.receive_data, pieces)


SENT = {
    "head_sent": StreamInputs.SEND_HEADERS,
    "data_sent": StreamInputs.SEND_DATA,
    "end_sent": StreamInputs.SEND_END_STREAM,
}


@examples(200)
@given(st.booleans(), st.lists(st.sampled_from(sorted(SENT)), max_size=6))
def test_what_is_sent_sets_the_state_that_h2s_tables_give(served: bool, steps: list[str]) -> None:
    ours, theirs = StreamRecord(1, Http2Protocol(client=not served).config, 1, 1), H2StreamStateMachine(1)
    if served:
        ours.head_received([(b":method", b"GET")], ended=False)
        theirs.process_input(StreamInputs.RECV_HEADERS)
    for step in steps:
        errors = []
        for act in (getattr(ours, step), lambda step=step: theirs.process_input(SENT[step])):
            try:
                act()
            except ProtocolError as error:
                errors.append(type(error))
            else:
                errors.append(None)
        assert errors[0] is errors[1]
        assert all(getattr(ours.state_machine, name) == value for name, value in vars(theirs).items())


def test_a_frame_that_is_too_large_is_refused_by_its_header() -> None:
    protocol = Http2Protocol(client=False)
    protocol.receive(PREFACE + frame(4, 0, 0, b""))
    protocol.data_to_send()
    with pytest.raises(ProtocolError):
        protocol.receive((MAX_FRAME_BYTES + 1).to_bytes(3) + b"\0\0" + (1).to_bytes(4))
    goaway = protocol.data_to_send()
    assert (goaway[3], goaway[13:17]) == (7, ErrorCodes.FRAME_SIZE_ERROR.to_bytes(4))
