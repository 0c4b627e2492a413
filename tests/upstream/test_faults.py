"""The contract's delay, timeout and abort, around a fake upstream."""

from functools import partial

import pytest

from devroute.errors import UpstreamReset, UpstreamTimeout
from devroute.http.message import Framing
from devroute.upstream import deferred
from devroute.upstream.faults import AbortUpstream, Delayed, DelayUpstream, TimeoutUpstream, too_long
from tests.upstream.fakes import OK, SWITCHING, RecordingSink, RecordingUpstream, head, timers_fired

# --- delay -------------------------------------------------------------------------------------------------


async def test_a_delayed_request_arrives_complete_and_in_order(
    target: RecordingUpstream, sink: RecordingSink
) -> None:
    stream = DelayUpstream(target, 0.01, Delayed(9)).open(head(), sink)
    stream.send_data(b"a")
    stream.send_data(b"b")
    assert target.events == []
    await target.until(lambda events: len(events) == 3)
    stream.send_data(b"c")
    stream.send_end([])
    assert target.events == ["open", b"a", b"b", b"c", "end"]
    assert sink.events == []


async def test_a_large_delayed_body_pauses_its_source(
    target: RecordingUpstream, sink: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deferred.DeferredStream, "max_buffered", 4)
    stream = DelayUpstream(target, 0.01, Delayed(9)).open(head(), sink)
    stream.send_data(b"1234")
    assert sink.events == []
    stream.send_data(b"5")
    assert sink.events == ["pause"]
    await sink.until(lambda events: events == ["pause", "resume"])
    assert target.events == ["open", b"1234", b"5"]


async def test_a_request_cancelled_during_its_delay_is_never_sent(
    target: RecordingUpstream, sink: RecordingSink
) -> None:
    DelayUpstream(target, 0.0, Delayed(9)).open(head(), sink).cancel()
    await timers_fired(0.0)
    assert target.events == []


# --- timeout -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("started", [False, True])
async def test_a_timeout_cancels_the_request_and_fails_the_response(
    target: RecordingUpstream, sink: RecordingSink, started: bool
) -> None:
    TimeoutUpstream(target, 0.01, partial(too_long, "alice", 0.01)).open(head(), sink)
    if started:
        target.sink.on_head(OK)
        target.sink.on_data(b"ha")
    await target.until(lambda events: "cancel" in events)
    *before, error = sink.events
    assert before == ([200, b"ha"] if started else [])
    assert isinstance(error, UpstreamTimeout)


@pytest.mark.parametrize("end", ["end", "error", "cancel", "switch"])
async def test_after_the_end_there_is_no_timeout(
    target: RecordingUpstream, sink: RecordingSink, end: str
) -> None:
    stream = TimeoutUpstream(target, 0.01, partial(too_long, "alice", 0.01)).open(head(), sink)
    match end:
        case "end":
            target.sink.on_head(OK)
            target.sink.on_end([])
        case "error":
            target.sink.on_error(UpstreamReset("gone"))
        case "cancel":
            stream.cancel()
        case "switch":  # an upgraded connection has no total time
            target.sink.on_head(SWITCHING)
    before = list(sink.events)
    await timers_fired(0.01)
    assert sink.events == before


# --- abort -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "method", "with_body"),
    [
        (503, b"GET", True),
        (200, b"POST", True),
        (503, b"HEAD", False),
        (204, b"GET", False),
        (304, b"GET", False),
    ],
)
async def test_an_abort_is_a_valid_response(
    sink: RecordingSink, status: int, method: bytes, with_body: bool
) -> None:
    stream = AbortUpstream(status, "foo").open(head(Framing.NONE, method), sink)
    assert sink.events == [], "never before open has returned"
    await sink.until(lambda events: "end" in events)
    assert (sink.events[0], len(sink.events)) == (status, 3 if with_body else 2)
    stream.cancel()
