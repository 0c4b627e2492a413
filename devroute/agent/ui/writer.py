"""Text on its way to a terminal, through a thread of its own: a terminal that stands still must not stop the
tunnel. Knows nothing of what the text says.
"""

import queue
import threading
from typing import Final, TextIO

#: Batches of lines that wait for the terminal; each holds what happened since the one before.
MAX_BATCHES: Final = 256

#: How long the last lines may take when devroute ends, in seconds.
LAST_SECONDS: Final = 1.0


class TerminalWriter:
    """Writes batches of text to a stream that may block, and forgets those that do not fit."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._batches: queue.Queue[str | None] = queue.Queue(MAX_BATCHES)
        self._thread = threading.Thread(target=self._write, name="devroute-printer", daemon=True)
        self._thread.start()

    def put(self, text: str) -> bool:
        """False: the stream is too far behind, and this text is lost."""
        try:
            self._batches.put_nowait(text)
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Let what is queued be written, if the stream takes it in time."""
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
            except (OSError, ValueError):  # the reader has gone: run on in silence
                continue
