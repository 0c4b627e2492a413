"""The rows of all pages, and what one page has of them. Pure but for the event that wakes a page.

A slow page makes the next batch larger, but never makes a queue grow: a row that changes twice before it is
sent is sent once, as it is then.
"""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Final

from devroute.proxy.dashboard.rows import FOR_ADMINS, Row

#: Rows in one batch: about 2 ms of encoding, which blocks the event loop.
BATCH: Final = 200


class Board:
    """`rows`: each by its id, with the version at which it became what it is."""

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, Row]] = {}
        self.version = 0
        self.feeds: set[Feed] = set()

    def update(self, rows: Mapping[str, Row]) -> None:
        """Replace all rows, and wake the pages if that changes something."""
        before, changed = self.rows, self.version + 1
        self.rows = {
            key: before[key] if key in before and before[key][1] == row else (changed, row)
            for key, row in rows.items()
        }
        if before.keys() != self.rows.keys() or any(v == changed for v, _ in self.rows.values()):
            self.version = changed
            for feed in self.feeds:
                feed.awake.set()


class Feed:
    """What one page has. `awake` is set while there may be something to send."""

    def __init__(self, board: Board, *, admin: bool) -> None:
        self.awake = asyncio.Event()
        self.awake.set()
        self._board = board
        self._admin = admin
        self._seen = -1
        self._sent: dict[str, int] = {}

    def batches(self) -> Iterator[dict[str, Any]]:
        """What has changed: rows with their ids, and the ids of those that have gone. `synced` with the last
        batch: the page now has all."""
        self.awake.clear()
        if self._seen == self._board.version:
            return
        self._seen = self._board.version
        rows = {key: each for key, each in self._board.rows.items() if self._admin or _for_all(each[1])}
        gone = [key for key in self._sent if key not in rows]
        changed = [key for key, (version, _) in rows.items() if self._sent.get(key) != version]
        for key in gone:
            del self._sent[key]
        for start in range(0, max(1, len(changed)), BATCH):
            batch = changed[start : start + BATCH]
            self._sent.update((key, rows[key][0]) for key in batch)
            yield {
                "changed": [{"id": key, **rows[key][1]} for key in batch],
                "gone": gone if not start else [],
                "synced": start + BATCH >= len(changed),
            }


def _for_all(row: Row) -> bool:
    return row["kind"] not in FOR_ADMINS
