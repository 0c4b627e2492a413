"""Log lines that are written many at a time, so that each costs its text and no write of its own. Owns when
they are written, and the stamp that they bear; knows nothing of what they say.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Final

#: How long a line may wait for others, and how many bytes.
FLUSH_SECONDS: Final = 0.1
FLUSH_BYTES: Final = 32 * 1024


class LineWriter:
    """Hands lines to `write`, in batches. `flush` writes what waits; call it once more at the end."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._due: asyncio.TimerHandle | None = None
        self._second = 0
        self._stamp = b""

    def stamp(self, now: float) -> bytes:
        """UTC to the second; the same bytes until the next one."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        return self._stamp

    def add(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes > FLUSH_BYTES:
            self.flush()
        elif self._due is None:
            self._due = self._loop.call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._lines:
            lines = b"".join(self._lines)
            self._lines.clear()
            self._bytes = 0
            self._write(lines)


def quoted(text: bytes) -> bytes:
    """The inside of a JSON string, for the few texts that need it."""
    return json.dumps(text.decode("latin-1"))[1:-1].encode()


def identifier(text: bytes) -> bytes:
    """The inside of a JSON string, for texts that are letters and digits as a rule: a request's id."""
    return text if text.replace(b"-", b"").isalnum() else quoted(text)
