"""Mirrored requests, to a fake upstream."""

import asyncio

import pytest

from devroute.http.message import Framing, RequestHead
from devroute.upstream import mirror
from devroute.upstream.mirror import MirrorBudget, MirrorUpstream
from tests.upstream.fakes import OK, RecordingSink, RecordingUpstream, head


async def test_a_mirrored_request_gets_202_once_it_is_complete_whatever_the_response(
    target: RecordingUpstream, sink: RecordingSink
) -> None:
    stream = MirrorUpstream(target, MirrorBudget(), None).open(head(), sink)
    stream.send_data(b"a")
    target.sink.on_head(OK)
    target.sink.on_data(b"hello")
    await asyncio.sleep(0)
    assert sink.events == []
    stream.send_end([])
    await sink.until(lambda events: "end" in events)
    assert sink.events == [202, "end"]
    assert target.events == ["open", b"a", "end"]


async def test_data_that_the_laptop_does_not_read_wait_in_order(
    target: RecordingUpstream, sink: RecordingSink
) -> None:
    budget = MirrorBudget()
    stream = MirrorUpstream(target, budget, None).open(head(), sink)
    stream.send_data(b"a")
    target.sink.pause_request()
    stream.send_data(b"b")
    stream.send_data(b"c")
    stream.send_end([])
    assert (target.events, budget.waiting_bytes) == (["open", b"a"], 2)
    await sink.until(lambda events: "end" in events)
    target.sink.resume_request()
    assert (target.events, budget.waiting_bytes) == (["open", b"a", b"bc", "end"], 0)
    assert "pause" not in sink.events
    target.sink.on_end([])
    assert not budget.active


@pytest.mark.parametrize("limit", ["MAX_WAITING_BYTES", "MAX_WAITING_TOTAL"])
async def test_a_mirrored_request_with_too_many_waiting_bytes_is_cancelled(
    target: RecordingUpstream, sink: RecordingSink, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, limit, 4)
    budget = MirrorBudget()
    stream = MirrorUpstream(target, budget, None).open(head(), sink)
    target.sink.pause_request()
    stream.send_data(b"1234")
    assert "cancel" not in target.events
    stream.send_data(b"5")
    assert target.events == ["open", "cancel"]
    assert (budget.waiting_bytes, len(budget.active)) == (0, 0)
    stream.send_data(b"6")
    stream.send_end([])
    await sink.until(lambda events: "end" in events)
    assert sink.events == [202, "end"], "the sidecar does not notice"


async def test_a_mirrored_request_has_a_timeout(target: RecordingUpstream, sink: RecordingSink) -> None:
    budget = MirrorBudget()
    MirrorUpstream(target, budget, 0.01).open(head(Framing.NONE), sink)
    await target.until(lambda events: "cancel" in events)
    assert not budget.active
    assert sink.events == [202, "end"]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"", b"baggage: devroute-via=foo\r\n"),
        (b"Baggage: a=b\r\nx: y\r\n", b"x: y\r\nbaggage: a=b,devroute-via=foo\r\n"),
        (b"baggage:\r\n", b"baggage: devroute-via=foo\r\n"),
        (b"baggage: a=b, devroute-via = bar,c=d\r\n", b"baggage: a=b,devroute-via=bar~foo,c=d\r\n"),
        (b"baggage: a=b devroute-via=bar\r\n", b"baggage: a=b devroute-via=bar,devroute-via=foo\r\n"),
        (b"baggage: a=b\r\nbaggage:devroute-via=bar\r\n", b"baggage: a=b,devroute-via=bar~foo\r\n"),
        (b"x: devroute-via=bar\r\n", b"x: devroute-via=bar\r\nbaggage: devroute-via=foo\r\n"),
    ],
)
async def test_without_a_contract_the_service_is_added_to_the_one_baggage_member(
    target: RecordingUpstream, sink: RecordingSink, lines: bytes, expected: bytes
) -> None:
    start = b"GET / HTTP/1.1\r\nhost: foo\r\n"
    request = RequestHead(b"GET", b"/", Framing.NONE, 0, start + lines + b"\r\n")
    MirrorUpstream(target, MirrorBudget(), None, service="foo").open(request, sink)
    assert target.head.wire == start + expected + b"\r\n"
    await sink.until(lambda events: "end" in events)


async def test_a_sidecar_that_cancels_cancels_the_mirrored_request(
    target: RecordingUpstream, sink: RecordingSink
) -> None:
    stream = MirrorUpstream(target, MirrorBudget(), None).open(head(), sink)
    stream.send_data(b"half")
    stream.cancel()
    assert target.events == ["open", b"half", "cancel"]


async def test_too_many_mirrored_requests_and_upgrades_are_read_and_discarded(
    target: RecordingUpstream, sink: RecordingSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "MAX_MIRRORED", 1)
    budget = MirrorBudget()
    MirrorUpstream(target, budget, None).open(head(), RecordingSink())
    assert target.events == ["open"]
    stream = MirrorUpstream(target, budget, None).open(head(), sink)
    stream.send_data(b"x")
    stream.send_end([])
    await sink.until(lambda events: "end" in events)
    MirrorUpstream(target, MirrorBudget(), None).open(head(Framing.UPGRADE), RecordingSink())
    assert target.events == ["open"]
