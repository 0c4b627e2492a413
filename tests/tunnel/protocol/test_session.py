"""Dialogues between a proxy and an agent. Requests go >>, responses <<, in the order that the lines say."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import ProtocolError
from devroute.tunnel.protocol import frames
from devroute.tunnel.protocol.events import Broken, Data, Ended, GoAway, Head, Opened, Pong, Reset, Writable
from devroute.tunnel.protocol.frames import (
    CREDITS_PER_WINDOW,
    FIRST_AGENT_ID,
    MAX_STREAM_ID,
    WINDOW,
    Flag,
    FrameType,
)
from devroute.tunnel.protocol.session import Role, Session
from devroute.tunnel.protocol.stream import BODY, CLOSED, HEADLESS, NEXT, TRANSITIONS, Stream
from tests.support.examples import examples
from tests.support.wire import HEAD, OK, Wire, in_pieces

NO_BODY = int(Flag.END)


def raw(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return frames.HEADER.pack(kind, flags, stream, len(payload)) + payload


def broken(events: list[Any]) -> ProtocolError:
    assert isinstance(events[-1], Broken)
    return events[-1].error


# --- the way it goes -------------------------------------------------------------------------------------


def test_a_request_and_its_response() -> None:
    wire = Wire()
    ours = wire.proxy.open(b"foo", HEAD, NO_BODY, 0)
    (opened,) = wire.to_agent()
    theirs = opened.stream
    assert opened == Opened(theirs, b"foo", NO_BODY, 0, HEAD)
    wire.agent.send_head(theirs, OK)
    assert wire.agent.send_data(theirs, b"hello")
    wire.agent.send_end(theirs)
    assert wire.to_proxy() == [Head(ours, OK, 0), Data(ours, b"hello", 1)]
    assert not wire.proxy.streams
    assert not wire.agent.streams


def test_end_rides_on_the_newest_frame_only_while_that_has_not_left() -> None:
    wire = Wire()
    ours = wire.proxy.open(b"foo", HEAD, 0, 3)
    wire.proxy.send_data(ours, b"abc")
    wire.proxy.send_end(ours)
    opened, data = wire.to_agent()
    assert data == Data(opened.stream, b"abc", 1)
    wire.agent.send_head(opened.stream, OK)
    assert wire.to_proxy() == [Head(ours, OK, 0)]
    wire.agent.send_end(opened.stream)
    assert wire.to_proxy() == [Ended(ours, [])]


@pytest.mark.parametrize(("flags", "length"), [(Flag.CHUNKED, 0), (0, 3), (Flag.UPGRADE, 0)])
def test_the_end_of_a_body_never_rides_on_open_which_would_say_that_there_is_no_body(
    flags: int, length: int
) -> None:
    wire = Wire()
    ours = wire.proxy.open(b"foo", HEAD, flags, length)
    wire.proxy.send_end(ours)
    opened, end = wire.to_agent()
    assert (opened.flags, end) == (flags, Ended(opened.stream, []))


def test_end_rides_on_its_own_stream_among_others() -> None:
    wire = Wire()
    first, second = wire.proxy.open(b"a", HEAD, 0, 0), wire.proxy.open(b"b", HEAD, 0, 0)
    wire.proxy.send_data(first, b"1")
    wire.proxy.send_data(second, b"2")
    wire.proxy.send_end(first)
    assert [(e.stream.id, e.data, e.end) for e in wire.to_agent() if isinstance(e, Data)] == [
        (1, b"1", 1),
        (2, b"2", 0),
    ]


def test_informational_heads_come_before_the_final_one() -> None:
    wire = Wire()
    ours = wire.proxy.open(b"foo", HEAD, NO_BODY, 0)
    theirs = wire.to_agent()[0].stream
    hints = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    wire.agent.send_head(theirs, hints, Flag.INFORMATIONAL)
    wire.agent.send_head(theirs, OK, Flag.END)
    assert wire.to_proxy() == [Head(ours, hints, Flag.INFORMATIONAL), Head(ours, OK, Flag.END)]
    assert not wire.proxy.streams


def test_trailers_end_a_half() -> None:
    wire = Wire()
    ours = wire.proxy.open(b"foo", HEAD, Flag.CHUNKED, 0)
    theirs = wire.to_agent()[0].stream
    wire.proxy.send_end(ours, [(b"digest", b"x")])
    assert wire.to_agent() == [Ended(theirs, [(b"digest", b"x")])]
    wire.agent.send_head(theirs, OK)
    wire.agent.send_end(theirs, [(b"grpc-status", b"0")])
    assert wire.to_proxy() == [Head(ours, OK, 0), Ended(ours, [(b"grpc-status", b"0")])]


def test_a_response_may_end_before_its_request() -> None:
    wire = Wire()
    ours = wire.proxy.open(b"foo", HEAD, 0, 10)
    theirs = wire.to_agent()[0].stream
    wire.agent.send_head(theirs, OK, Flag.END)
    wire.to_proxy()
    assert wire.proxy.streams == {1: ours}, "half-close is a state"
    wire.proxy.send_data(ours, b"0123456789")
    wire.proxy.send_end(ours)
    assert wire.to_agent() == [Data(theirs, b"0123456789", 1)]
    assert not wire.proxy.streams
    assert not wire.agent.streams


def test_an_upgraded_stream_is_two_pipes_that_close_independently() -> None:
    wire = Wire()
    ours = wire.proxy.open(b"foo", HEAD, Flag.UPGRADE, 0)
    theirs = wire.to_agent()[0].stream
    wire.agent.send_head(theirs, b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Flag.UPGRADE)
    wire.to_proxy()
    wire.proxy.send_data(ours, b"ping")
    wire.proxy.send_end(ours)
    assert wire.to_agent() == [Data(theirs, b"ping", 1)]
    wire.agent.send_data(theirs, b"pong")
    assert wire.to_proxy() == [Data(ours, b"pong", 0)]
    wire.agent.send_end(theirs)
    assert wire.to_proxy() == [Ended(ours, [])]
    assert not wire.proxy.streams


def test_a_reset_ends_both_halves_and_crossing_frames_are_ignored() -> None:
    wire = Wire()
    ours = wire.proxy.open(b"foo", HEAD, 0, 5)
    theirs = wire.to_agent()[0].stream
    wire.agent.send_head(theirs, OK)
    wire.agent.send_data(theirs, b"hel")
    wire.proxy.reset(ours, "cancelled", "the client went away")
    assert wire.to_proxy() == []
    assert wire.to_agent() == [Reset(theirs, frames.Reason("cancelled", "the client went away", ""))]
    wire.agent.send_data(theirs, b"lo")
    wire.agent.send_end(theirs)
    wire.agent.reset(theirs, "internal", "too late")
    assert not wire.agent.has_output, "a stream that was reset sends nothing"


def test_a_frame_cut_by_a_reset_is_skipped_to_its_end() -> None:
    wire = Wire()
    first = wire.proxy.open(b"a", HEAD, NO_BODY, 0)
    second = wire.proxy.open(b"b", HEAD, NO_BODY, 0)
    wire.to_agent()
    wire.proxy.receive(raw(4, 0, 1, OK) + raw(5, 1, 1, b"x" * 100)[:50])
    wire.proxy.reset(first, "cancelled", "")
    assert wire.proxy.receive(b"x" * 60 + raw(4, 1, 2, OK)) == [Head(second, OK, 1)]


def test_only_the_newest_of_many_pings_is_answered() -> None:
    wire = Wire()
    for number in range(1000):
        wire.proxy.ping(b"%d" % number)
    assert wire.to_agent() == []
    assert wire.agent.has_output
    assert wire.to_proxy() == [Pong(b"999")]


def test_goaway_stops_new_streams_and_leaves_open_ones() -> None:
    wire = Wire()
    ours = wire.proxy.open(b"foo", HEAD, NO_BODY, 0)
    theirs = wire.to_agent()[0].stream
    wire.agent.goaway("leaving", "Ctrl-C")
    assert wire.to_proxy() == [GoAway(frames.Reason("leaving", "Ctrl-C", ""))]
    with pytest.raises(ValueError, match="cannot open"):
        wire.proxy.open(b"foo", HEAD, NO_BODY, 0)
    wire.agent.send_head(theirs, OK, Flag.END)
    assert wire.to_proxy() == [Head(ours, OK, Flag.END)]


# --- credit ------------------------------------------------------------------------------------------------


def test_a_sender_stops_at_its_credit_and_goes_on_when_an_eighth_of_it_was_consumed() -> None:
    wire = Wire()
    ours = wire.proxy.open(b"foo", HEAD, 0, 3 * WINDOW)
    theirs = wire.to_agent()[0].stream
    assert wire.proxy.send_data(ours, b"a" * (WINDOW - 1))
    assert not wire.proxy.send_data(ours, b"bcd")
    assert not wire.proxy.send_data(ours, b"efg")
    received = wire.to_agent()
    assert b"".join(e.data for e in received) == b"a" * (WINDOW - 1) + b"b"
    wire.agent.grant(theirs, WINDOW // CREDITS_PER_WINDOW - 1)
    assert wire.to_proxy() == []
    wire.agent.grant(theirs, 1)
    assert wire.to_proxy() == [Writable(ours)]
    assert b"".join(e.data for e in wire.to_agent()) == b"cdefg"
    assert wire.proxy.send_data(ours, b"h")


def test_an_end_waits_behind_data_without_credit() -> None:
    wire = Wire()
    ours = wire.proxy.open(b"foo", HEAD, 0, WINDOW + 1)
    theirs = wire.to_agent()[0].stream
    wire.proxy.send_data(ours, b"a" * (WINDOW + 1))
    wire.proxy.send_end(ours, [(b"t", b"1")])
    wire.to_agent()
    assert theirs.inbound == BODY
    wire.agent.grant(theirs, WINDOW)
    assert wire.to_proxy() == [Writable(ours)], "its owner learns that the end is sent"
    assert ours.outbound == CLOSED
    assert wire.to_agent() == [Data(theirs, b"a", 0), Ended(theirs, [(b"t", b"1")])]


def test_a_stalled_stream_delays_no_other() -> None:
    wire = Wire()
    stalled = wire.proxy.open(b"foo", HEAD, 0, 2 * WINDOW)
    wire.proxy.send_data(stalled, b"a" * 2 * WINDOW)
    wire.to_agent()
    wire.proxy.open(b"foo", HEAD, NO_BODY, 0)
    assert [type(e) for e in wire.to_agent()] == [Opened]


def test_a_reset_drops_what_waited_for_credit() -> None:
    wire = Wire()
    ours = wire.proxy.open(b"foo", HEAD, 0, 2 * WINDOW)
    wire.proxy.send_data(ours, b"a" * 2 * WINDOW)
    wire.proxy.reset(ours, "cancelled", "")
    assert ours.backlog is None
    assert not wire.proxy.streams


# --- attacks -----------------------------------------------------------------------------------------------

#: What an agent sends, and the reason for which the proxy ends the link.
ATTACKS_ON_THE_PROXY = {
    "a type that is not in use": (raw(15, 0, 1), "frame type 15 is unknown"),
    "type zero": (raw(0, 0, 0), "frame type 0 is unknown"),
    "agent opens": (
        raw(FrameType.OPEN, 0, 2, b"\0" * 8 + b"\x01aGET / HTTP/1.1\r\n\r\n"),
        "OPEN is not allowed here",
    ),
    "welcome from an agent": (raw(FrameType.WELCOME, 0, 0), "WELCOME is not allowed here"),
    "renewed from an agent": (raw(FrameType.RENEWED, 0, 0), "RENEWED is not allowed here"),
    "second hello": (raw(FrameType.HELLO, 0, 0), "HELLO is not allowed here"),
    "head of a stream never opened": (raw(FrameType.HEAD, 0, 2, OK), "stream 2, which was never opened"),
    "data for a stream never opened": (raw(FrameType.DATA, 0, 99, b"x"), "stream 99, which was never opened"),
    "credit for a stream never opened": (
        raw(FrameType.CREDIT, 0, 99, b"\0\0\0\1"),
        "stream 99, which was never opened",
    ),
    "reset of a stream never opened": (
        raw(FrameType.RESET, 0, 99, b"a\nb\nc"),
        "stream 99, which was never opened",
    ),
    "data before the head": (raw(FrameType.DATA, 0, 1, b"x"), "DATA on stream 1 before its HEAD"),
    "end before the head": (raw(FrameType.END, 0, 1), "END on stream 1 before its HEAD"),
    "trailers before the head": (raw(FrameType.TRAILERS, 0, 1), "TRAILERS on stream 1 before its HEAD"),
    "two heads": (raw(FrameType.HEAD, 0, 1, OK) * 2, "HEAD on stream 1 in its body"),
    "an informational head that ends": (raw(FrameType.HEAD, 3, 1, OK), "HEAD on stream 1 before its HEAD"),
    "overrun in one frame": (
        raw(FrameType.HEAD, 0, 1, OK) + frames.HEADER.pack(5, 0, 1, WINDOW + 1),
        f"DATA of {WINDOW + 1} bytes; at most {WINDOW} are allowed",
    ),
    "overrun in two frames": (
        raw(FrameType.HEAD, 0, 1, OK)
        + raw(FrameType.DATA, 0, 1, b"x" * WINDOW)
        + raw(FrameType.DATA, 0, 1, b"x"),
        "DATA of 1 bytes on stream 1 overruns its credit of 0",
    ),
    "endless head": (
        frames.HEADER.pack(FrameType.HEAD, 0, 1, 0xFFFFFFFF),
        "HEAD of 4294967295 bytes; at most",
    ),
    "end with a payload": (raw(FrameType.END, 0, 1, b"x"), "END of 1 bytes; at most 0"),
    "credit for what was never sent": (
        raw(FrameType.CREDIT, 0, 1, b"\0\0\0\1"),
        "CREDIT on stream 1 for bytes that were never sent",
    ),
    "credit of nothing": (raw(FrameType.CREDIT, 0, 1, b"\0\0\0\0"), "CREDIT for 0 bytes"),
    "half a credit": (raw(FrameType.CREDIT, 0, 1, b"\0\1"), "CREDIT of 2 bytes"),
    "ping on a stream": (raw(FrameType.PING, 0, 1), "PING on stream 1"),
    "long ping": (raw(FrameType.PING, 0, 0, b"123456789"), "PING of 9 bytes; at most 8"),
    "flags on end": (raw(FrameType.END, 1, 1), "END with flags 0x01"),
    "reset without a code": (raw(FrameType.RESET, 0, 1, b"?"), "a reason of 1 lines instead of 3"),
    "goaway that is not text": (raw(FrameType.GOAWAY, 0, 0, b"\xff\xfe\n\n"), "a reason is not UTF-8"),
    "renewal on a stream": (raw(FrameType.RENEW, 0, 1, b"token"), "RENEW on stream 1"),
    "two renewals at once": (raw(FrameType.RENEW, 0, 0, b"token") * 2, "RENEW before the "),
    "long renewal": (frames.HEADER.pack(FrameType.RENEW, 0, 0, 8193), "RENEW of 8193 bytes; at most 8192"),
}


@pytest.mark.parametrize("name", ATTACKS_ON_THE_PROXY)
def test_an_agent_that_breaks_a_rule_is_sent_the_reason_and_read_no_further(name: str) -> None:
    attack, reason = ATTACKS_ON_THE_PROXY[name]
    wire = Wire()
    wire.proxy.open(b"foo", HEAD, NO_BODY, 0)
    wire.to_agent()
    error = broken(wire.proxy.receive(attack))
    assert reason in error.message
    assert wire.proxy.receive(raw(FrameType.HEAD, 0, 1, OK)) == []
    (goaway,) = [e for e in wire.to_agent() if isinstance(e, GoAway)]
    assert goaway.reason.code == "tunnel-protocol"
    assert goaway.reason.message == error.message


#: What a proxy sends, and the reason for which the agent ends the link.
ATTACKS_ON_THE_AGENT = {
    "proxy sends a head": (raw(FrameType.HEAD, 0, 1, OK), "HEAD is not allowed here"),
    "hello from a proxy": (raw(FrameType.HELLO, 0, 0), "HELLO is not allowed here"),
    "second welcome": (raw(FrameType.WELCOME, 0, 0), "WELCOME is not allowed here"),
    "renewal from a proxy": (raw(FrameType.RENEW, 0, 0), "RENEW is not allowed here"),
    "renewed without a renewal": (raw(FrameType.RENEWED, 0, 0), "RENEWED without a RENEW"),
    "open on the link": (raw(FrameType.OPEN, 0, 0), "OPEN on stream 0"),
    "open without a head": (raw(FrameType.OPEN, 0, 1, b"\0" * 8 + b"\x01a"), "OPEN without a whole head"),
    "data before any stream": (raw(FrameType.DATA, 0, 1, b"x"), "stream 1, which was never opened"),
}


@pytest.mark.parametrize("name", ATTACKS_ON_THE_AGENT)
def test_a_proxy_that_breaks_a_rule_is_sent_the_reason_and_read_no_further(name: str) -> None:
    attack, reason = ATTACKS_ON_THE_AGENT[name]
    wire = Wire()
    error = broken(wire.agent.receive(attack))
    assert reason in error.message
    assert wire.agent.receive(raw(FrameType.PING, 0, 0)) == []
    (goaway,) = [e for e in wire.to_proxy() if isinstance(e, GoAway)]
    assert (goaway.reason.code, goaway.reason.message) == ("tunnel-protocol", error.message)


def test_a_frame_after_the_end_of_a_half_is_refused() -> None:
    wire = Wire()
    wire.proxy.open(b"foo", HEAD, 0, 5)
    wire.to_agent()
    wire.proxy.receive(raw(FrameType.HEAD, 1, 1, OK))
    assert "after its end" in broken(wire.proxy.receive(raw(FrameType.DATA, 0, 1, b"x"))).message


def test_streams_beyond_the_limit_are_refused_on_both_sides() -> None:
    wire = Wire(max_streams=2)
    opens = [frames.OPEN_HEADER.pack(3, 1, n, 9 + 1 + len(HEAD), 0, 1) + b"a" + HEAD for n in (1, 2, 3)]
    events = wire.agent.receive(b"".join(opens))
    assert [type(e) for e in events] == [Opened, Opened, Broken]
    assert broken(events).message == "more than 2 streams are open"
    wire.proxy.open(b"a", HEAD, NO_BODY, 0)
    wire.proxy.open(b"a", HEAD, NO_BODY, 0)
    assert len(wire.proxy.streams) == wire.proxy.max_streams
    with pytest.raises(ValueError, match="cannot open"):
        wire.proxy.open(b"a", HEAD, NO_BODY, 0)


def test_a_stream_id_is_never_used_again() -> None:
    wire = Wire()
    frame = frames.OPEN_HEADER.pack(3, 1, 7, 9 + 1 + len(HEAD), 0, 1) + b"a" + HEAD
    assert broken(wire.agent.receive(frame + frame)).message == "stream 7 was opened before"


@pytest.mark.parametrize(("role", "first"), [(Role.PROXY, FrameType.PING), (Role.AGENT, FrameType.OPEN)])
def test_the_first_frame_is_the_greeting(role: Role, first: FrameType) -> None:
    end = Session(role)
    payload = b"" if first is FrameType.PING else b"\0" * 8 + b"\x01aGET / HTTP/1.1\r\n\r\n"
    error = broken(end.receive(raw(first, 0, int(first is FrameType.OPEN), payload)))
    assert error.message == f"{first.name} is not allowed here"


def test_an_agent_waits_for_its_welcome() -> None:
    proxy = Session(Role.PROXY)
    error = broken(proxy.receive(raw(FrameType.HELLO, 0, 0) + raw(FrameType.PING, 0, 0)))
    assert error.message == "PING is not allowed here"


def test_a_long_head_in_single_bytes_is_kept_once() -> None:
    wire = Wire()
    wire.proxy.open(b"foo", HEAD, NO_BODY, 0)
    long = b"HTTP/1.1 200 OK\r\nx: " + b"y" * 60_000 + b"\r\n\r\n"
    events = in_pieces(wire.proxy, raw(FrameType.HEAD, 1, 1, long), range(70_000))
    assert [e.raw for e in events] == [long]


# --- streams of the agent -----------------------------------------------------------------------------------

FIRST = FIRST_AGENT_ID


def test_an_agent_opens_a_stream_and_the_proxy_responds() -> None:
    wire = Wire(reach=True)
    ours = wire.agent.open(b"c.shop:80", HEAD, 0, 5)
    wire.agent.send_data(ours, b"hello")
    wire.agent.send_end(ours)
    opened, data = wire.to_proxy()
    theirs = opened.stream
    assert (opened, theirs.id) == (Opened(theirs, b"c.shop:80", 0, 5, HEAD), FIRST)
    assert data == Data(theirs, b"hello", 1)
    wire.proxy.send_head(theirs, OK)
    wire.proxy.send_data(theirs, b"hello")
    wire.proxy.send_end(theirs, [(b"grpc-status", b"0")])
    assert wire.to_agent() == [
        Head(ours, OK, 0),
        Data(ours, b"hello", 0),
        Ended(ours, [(b"grpc-status", b"0")]),
    ]
    for end in (wire.agent, wire.proxy):
        assert (len(end.streams), end.opened, end.accepted, end.streams_so_far) == (0, 0, 0, 1)


def test_streams_of_both_sides_have_ids_credit_and_limits_of_their_own() -> None:
    wire = Wire(reach=True, max_streams=2)
    pairs = [(wire.proxy.open(b"b", HEAD, 0, 0), wire.agent.open(b"c", HEAD, 0, 0)) for _ in range(2)]
    assert [(one.id, other.id) for one, other in pairs] == [(1, FIRST), (2, FIRST + 1)]
    for end in (wire.proxy, wire.agent):
        with pytest.raises(ValueError, match="cannot open"):
            end.open(b"b", HEAD, 0, 0)
    assert [type(event) for event in wire.to_agent() + wire.to_proxy()] == [Opened] * 4
    assert (wire.proxy.opened, wire.proxy.accepted) == (wire.agent.opened, wire.agent.accepted) == (2, 2)
    assert not wire.proxy.send_data(pairs[0][0], b"x" * WINDOW)
    assert wire.agent.send_data(pairs[0][1], b"x")
    wire.agent.reset(pairs[0][1], "cancelled", "")
    wire.to_proxy()
    assert (wire.proxy.opened, wire.proxy.accepted, wire.proxy.resets) == (2, 1, 1)
    wire.proxy.reset(pairs[1][0], "cancelled", "")
    wire.to_agent()
    assert (wire.agent.opened, wire.agent.accepted, wire.agent.resets) == (1, 1, 1)


def test_a_connection_is_two_pipes_that_the_agent_and_the_proxy_close_independently() -> None:
    wire = Wire(reach=True)
    ours = wire.agent.open(b"tcp://orders-db:5432", HEAD, Flag.UPGRADE, 0)
    theirs = wire.to_proxy()[0].stream
    wire.proxy.send_head(theirs, b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Flag.UPGRADE)
    wire.to_agent()
    wire.agent.send_data(ours, b"ping")
    wire.agent.send_end(ours)
    assert wire.to_proxy() == [Data(theirs, b"ping", 1)]
    wire.proxy.send_data(theirs, b"pong")
    assert wire.to_agent() == [Data(ours, b"pong", 0)]
    wire.proxy.send_end(theirs)
    assert wire.to_agent() == [Ended(ours, [])]
    assert not wire.agent.streams


def test_goaway_stops_the_new_streams_of_the_agent_too() -> None:
    wire = Wire(reach=True)
    ours = wire.agent.open(b"c", HEAD, NO_BODY, 0)
    wire.proxy.goaway("draining", "")
    wire.to_agent()
    with pytest.raises(ValueError, match="cannot open"):
        wire.agent.open(b"c", HEAD, NO_BODY, 0)
    theirs = wire.to_proxy()[0].stream
    wire.proxy.send_head(theirs, OK, Flag.END)
    assert wire.to_agent() == [Head(ours, OK, Flag.END)]


def opening(number: int) -> bytes:
    return frames.OPEN_HEADER.pack(3, 1, number, 9 + 1 + len(HEAD), 0, 1) + b"a" + HEAD


#: With reach: who breaks a rule, what is sent, and the reason for which the other side ends the link.
ATTACKS_WITH_REACH = {
    "an agent opens with an id of the proxy's": ("agent", opening(2), "opened with an id of the other side"),
    "a proxy opens with an id of the agent's": ("proxy", opening(FIRST + 1), "an id of the other side"),
    "an agent opens a stream twice": ("agent", opening(FIRST + 1) * 2, f"{FIRST + 1} was opened before"),
    "an agent opens an older stream": ("agent", opening(FIRST), f"stream {FIRST} was opened before"),
    "data of an agent for a stream never opened": (
        "agent", raw(FrameType.DATA, 0, FIRST + 1, b"x"), "which was never opened",
    ),
    "data of a proxy for a stream never opened": (
        "proxy", raw(FrameType.DATA, 0, FIRST + 1, b"x"), "which was never opened",
    ),
    "a head of the agent on its own stream": ("agent", raw(FrameType.HEAD, 0, FIRST, OK), "in its body"),
    "data of the proxy before the head": ("proxy", raw(FrameType.DATA, 0, FIRST, b"x"), "before its HEAD"),
    "an overrun of the agent": (
        "agent",
        raw(FrameType.DATA, 0, FIRST, b"x" * WINDOW) + raw(FrameType.DATA, 0, FIRST, b"x"),
        "overruns its credit of 0",
    ),
    "an agent opens without a whole head": (
        "agent", raw(FrameType.OPEN, 0, FIRST + 1, b"\0" * 8 + b"\x01a"), "OPEN without a whole head",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS_WITH_REACH)
def test_a_side_that_breaks_a_rule_of_reach_is_sent_the_reason(name: str) -> None:
    attacker, attack, reason = ATTACKS_WITH_REACH[name]
    wire = Wire(reach=True)
    wire.agent.open(b"c", HEAD, 0, 5)
    wire.to_proxy()
    victim = wire.proxy if attacker == "agent" else wire.agent
    assert reason in broken(victim.receive(attack)).message


def test_an_agent_has_a_limit_of_open_streams() -> None:
    proxy = Wire(reach=True, max_streams=2).proxy
    events = proxy.receive(b"".join(opening(FIRST + n) for n in range(3)))
    assert [type(e) for e in events] == [Opened, Opened, Broken]
    assert broken(events).message == "more than 2 streams are open"


def test_ids_that_an_agent_leaves_out_count_as_no_streams() -> None:
    """Each stream permits some control frames more."""
    proxy = Wire(reach=True).proxy
    proxy.receive(opening(MAX_STREAM_ID))
    assert proxy.streams_so_far == 1


@examples(60)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3 * WINDOW), st.booleans()), max_size=25))
def test_bodies_arrive_whole_in_both_directions_at_once(steps: list[tuple[bool, int, bool]]) -> None:
    """Each step: a side opens a stream, sends a body, and its receiver reads to the end, or the sender gives
    up."""
    wire = Wire(reach=True)
    for from_agent, size, gives_up in steps:
        sender, receiver = (wire.agent, wire.proxy) if from_agent else (wire.proxy, wire.agent)
        carry = wire.to_proxy if from_agent else wire.to_agent
        back = wire.to_agent if from_agent else wire.to_proxy
        ours = sender.open(b"s", HEAD, int(Flag.CHUNKED), 0)
        sender.send_data(ours, bytes(size))
        sender.send_end(ours)
        received, ended = 0, False
        while not ended:
            for event in carry():
                if isinstance(event, Data):
                    received += len(event.data)
                    receiver.grant(event.stream, len(event.data))
                    ended = ended or bool(event.end)
                ended = ended or isinstance(event, Ended)
            assert not any(isinstance(event, Broken) for event in back())
        assert received == size
        theirs = receiver.streams[ours.id]
        if gives_up:
            sender.reset(ours, "cancelled", "")
        else:
            receiver.send_head(theirs, OK, Flag.END)
        assert not any(isinstance(event, Broken) for event in (*carry(), *back()))
    assert not wire.proxy.streams
    assert not wire.agent.streams
    assert wire.proxy.accepted == wire.agent.accepted == 0


# --- laws --------------------------------------------------------------------------------------------------


def test_the_fast_table_is_the_table() -> None:
    for state, kind, flags in itertools.product((HEADLESS, BODY, CLOSED), FrameType, range(4)):
        assert NEXT[state][kind * 4 + flags] == TRANSITIONS.get((state, kind, flags), -1)


def _conversation() -> tuple[bytes, list[Any]]:
    wire = Wire()
    for flags in (NO_BODY, 0, int(Flag.UPGRADE), NO_BODY):
        wire.proxy.open(b"foo", HEAD, flags, 0)
    streams = [e.stream for e in wire.to_agent()]
    agent = wire.agent
    agent.send_head(streams[0], b"HTTP/1.1 103 Early\r\n\r\n", Flag.INFORMATIONAL)
    agent.send_head(streams[0], OK)
    agent.send_head(streams[2], b"HTTP/1.1 101 Switch\r\n\r\n", Flag.UPGRADE)
    agent.send_data(streams[0], b"hello" * 50)
    agent.send_data(streams[2], bytes(range(256)))
    agent.send_end(streams[0], [(b"grpc-status", b"0")])
    agent.reset(streams[1], "app-unreachable", "nothing listens", "start it")
    agent.ping(b"12345678")
    agent.send_head(streams[3], OK)
    agent.send_data(streams[3], b"x")
    agent.send_end(streams[3])
    agent.goaway("leaving", "")
    return b"".join(agent.data_to_send()), streams


def _told(events: list[Any]) -> dict[int, list[Any]]:
    """Per stream: bodies joined, everything else in order."""
    told: dict[int, list[Any]] = {}
    for event in events:
        stream = getattr(event, "stream", None)
        lines = told.setdefault(stream.id if stream else 0, [])
        if isinstance(event, Data):
            if lines and lines[-1][0] == "data":
                lines[-1] = ("data", lines[-1][1] + event.data, event.end)
            else:
                lines.append(("data", event.data, event.end))
        else:
            lines.append((type(event).__name__, *(v for v in event if not isinstance(v, Stream))))
    return told


BYTES, _ = _conversation()


def _listener() -> Session:
    wire = Wire()
    for flags in (NO_BODY, 0, int(Flag.UPGRADE), NO_BODY):
        wire.proxy.open(b"foo", HEAD, flags, 0)
    return wire.proxy


@examples(60)
@given(st.lists(st.integers(1, len(BYTES)), max_size=40))
def test_any_split_of_the_bytes_gives_the_same_events(cuts: list[int]) -> None:
    assert _told(in_pieces(_listener(), BYTES, cuts)) == _told(_listener().receive(BYTES))


@examples(150)
@given(st.integers(0, len(BYTES) - 1), st.integers(0, 255), st.lists(st.integers(1, len(BYTES)), max_size=3))
def test_a_changed_byte_gives_events_or_one_broken_and_never_an_exception(
    place: int, value: int, cuts: list[int]
) -> None:
    data = BYTES[:place] + bytes((value,)) + BYTES[place + 1 :]
    events = in_pieces(_listener(), data, cuts)
    assert sum(isinstance(e, Broken) for e in events) <= 1
    assert not any(isinstance(e, Broken) for e in events[:-1])


@examples(40)
@given(st.lists(st.tuples(st.integers(1, 400_000), st.booleans()), max_size=25))
def test_a_body_arrives_whole_at_any_pace_of_its_consumer(steps: list[tuple[int, bool]]) -> None:
    wire = Wire()
    ours = wire.proxy.open(b"foo", HEAD, int(Flag.CHUNKED), 0)
    theirs = wire.to_agent()[0].stream
    sent = received = owed = 0
    for size, consumes in steps:
        wire.proxy.send_data(ours, bytes(size))
        sent += size
        for event in wire.to_agent():
            received += len(event.data)
            owed += len(event.data)
        assert owed <= WINDOW, "nobody holds more than a window"
        if consumes:
            wire.agent.grant(theirs, owed)
            owed = 0
            wire.to_proxy()
    wire.proxy.send_end(ours)
    while theirs.inbound != CLOSED:
        wire.agent.grant(theirs, owed)
        owed = 0
        wire.to_proxy()
        for event in wire.to_agent():
            if isinstance(event, Data):
                received += len(event.data)
                owed += len(event.data)
    assert received == sent
