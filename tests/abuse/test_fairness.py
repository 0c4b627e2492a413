"""One connection that sends many small messages at once, and the turns of the loop that others get."""

import asyncio

import pytest
from hpack import Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from devroute.downstream.http1 import MAX_AT_ONCE
from devroute.http.http2.protocol import MAX_EVENTS, PREFACE, Http2Protocol
from tests.conformance.port import data_port
from tests.support.eventually import PATIENCE_S

FIELDS = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"foo")]

#: Both are refused at once, which costs more than to read them: 300 ms for all of them.
PIPELINED = b"GET / HTTP/1.1\r\nhost: foo\r\n\r\n" * 900


def resets(count: int) -> bytes:
    block = Encoder().encode(FIELDS)
    frames = [SettingsFrame(0).serialize()]
    for number in range(1, 2 * count, 2):
        frames.append(HeadersFrame(number, data=block, flags=["END_HEADERS", "END_STREAM"]).serialize())
        frames.append(RstStreamFrame(number, error_code=8).serialize())
    return PREFACE + b"".join(frames)


@pytest.mark.parametrize("sent", [PIPELINED, resets(900)], ids=["pipelined requests", "streams and resets"])
async def test_many_small_requests_in_one_read_leave_others_their_turns(sent: bytes) -> None:
    assert len(sent) < 100 * 1024  # one read
    async with data_port() as port:
        client = await port.dial()
        client.writer.write(sent)
        turns = 0
        async with asyncio.timeout(PATIENCE_S):
            while len(port.exchanges) < 900:
                await asyncio.sleep(0)
                turns += 1
    assert turns >= 900 // max(MAX_AT_ONCE, MAX_EVENTS)


@pytest.mark.parametrize(
    "frame",
    [DataFrame(1), RstStreamFrame(1), WindowUpdateFrame(1, window_increment=1), SettingsFrame(flags=["ACK"])],
    ids=lambda frame: type(frame).__name__,
)
def test_frames_that_belong_to_no_stream_are_read_in_parts_too(frame: Frame) -> None:
    wire = Http2Protocol(client=False)
    wire.receive(resets(1))
    wire.forget(1)
    wire.data_to_send()
    sent = frame.serialize() * 2000
    events = wire.receive(sent)
    turns = 1
    while wire.more:
        assert len(wire.data_to_send()) <= MAX_EVENTS * 13
        events += wire.receive(b"")
        turns += 1
    assert turns >= 2000 // MAX_EVENTS
    assert len(events) == 2000


def test_a_read_is_reported_in_parts_and_to_its_end() -> None:
    wire = Http2Protocol(client=False)
    events = wire.receive(resets(200))
    assert len(events) <= MAX_EVENTS + 2
    assert wire.more
    while wire.more:
        events += wire.receive(b"")
    assert sum(type(event).__name__ == "RequestReceived" for event in events) == 200
    assert sum(type(event).__name__ == "StreamReset" for event in events) == 200
