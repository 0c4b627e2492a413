"""When what no peer waits for is done: after all that was written in a turn of the loop has been sent."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from devroute.http.aio.connection import READ_TURN, Connection


class Transport(asyncio.Transport):
    def __init__(self, happened: list[str]) -> None:
        super().__init__()
        self._happened = happened

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def write(self, data: Any) -> None:
        self._happened.append(f"sent {bytes(data).decode()}")


def read(loop: asyncio.AbstractEventLoop, happened: list[str], text: str) -> None:
    """What a connection does that is read, and sends back what it has got."""
    connection = Connection(loop)
    connection.connection_made(Transport(happened))
    READ_TURN.begin(loop)
    READ_TURN.after_flush(lambda: happened.append(f"noted {text}"))
    connection.write(text.encode())
    assert f"sent {text}" not in happened
    READ_TURN.finish()


@pytest.fixture
def loops() -> Iterator[tuple[asyncio.AbstractEventLoop, asyncio.AbstractEventLoop]]:
    both = asyncio.new_event_loop(), asyncio.new_event_loop()
    yield both
    for each in both:
        each.close()


Loops = tuple[asyncio.AbstractEventLoop, asyncio.AbstractEventLoop]


def turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(asyncio.sleep(0))


def test_what_is_to_be_noted_waits_until_all_connections_of_a_turn_have_sent(loops: Loops) -> None:
    happened: list[str] = []
    loop, _ = loops
    for text in ("a", "b"):
        read(loop, happened, text)
    assert happened == ["sent a", "sent b"]
    turn(loop)
    assert happened == ["sent a", "sent b", "noted a", "noted b"]
    read(loop, happened, "c")
    turn(loop)
    assert happened[4:] == ["sent c", "noted c"]


def test_all_of_a_turn_is_one_callback_of_the_loop(loops: Loops, monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []
    calls: list[object] = []
    loop, _ = loops
    original = loop.call_soon

    def counted(callback: Any, *args: Any, **more: Any) -> asyncio.Handle:
        calls.append(callback)
        return original(callback, *args, **more)

    monkeypatch.setattr(loop, "call_soon", counted)
    for text in ("a", "b", "c"):
        read(loop, happened, text)
    assert len(calls) == 1


def test_what_a_loop_that_was_stopped_has_left_keeps_no_other_loop_from_its_own(loops: Loops) -> None:
    happened: list[str] = []
    first, second = loops
    read(first, happened, "a")
    read(second, happened, "b")
    turn(second)
    assert happened == ["sent a", "sent b", "noted b"]
    read(first, happened, "c")
    turn(first)
    assert happened[3:] == ["sent c", "noted a", "noted c"]


def test_outside_of_a_read_it_is_done_at_once() -> None:
    happened: list[str] = []
    READ_TURN.after_flush(lambda: happened.append("noted"))
    assert happened == ["noted"]
