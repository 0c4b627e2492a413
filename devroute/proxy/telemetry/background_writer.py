"""Lines written by a thread: a terminal, pipe or disk may stall for any time, and the loop must not.

Owns what waits to be written, its bound, and the count of what was lost while the writing stalled or failed.
Knows nothing of what the lines say.
"""

import os
import select
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

#: Bytes that may wait: a second of lines at 10,000 requests a second.
MAX_WAITING: Final = 4 * 1024 * 1024
#: Seconds that what waits may take at the end.
CLOSE_SECONDS: Final = 2.0

STALLED: Final = "what reads it has stalled"


class LinesLost(Exception):
    """So many of the lines given were not written, or not whole."""

    def __init__(self, count: int, reason: str) -> None:
        super().__init__(reason)
        self.count = count
        self.reason = reason


class LineFile:
    """A descriptor that whole lines are appended to. A line that was cut off is ended before the next one, so
    that a disk that was full damages no later line."""

    def __init__(self, descriptor: int, *, torn: bool = False) -> None:
        """`torn`: its last line has no end."""
        self.descriptor = descriptor
        self._torn = torn

    def write(self, lines: bytes) -> None:
        """Blocks. Raises LinesLost."""
        rest = memoryview(b"\n" + lines if self._torn else lines)
        try:
            while rest:
                count = self._write_some(rest)
                self._torn = rest[count - 1] != ord("\n")
                rest = rest[count:]
        except OSError as error:
            lost = min(bytes(rest).count(b"\n"), lines.count(b"\n"))
            raise LinesLost(lost, error.strerror or str(error)) from None

    def _write_some(self, data: memoryview) -> int:
        while True:
            try:
                return os.write(self.descriptor, data)
            except BlockingIOError:  # another process made the description that it shares with us so
                select.select([], [self.descriptor], [])


class BackgroundWriter:
    """`write` returns at once, from any thread. `lost` counts lines that were not written."""

    def __init__(self, write: Callable[[bytes], None], limit: int = MAX_WAITING) -> None:
        """`write` may block, and raises LinesLost; its thread starts with the first line. `limit`: bytes that
        may wait."""
        self._write = write
        self._limit = limit
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        # Each has one thread that changes it, or the lock.
        self._accepted = self._finished = 0
        self._refused = self._failed = 0
        self._stalled_at: int | None = None  # how much had been written when lines were refused
        self._failure: str | None = None

    @property
    def waiting(self) -> int:
        """Bytes that have not been written yet."""
        return self._accepted - self._finished

    @property
    def lost(self) -> int:
        return self._refused + self._failed

    @property
    def problem(self) -> str | None:
        """Why the newest lines are lost, or would be if they were not short enough for what room is left."""
        return STALLED if self._stalled_at is not None and self.waiting else self._failure

    def write(self, lines: bytes) -> None:
        """Lines that end with a newline, or b"" to have the thread look at its file."""
        with self._lock:
            if self.waiting + len(lines) > self._limit:
                self._stalled_at = self._finished
                self._refused += lines.count(b"\n")
                return
            if self._stalled_at != self._finished:
                self._stalled_at = None
            if self._thread is None and not self._start():
                self._refused += lines.count(b"\n")
                return
            self._accepted += len(lines)
        self._queue.put(lines)

    def _start(self) -> bool:
        """Start the thread; whether it could be started."""
        thread = threading.Thread(target=self._run, name="lines", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # a limit of processes or memory
            self._failure = str(error)
            return False
        self._thread = thread
        return True

    def close(self) -> bool:
        """Wait for what is still to be written, in bounded time. Returns whether all was."""
        if self._thread is None:
            return True
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (lines := self._queue.get()) is not None:
            try:
                self._write(lines)
                self._failure = None
            except LinesLost as lost:
                self._failed += lost.count
                self._failure = lost.reason
            self._finished += len(lines)
