"""An event loop of timers only, whose time passes when a test says so."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass
class Timer:
    when: float
    fire: Callable[[], object]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


class Clock(asyncio.AbstractEventLoop):
    def __init__(self) -> None:
        self._now = 1000.0
        self._timers: list[Timer] = []

    def time(self) -> float:
        return self._now

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> "asyncio.Future[Any]":
        return asyncio.Future(loop=self)

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, **_: Any) -> Timer:  # type: ignore[override]
        timer = Timer(when, lambda: callback(*args))
        self._timers.append(timer)
        return timer

    def call_later(self, delay: float, callback: Callable[..., object], *args: Any, **_: Any) -> Timer:  # type: ignore[override]
        return self.call_at(self._now + delay, callback, *args)

    def pass_time(self, seconds: float) -> None:
        """Fire what is due within these seconds, each timer at its own time."""
        end = self._now + seconds
        while due := [timer for timer in self._timers if not timer.cancelled and timer.when <= end]:
            first = min(due, key=lambda timer: timer.when)
            self._timers.remove(first)
            self._now = max(self._now, first.when)
            first.fire()
        self._now = end
