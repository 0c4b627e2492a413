"""Windows that follow what the network takes in a round trip."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.http.aio.connection import RECEIVE_BYTES
from devroute.tunnel.protocol import frames
from devroute.tunnel.protocol.events import Broken, Data, Event
from devroute.tunnel.protocol.frames import WINDOW, Flag, FrameType
from devroute.tunnel.protocol.stream import Stream
from devroute.tunnel.protocol.windows import LINK_GROWTH, MAX_WINDOW, WindowBudget
from tests.support.examples import examples
from tests.support.wire import HEAD, Wire

PIECE: Final = 64 * 1024
OPENED: Final = int(Flag.CHUNKED)


class Transfer:
    """A body from the proxy to the agent over a network that takes so many bytes in a round trip. `turn` is
    half of one: what was sent before it arrives, in reads of a connection's size."""

    def __init__(self, wire: Wire, in_a_round_trip: int, streams: int = 1) -> None:
        self.wire = wire
        self.ours = [wire.proxy.open(b"foo", HEAD, OPENED, 0) for _ in range(streams)]
        wire.to_agent()
        self.theirs = [wire.agent.streams[each.id] for each in self.ours]
        self.pace = in_a_round_trip // 2 // streams
        self.consumes = True
        self.received = 0
        self.held = dict.fromkeys(self.theirs, 0)
        self._to_agent = self._to_proxy = b""

    def turn(self) -> None:
        there, back = self._to_agent, self._to_proxy
        for start in range(0, len(there), RECEIVE_BYTES):
            for event in self.wire.agent.receive(there[start : start + RECEIVE_BYTES]):
                assert isinstance(event, Data), event
                self.received += len(event.data)
                self.held[event.stream] += len(event.data)
            if self.consumes:
                self._consume()
        assert not any(isinstance(event, Broken) for event in self.wire.proxy.receive(back))
        for stream in self.ours:
            left = self.pace
            while left > 0 and stream.backlog is None and stream.credit:
                self.wire.proxy.send_data(stream, bytes(min(PIECE, left)))
                left -= PIECE
        self._to_agent = b"".join(self.wire.proxy.data_to_send())
        self._to_proxy = b"".join(self.wire.agent.data_to_send())

    def _consume(self) -> None:
        for stream, size in self.held.items():
            self.wire.agent.grant(stream, size)
            self.held[stream] = 0

    def turns(self, count: int) -> int:
        """The number of bytes that arrive in so many turns."""
        before = self.received
        for _ in range(count):
            self.turn()
        return self.received - before


@pytest.mark.parametrize(("taken", "window"), [(1, 1), (2, 2), (3, 4), (7, 8), (20, 8)])
def test_a_window_grows_to_what_the_network_takes_in_a_round_trip(taken: int, window: int) -> None:
    transfer = Transfer(Wire(growth=LINK_GROWTH), taken * WINDOW - WINDOW // 2)
    transfer.turns(60)
    assert transfer.theirs[0].window == window * WINDOW
    assert transfer.ours[0].peer_window == transfer.theirs[0].window
    least = 0.85 * min(taken * WINDOW - WINDOW // 2, MAX_WINDOW)
    assert transfer.turns(20) >= 10 * least


def test_a_window_is_as_large_as_it_has_to_be_within_a_few_round_trips() -> None:
    transfer = Transfer(Wire(growth=LINK_GROWTH), 20 * WINDOW)
    transfer.turns(2 * 8)
    assert transfer.theirs[0].window == MAX_WINDOW


def test_a_peer_that_knows_no_larger_windows_keeps_the_first() -> None:
    transfer = Transfer(Wire(), 20 * WINDOW)
    transfer.turns(40)
    assert transfer.theirs[0].window == transfer.ours[0].peer_window == WINDOW
    assert transfer.turns(20) <= 10 * WINDOW


def test_a_slow_consumer_gets_no_larger_window() -> None:
    transfer = Transfer(Wire(growth=LINK_GROWTH), 20 * WINDOW)
    for turn in range(40):
        transfer.consumes = turn % 8 == 7
        transfer.turn()
    assert transfer.theirs[0].window <= 2 * WINDOW


def test_a_consumer_that_stalls_holds_a_window_and_no_more() -> None:
    transfer = Transfer(Wire(growth=LINK_GROWTH), 20 * WINDOW)
    transfer.turns(40)
    transfer.consumes = False
    transfer.turns(40)
    assert sum(transfer.held.values()) <= MAX_WINDOW


def test_the_windows_of_a_link_grow_within_a_bound_and_room_for_others_returns() -> None:
    wire = Wire(growth=LINK_GROWTH)
    transfer = Transfer(wire, 40 * WINDOW, streams=5)
    transfer.turns(20)
    assert wire.agent.windows is not None
    grown = sum(each.window - WINDOW for each in transfer.theirs)
    assert LINK_GROWTH - MAX_WINDOW < grown == LINK_GROWTH - wire.agent.windows.left
    for stream in transfer.theirs:
        wire.agent.release_window(stream)
        wire.agent.release_window(stream)  # once more changes nothing
    assert wire.agent.windows.left == LINK_GROWTH


def test_a_process_bounds_all_of_its_links() -> None:
    process = WindowBudget(3)
    links = [WindowBudget(2, process), WindowBudget(2, process)]
    assert links[0].take(2)
    assert not links[0].take(1)
    assert not links[1].take(2)
    assert links[1].take(1)
    links[0].give_back(2)
    assert (process.left, links[0].left, links[1].left) == (2, 2, 1)


def sent(stream: Stream, kind: FrameType, flags: int, payload: bytes) -> bytes:
    return frames.HEADER.pack(kind, flags, stream.id, len(payload)) + payload


def test_a_window_beyond_the_largest_is_refused() -> None:
    wire = Wire(growth=LINK_GROWTH)
    ours = wire.proxy.open(b"foo", HEAD, OPENED, 0)
    wire.proxy.send_data(ours, bytes(WINDOW))
    wider = [sent(ours, FrameType.CREDIT, Flag.DOUBLED, frames.CREDIT.pack(WINDOW)) for _ in range(4)]
    assert wire.proxy.receive(b"".join(wider[:3]))  # Writable
    (event,) = wire.proxy.receive(wider[3])
    assert isinstance(event, Broken)
    assert event.error.message == f"CREDIT on stream 1 for a window of more than {MAX_WINDOW} bytes"


def test_credit_beyond_the_window_is_refused_however_large_it_is() -> None:
    wire = Wire(growth=LINK_GROWTH)
    ours = wire.proxy.open(b"foo", HEAD, OPENED, 0)
    (event,) = wire.proxy.receive(sent(ours, FrameType.CREDIT, Flag.DOUBLED, frames.CREDIT.pack(WINDOW + 1)))
    assert isinstance(event, Broken)
    assert "for bytes that were never sent" in event.error.message


def test_a_sender_that_always_claims_to_have_no_credit_gets_one_window_of_its_link_s() -> None:
    wire = Wire(growth=LINK_GROWTH)
    wire.proxy.open(b"foo", HEAD, OPENED, 0)
    theirs = wire.to_agent()[0].stream
    for _ in range(2000):
        (event,) = wire.agent.receive(sent(theirs, FrameType.DATA, Flag.SPENT, bytes(PIECE)))
        assert isinstance(event, Data)
        wire.agent.grant(theirs, PIECE)
    assert theirs.window == MAX_WINDOW
    assert wire.agent.windows is not None
    assert wire.agent.windows.left == LINK_GROWTH - (MAX_WINDOW - WINDOW)


_STEPS = st.lists(st.tuples(st.sampled_from("scap"), st.integers(1, 3 * WINDOW)), max_size=60)


@examples(60)
@given(_STEPS, st.sampled_from([WINDOW, 3 * WINDOW, LINK_GROWTH]))
def test_a_body_arrives_whole_and_nothing_is_overrun_in_any_order(
    steps: list[tuple[str, int]], growth: int
) -> None:
    """Each step: send a piece, consume some, or let what is under way to the agent or to the proxy arrive."""
    wire = Wire(growth=growth)
    ours = wire.proxy.open(b"foo", HEAD, OPENED, 0)
    theirs = wire.to_agent()[0].stream
    sent_bytes = received = held = 0
    ended = False

    def at_agent(events: list[Event]) -> None:
        nonlocal received, held, ended
        for event in events:
            assert not isinstance(event, Broken), event.error.message
            size = len(event.data) if isinstance(event, Data) else 0
            received, held = received + size, held + size
            ended = ended or not isinstance(event, Data) or bool(event.end)

    for what, size in steps:
        if what == "s" and ours.backlog is None:
            wire.proxy.send_data(ours, bytes(size))
            sent_bytes += size
        elif what == "c" and held:
            wire.agent.grant(theirs, min(size, held))
            held -= min(size, held)
        elif what == "a":
            at_agent(wire.to_agent())
        elif what == "p":
            assert not any(isinstance(each, Broken) for each in wire.to_proxy())
        assert held <= theirs.window <= MAX_WINDOW
        assert ours.credit <= ours.peer_window <= theirs.window
        assert wire.agent.windows is not None
        assert theirs.window - WINDOW == growth - wire.agent.windows.left
    wire.proxy.send_end(ours)
    while not ended:
        at_agent(wire.to_agent())
        wire.agent.grant(theirs, held)
        held = 0
        assert not any(isinstance(each, Broken) for each in wire.to_proxy())
    assert received == sent_bytes
