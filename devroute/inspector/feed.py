"""Collects the changes of captures for one open page. Pure but for the event that wakes it.

A slow page, or many requests, make the next batch larger, but never make a queue grow: a capture that changes
twice before it is sent is sent once, in its latest state.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from devroute.inspector.capture import Capture
from devroute.inspector.store import CaptureStore
from devroute.inspector.views import as_summary

#: Summaries in one batch: about 2 ms of JSON encoding, which blocks the event loop.
BATCH: Final = 200


class Feed:
    """Subscribes to the store. `awake` is set while there are events to send."""

    def __init__(self, store: CaptureStore) -> None:
        self.awake = asyncio.Event()
        self.awake.set()
        self._store = store
        self._changed = {capture.id: capture for capture in store.newest_first()}
        self._known: dict[int, None] = {}
        self._cleared = False
        self._paused = store.paused
        self._skipped = 0
        self._syncing = True
        self.close: Callable[[], None] = store.subscribe(self._changed_capture)

    def _changed_capture(self, event: str, capture: Capture | None, extra: dict[str, Any]) -> None:
        if capture is None:
            self._changed.clear()
            self._known.clear()
            self._cleared = True
        else:
            self._changed[capture.id] = capture
        self.awake.set()

    def take(self) -> list[tuple[str, dict[str, Any]]]:
        """The next events for the page, as (name, JSON). `awake` stays set if more are due."""
        events: list[tuple[str, dict[str, Any]]] = []
        batch = self._batch()
        if batch:
            events.append(("batch", batch))
        if not self._changed:
            self.awake.clear()
            if self._syncing:
                self._syncing = False
                events.append(("synced", {}))
        return events

    def _batch(self) -> dict[str, Any]:
        batch: dict[str, Any] = {}
        if self._cleared:
            self._cleared = False
            batch["cleared"] = True
        changed = []
        for number in list(self._changed)[:BATCH]:
            capture = self._changed.pop(number)
            if capture.stored:
                self._known[number] = None
                changed.append(as_summary(capture))
        if changed:
            batch["changed"] = changed
        if gone := self._gone():
            batch["gone"] = gone
        if self._store.paused is not self._paused:
            self._paused = batch["paused"] = self._store.paused
        if self._store.skipped != self._skipped:
            self._skipped = batch["skipped"] = self._store.skipped
        return batch

    def _gone(self) -> list[int]:
        """Captures that the page has and the store has dropped: among the oldest, so the search is short."""
        unsent = sum(each.stored and number not in self._known for number, each in self._changed.items())
        surplus = len(self._known) + unsent - len(self._store)
        gone: list[int] = []
        for number in self._known if surplus > 0 else ():
            if self._store.get(number) is None:
                gone.append(number)
                if len(gone) >= surplus:
                    break
        for number in gone:
            del self._known[number]
        return gone
