"""Finished requests get their lines in batches, and beyond what is shown are only counted."""

import asyncio

import pytest

from devroute.agent.finished_requests import FinishedRequests
from devroute.agent.ui.fan_out import FanOut
from devroute.agent.ui.lines import MAX_LINES, LineReporter
from devroute.inspector.redaction import redaction
from devroute.tunnel.served_stream import Finished
from tests.agent.ui.test_lines import Lines
from tests.support.eventually import eventually

DONE = Finished("foo", "GET", "/items", 200, 0.0, 0.0015, 12, "", "", b"GET /items HTTP/1.1\r\n\r\n")


class Laptop:
    def __init__(self) -> None:
        self.lines = Lines()
        self.reporter = FanOut(LineReporter("text", self.lines))
        self.advised: list[Finished] = []
        loop = asyncio.get_running_loop()
        self.finished = FinishedRequests(self.reporter, redaction(), loop, self.advised.append)


async def test_lines_are_written_until_none_waits() -> None:
    laptop = Laptop()
    for _ in range(100):
        laptop.finished.observe(DONE)
    assert not laptop.lines.text
    await eventually(lambda: laptop.lines.text.count("GET /items") == 100)
    assert not laptop.reporter.waiting


async def test_what_is_not_shown_is_counted_and_there_is_room_again_after_a_flush() -> None:
    laptop = Laptop()
    for _ in range(MAX_LINES + 7):
        laptop.finished.observe(DONE)
    assert laptop.reporter.full
    laptop.finished.flush()
    assert "(7 more requests are not shown)" in laptop.lines.text
    laptop.finished.observe(DONE._replace(target="/next"))
    laptop.finished.close()
    laptop.reporter.close()
    assert laptop.lines.text.count("GET /items") == MAX_LINES
    assert laptop.lines.text.count("GET /next") == 1


async def test_at_the_end_those_that_were_not_shown_are_counted() -> None:
    laptop = Laptop()
    for _ in range(MAX_LINES + 7):
        laptop.finished.observe(DONE)
    laptop.finished.close()
    laptop.reporter.close()
    assert "(7 more requests are not shown)" in laptop.lines.text


async def test_a_success_is_only_counted_while_no_more_are_shown() -> None:
    laptop = Laptop()
    assert not laptop.finished.counted()
    for _ in range(MAX_LINES):
        laptop.finished.observe(DONE)
    assert [laptop.finished.counted() for _ in range(3)] == [True, True, True]
    laptop.finished.count = laptop.advised.append  # metrics want all of them
    assert not laptop.finished.counted()
    laptop.finished.flush()
    assert "(3 more requests are not shown)" in laptop.lines.text


async def test_requests_of_devroute_itself_end_but_are_not_shown() -> None:
    laptop = Laptop()
    ended: list[bytes] = []
    counted: list[Finished] = []
    laptop.finished.ended, laptop.finished.count = ended.append, counted.append
    outgoing = DONE._replace(outgoing=True)
    for each in (DONE._replace(service="@notice", target="/own"), outgoing, DONE):
        laptop.finished.observe(each)
    laptop.finished.flush()
    assert ended == [DONE.head, DONE.head]
    assert counted == [DONE]
    assert "/own" not in laptop.lines.text
    assert laptop.lines.text.count("GET /items") == 2


@pytest.mark.parametrize(
    ("finished", "advised"),
    [
        (DONE, False),
        (DONE._replace(status=403, refusal=b"Invalid Host header"), True),
        (DONE._replace(status=0, code="upstream-reset"), True),
        (DONE._replace(status=0, code="upstream-reset", rule="fail"), False),
        (DONE._replace(status=0, code="upstream-reset", outgoing=True), False),
    ],
)
async def test_advice_is_for_what_the_app_itself_did(finished: Finished, advised: bool) -> None:
    laptop = Laptop()
    laptop.finished.observe(finished)
    assert laptop.advised == ([finished] if advised else [])
