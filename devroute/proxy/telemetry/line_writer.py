"""JSON lines, put together from bytes and written in batches. Owns when they are written, and the encoding
that access log and audit trail share. Knows no event.
"""

import asyncio
import json
import time
from collections.abc import Callable
from typing import Final

from devroute.quoting import ONLY_IDENTIFIERS

#: Seconds that a line may wait for others, and bytes that may wait.
FLUSH_SECONDS: Final = 0.1
FLUSH_BYTES: Final = 32 * 1024

# Formatting with % would cost as much as everything else about a line.
_NUMBERS: Final[list[bytes]] = [b"%d" % number for number in range(1000)]
_PADDED: Final[list[bytes]] = [b"%03d" % number for number in range(1000)]
_TENTHS: Final[list[bytes]] = [b"%d.%d" % (number // 10, number % 10) for number in range(1000)]


class LineWriter:
    """Passes lines to `write` in batches. `flush` writes what waits; call it once more at the end."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._loop = asyncio.get_running_loop()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._second = 0
        self._date = b""

    def timestamp(self, now: float) -> bytes:
        """RFC 3339 in UTC, to the microsecond; `now` is seconds since the epoch."""
        second = int(now)
        if second != self._second:
            self._second = second
            self._date = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second)).encode()
        micros = int((now - second) * 1e6)
        return self._date + _PADDED[micros // 1000] + _PADDED[micros % 1000] + b"Z"

    def add(self, line: bytes) -> None:
        self._lines.append(line)
        self._bytes += len(line)
        if self._bytes > FLUSH_BYTES:
            self.flush()
        elif self._timer is None:
            self._timer = self._loop.call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._lines:
            lines = b"".join(self._lines)
            self._lines.clear()
            self._bytes = 0
            self._write(lines)


def digits(number: int) -> bytes:
    return _NUMBERS[number] if number < 1000 else b"%d" % number


def tenths(number: int) -> bytes:
    """So many tenths, with a decimal point."""
    return _TENTHS[number] if number < 1000 else b"%d.%d" % (number // 10, number % 10)


def members(fields: dict[str, object]) -> bytes:
    """Members of a JSON object, without its braces."""
    return json.dumps(fields)[1:-1].encode()


def quoted(text: bytes) -> bytes:
    """The inside of a JSON string, for the few texts that need escapes."""
    return json.dumps(text.decode("latin-1"))[1:-1].encode()


def identifier(text: bytes) -> bytes:
    """The inside of a JSON string, for texts that seldom need escapes: a request's id."""
    return text if text.translate(ONLY_IDENTIFIERS) == text else quoted(text)
