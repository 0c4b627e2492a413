"""Requests and responses that are held at a breakpoint, until the page continues them, the caller gives up or
their time is up. Owns their number and their time, never what is done with them (held_streams.py).
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from time import monotonic, time
from typing import Any, Final, Literal

from devroute.errors import NotFound

#: Messages that are held at a time; further ones pass. Each keeps up to MAX_HELD_BYTES of its body.
MAX_HELD: Final = 32
MAX_HELD_BYTES: Final = 1024 * 1024

#: Seconds after which a held message continues by itself: time to think, and less than the hour for which the
#: proxy waits for a response unless its settings say otherwise.
HOLD_SECONDS: Final = 600.0

#: Seconds between two looks for an open page, and without one until everything continues: a page that is
#: reloaded, or reconnects, is back by then.
LOOK_SECONDS: Final = 1.0
GONE_SECONDS: Final = 4.0

Side = Literal["request", "response"]


class Held(ABC):
    """A message that waits. `id` is set while it does."""

    def __init__(self, side: Side, label: str, service: str) -> None:
        self.id = 0
        self.side: Side = side
        self.label = label
        self.service = service
        self.since = 0.0

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """What a list of held messages shows: method, target, status of a response; redacted."""

    @abstractmethod
    def detail(self) -> dict[str, Any]:
        """The message as it can be edited; redacted."""

    @abstractmethod
    def proceed(self, edits: Mapping[str, Any], why: str = "") -> None:
        """Let it pass, edited. Raises RequestMalformed, and holds it on then. `why`: what ended the wait, if
        not the page."""

    @abstractmethod
    def respond(self, edits: Mapping[str, Any]) -> None:
        """Send this response to the caller instead. Raises RequestMalformed."""

    @abstractmethod
    def abort(self) -> None:
        """End it, as if the app had closed the connection."""


class Breakpoints:
    """`changed` is called when the list of held messages changes. Each of `watchers` says whether a page is
    open."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.watchers: list[Callable[[], bool]] = []
        self.held: dict[int, Held] = {}
        self._changed = changed
        self._last_id = 0
        self._looking: asyncio.TimerHandle | None = None
        self._seen = 0.0  # when a page was last open

    def _watched(self) -> bool:
        return any(watches() for watches in self.watchers)

    def obstacle(self) -> str:
        """Why nothing can be held now, "" if it can."""
        if not self._watched():
            return "no page of the inspector is open"
        return f"{MAX_HELD} are held already" if len(self.held) >= MAX_HELD else ""

    def hold(self, held: Held) -> None:
        loop = asyncio.get_running_loop()
        self._last_id += 1
        held.id = self._last_id
        held.since = monotonic()
        self.held[held.id] = held
        if self._looking is None:
            self._seen = held.since
            self._looking = loop.call_later(LOOK_SECONDS, self._look)
        self._changed()

    def drop(self, held: Held) -> float:
        """It waits no more; returns for how many seconds it did."""
        if self.held.pop(held.id, None) is None:
            return 0.0
        held.id = 0
        if not self.held and self._looking is not None:
            self._looking.cancel()
            self._looking = None
        self._changed()
        return monotonic() - held.since

    def get(self, number: int) -> Held:
        held = self.held.get(number)
        if held is None:
            raise NotFound(
                f"nothing is held as {number}",
                hint="its caller has given up, its time was up, or another page continued it",
            )
        return held

    def touched(self) -> None:
        """More of a held message has arrived."""
        self._changed()

    def release(self, why: str) -> None:
        """Let everything pass unedited."""
        for held in list(self.held.values()):
            held.proceed({}, why)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = monotonic()
        self._looking = loop.call_later(LOOK_SECONDS, self._look)
        if self._watched():
            self._seen = now
        elif now - self._seen >= GONE_SECONDS:
            self.release("the inspector's page was closed")
        for held in list(self.held.values()):
            if now - held.since >= HOLD_SECONDS:
                held.proceed({}, "its time was up")

    def summaries(self) -> list[dict[str, Any]]:
        """For the page; `until` is Unix time in seconds."""
        now, clock = monotonic(), time()
        return [
            {
                "id": each.id,
                "side": each.side,
                "rule": each.label,
                "service": each.service,
                "since": round(clock - (now - each.since), 3),
                "until": round(clock + HOLD_SECONDS - (now - each.since), 3),
                **each.summary(),
            }
            for each in self.held.values()
        ]
