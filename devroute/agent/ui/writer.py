"""Writes text to a terminal in a thread: a terminal that blocks must not block the tunnel."""

import queue
import threading
from typing import Final, Protocol, TextIO

#: Batches of lines that wait for the terminal.
MAX_BATCHES: Final = 256

#: How long the last text may take, in seconds: the terminal may be blocked.
LAST_SECONDS: Final = 1.0


class LineWriter(Protocol):
    """Takes text of whole lines, without waiting for its reader."""

    def put(self, text: str) -> bool:
        """False if there is no room, and this text is dropped."""

    def close(self) -> None: ...


class TerminalWriter:
    """Queues batches of text for a stream that may block, and drops those that do not fit."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._batches: queue.Queue[str | None] = queue.Queue(MAX_BATCHES)
        self._thread = threading.Thread(target=self._write, name="devroute-writer", daemon=True)
        self._thread.start()

    def put(self, text: str) -> bool:
        """False if the queue is full and this text is dropped."""
        try:
            self._batches.put_nowait(text)
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Write what is queued, if the stream takes it in time."""
        try:
            self._batches.put(None, timeout=LAST_SECONDS)
        except queue.Full:
            return
        self._thread.join(LAST_SECONDS)

    def _write(self) -> None:
        while (text := self._batches.get()) is not None:
            try:
                self._out.write(text)
                self._out.flush()
            except (OSError, ValueError):  # the reader is gone: run on without it
                continue
