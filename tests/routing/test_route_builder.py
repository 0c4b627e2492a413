"""What stands around an upstream: faults that a contract asks for, and copies. No socket: a fake upstream."""

import asyncio
from collections.abc import Callable

import pytest

from devroute.errors import DevrouteError, UpstreamReset, UpstreamTimeout
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.upstream import faults, mirror
from devroute.upstream.faults import AbortUpstream, DelayUpstream, TimeoutUpstream
from devroute.upstream.interface import ResponseSink, UpstreamStream
from devroute.upstream.mirror import MirrorBudget, MirrorUpstream

OK = parse_response_head(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", b"GET")
SWITCHING = parse_response_head(b"HTTP/1.1 101 Now\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", b"GET")


def head(framing: Framing = Framing.CHUNKED, method: bytes = b"POST") -> RequestHead:
    return RequestHead(method, b"/", framing, 0, b"")


async def after_timers(seconds: float) -> None:
    """Until all timers have fired that were set before, for as long or less: timers keep their order."""
    fired = asyncio.Event()
    asyncio.get_running_loop().call_later(seconds, fired.set)
    await fired.wait()


class Heard:
    """A sink that writes down what it hears."""

    def __init__(self) -> None:
        self.events: list[object] = []
        self.news = asyncio.Event()

    def _hear(self, event: object) -> None:
        self.events.append(event)
        self.news.set()

    async def until(self, met: Callable[[list[object]], bool]) -> None:
        async with asyncio.timeout(5):
            while not met(self.events):
                self.news.clear()
                await self.news.wait()

    def on_informational(self, head: ResponseHead) -> None:
        self._hear(head.status)

    def on_head(self, head: ResponseHead) -> None:
        self._hear(head.status)

    def on_data(self, data: bytes) -> None:
        self._hear(data)

    def on_end(self, trailers: Headers) -> None:
        self._hear("end")

    def on_error(self, error: DevrouteError) -> None:
        self._hear(error)

    def pause_request(self) -> None:
        self._hear("pause")

    def resume_request(self) -> None:
        self._hear("resume")


class Target(Heard):
    """An upstream that writes down what it gets; `sink` is whom to answer, `head` what was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.sink: ResponseSink
        self.head: RequestHead

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        self.head, self.sink = head, sink
        self._hear("open")
        return self

    def send_data(self, data: bytes) -> None:
        self._hear(data)

    def send_end(self, trailers: Headers) -> None:
        self._hear("end")

    def cancel(self) -> None:
        self._hear("cancel")

    def pause_response(self) -> None:
        self._hear("pause")

    def resume_response(self) -> None:
        self._hear("resume")


@pytest.fixture
def target() -> Target:
    return Target()


@pytest.fixture
def sink() -> Heard:
    return Heard()


# --- delay -------------------------------------------------------------------------------------------------


async def test_a_delayed_request_arrives_whole_and_in_order(target: Target, sink: Heard) -> None:
    stream = DelayUpstream(target, 0.01).open(head(), sink)
    stream.send_data(b"a")
    stream.send_data(b"b")
    assert target.events == []
    await target.until(lambda events: len(events) == 3)
    stream.send_data(b"c")
    stream.send_end([])
    assert target.events == ["open", b"a", b"b", b"c", "end"]
    assert sink.events == []


async def test_a_large_body_waits_where_it_comes_from(
    target: Target, sink: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "MAX_BUFFERED_BYTES", 4)
    stream = DelayUpstream(target, 0.01).open(head(), sink)
    stream.send_data(b"1234")
    assert sink.events == []
    stream.send_data(b"5")
    assert sink.events == ["pause"]
    await sink.until(lambda events: events == ["pause", "resume"])
    assert target.events == ["open", b"1234", b"5"]


async def test_who_goes_while_waiting_leaves_nothing(target: Target, sink: Heard) -> None:
    DelayUpstream(target, 0.0).open(head(), sink).cancel()
    await after_timers(0.0)
    assert target.events == []


# --- timeout -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", [False, True])
async def test_what_takes_too_long_is_stopped_on_both_sides(target: Target, sink: Heard, begun: bool) -> None:
    TimeoutUpstream(target, 0.01, "alice").open(head(), sink)
    if begun:
        target.sink.on_head(OK)
        target.sink.on_data(b"ha")
    await target.until(lambda events: "cancel" in events)
    *before, error = sink.events
    assert before == ([200, b"ha"] if begun else [])
    assert isinstance(error, UpstreamTimeout)


@pytest.mark.parametrize("end", ["end", "error", "cancel", "switch"])
async def test_what_is_over_in_time_hears_no_more(target: Target, sink: Heard, end: str) -> None:
    stream = TimeoutUpstream(target, 0.01, "alice").open(head(), sink)
    match end:
        case "end":
            target.sink.on_head(OK)
            target.sink.on_end([])
        case "error":
            target.sink.on_error(UpstreamReset("gone"))
        case "cancel":
            stream.cancel()
        case "switch":  # a pipe has no total time
            target.sink.on_head(SWITCHING)
    before = list(sink.events)
    await after_timers(0.01)
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
async def test_an_abort_is_an_answer_that_http_allows(
    sink: Heard, status: int, method: bytes, with_body: bool
) -> None:
    stream = AbortUpstream(status, "foo").open(head(Framing.NONE, method), sink)
    assert sink.events == [], "never before open has returned"
    await sink.until(lambda events: "end" in events)
    assert (sink.events[0], len(sink.events)) == (status, 3 if with_body else 2)
    stream.cancel()


# --- copies ------------------------------------------------------------------------------------------------


async def test_a_copy_is_acknowledged_when_it_is_complete_whatever_its_answer(
    target: Target, sink: Heard
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


async def test_what_the_target_does_not_take_waits_in_order(target: Target, sink: Heard) -> None:
    copies = MirrorBudget()
    stream = MirrorUpstream(target, copies, None).open(head(), sink)
    stream.send_data(b"a")
    target.sink.pause_request()
    stream.send_data(b"b")
    stream.send_data(b"c")
    stream.send_end([])
    assert (target.events, copies.waiting_bytes) == (["open", b"a"], 2)
    await sink.until(lambda events: "end" in events)
    target.sink.resume_request()
    assert (target.events, copies.waiting_bytes) == (["open", b"a", b"bc", "end"], 0)
    assert "pause" not in sink.events
    target.sink.on_end([])
    assert not copies.active


@pytest.mark.parametrize("limit", ["MAX_WAITING_BYTES", "MAX_WAITING_TOTAL"])
async def test_a_copy_that_waits_for_too_much_is_given_up(
    target: Target, sink: Heard, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, limit, 4)
    copies = MirrorBudget()
    stream = MirrorUpstream(target, copies, None).open(head(), sink)
    target.sink.pause_request()
    stream.send_data(b"1234")
    assert "cancel" not in target.events
    stream.send_data(b"5")
    assert target.events == ["open", "cancel"]
    assert (copies.waiting_bytes, len(copies.active)) == (0, 0)
    stream.send_data(b"6")
    stream.send_end([])
    await sink.until(lambda events: "end" in events)
    assert sink.events == [202, "end"], "the sidecar hears nothing of it"


async def test_a_copy_has_its_time(target: Target, sink: Heard) -> None:
    copies = MirrorBudget()
    MirrorUpstream(target, copies, 0.01).open(head(Framing.NONE), sink)
    await target.until(lambda events: "cancel" in events)
    assert not copies.active
    assert sink.events == [202, "end"]


@pytest.mark.parametrize(
    ("lines", "marked"),
    [
        (b"", b"baggage: devroute-via=foo\r\n"),
        (b"Baggage: a=b\r\n", b"Baggage: devroute-via=foo,a=b\r\n"),
        (b"baggage:\r\n", b"baggage:\r\nbaggage: devroute-via=foo\r\n"),
        (b"baggage: a=b, devroute-via=bar,c=d\r\n", b"baggage: a=b, devroute-via=foo~bar,c=d\r\n"),
        (
            b"baggage: a=b\r\nbaggage:devroute-via=bar\r\n",
            b"baggage: a=b\r\nbaggage:devroute-via=foo~bar\r\n",
        ),
        (b"x: devroute-via=bar\r\n", b"x: devroute-via=bar\r\nbaggage: devroute-via=foo\r\n"),
    ],
)
async def test_a_copy_without_a_contract_says_in_its_one_baggage_which_service_it_is_of(
    target: Target, sink: Heard, lines: bytes, marked: bytes
) -> None:
    start = b"GET / HTTP/1.1\r\nhost: foo\r\n"
    asked = RequestHead(b"GET", b"/", Framing.NONE, 0, start + lines + b"\r\n")
    MirrorUpstream(target, MirrorBudget(), None, service="foo").open(asked, sink)
    assert target.head.wire == start + marked + b"\r\n"
    await sink.until(lambda events: "end" in events)


async def test_a_sidecar_that_gives_up_ends_the_copy(target: Target, sink: Heard) -> None:
    stream = MirrorUpstream(target, MirrorBudget(), None).open(head(), sink)
    stream.send_data(b"half")
    stream.cancel()
    assert target.events == ["open", b"half", "cancel"]


async def test_too_many_copies_and_pipes_are_read_and_thrown_away(
    target: Target, sink: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror, "MAX_MIRRORED", 1)
    copies = MirrorBudget()
    MirrorUpstream(target, copies, None).open(head(), Heard())
    assert target.events == ["open"]
    stream = MirrorUpstream(target, copies, None).open(head(), sink)
    stream.send_data(b"x")
    stream.send_end([])
    await sink.until(lambda events: "end" in events)
    MirrorUpstream(target, MirrorBudget(), None).open(head(Framing.UPGRADE), Heard())
    assert target.events == ["open"]
