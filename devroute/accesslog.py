"""One line for each detoured request, when it is over: who answered, how long it took. Never shows a
contract, a query or a body.

The lines have the form that structlog gives all others (log.py), but they are written by hand and many at a
time: an event through structlog costs half as much as relaying a request (25 µs), a line here a few.
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Final, TextIO

import structlog

from devroute.relay import Observed

log = structlog.stdlib.get_logger("devroute.request")

#: Characters of a path that are logged.
MAX_PATH: Final = 512

#: How long a line may wait for others, and how many characters may wait.
FLUSH_SECONDS: Final = 0.1
FLUSH_CHARACTERS: Final = 32 * 1024

_quote: Final[Callable[[str], str]] = json.encoder.encode_basestring_ascii  # in C where Python has it


class AccessLog:
    """JSON lines on `stream`. `flush` writes what waits; call it once more at the end."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._lines: list[str] = []
        self._characters = 0
        self._due: asyncio.TimerHandle | None = None
        self._second = 0
        self._stamp = ""

    def __call__(self, exchange: Observed) -> None:
        """Log an exchange that is over."""
        request = exchange.request
        route = exchange.route
        error = exchange.error
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        path = request.target.partition(b"?")[0][:MAX_PATH].decode("latin-1")
        request_id = exchange.request_id.decode("latin-1")
        if route is not None:
            where = route.label
        elif error is not None:
            where = f'"service": {json.dumps(error.service)}, "target": {json.dumps(error.target)}'
        else:
            where = '"service": null, "target": null'
        line = (
            f'{{"method": "{request.method.decode("ascii")}", "path": {_quote(path)}, '
            f'"status": {exchange.status}, "ms": {exchange.elapsed() * 1000:.1f}, {where}, '
            f'"code": {"null" if error is None else _quote(error.code)}, "bytes_in": {exchange.bytes_in}, '
            f'"bytes_out": {exchange.bytes_out}, "request_id": {_quote(request_id)}, "event": "request", '
            f'"level": "info", "timestamp": "{self._stamp}.{int(now * 1e6) % 1000000:06d}Z"}}\n'
        )
        self._lines.append(line)
        self._characters += len(line)
        if self._characters > FLUSH_CHARACTERS:
            self.flush()
        elif self._due is None:
            self._due = self._loop.call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None
        if self._lines:
            lines = "".join(self._lines)
            self._lines.clear()
            self._characters = 0
            self._stream.write(lines)
            self._stream.flush()


def log_exchange(exchange: Observed) -> None:
    """The same through structlog, for the console: people read a few lines, and want them in colour."""
    request = exchange.request
    route = exchange.route
    error = exchange.error
    log.info(
        f"{request.method.decode('ascii')} {request.target.partition(b'?')[0][:MAX_PATH].decode('latin-1')}",
        status=exchange.status,
        ms=round(exchange.elapsed() * 1000, 1),
        service=route.service if route is not None else error.service if error is not None else None,
        target=route.target if route is not None else error.target if error is not None else None,
        code=error.code if error is not None else None,
    )


def observer(form: str, level: str) -> tuple[Callable[[Observed], None] | None, Callable[[], None]]:
    """What to call with each exchange, if anything, and what to call at the end."""
    if level in ("warning", "error"):
        return None, lambda: None
    if form == "console":
        return log_exchange, lambda: None
    access = AccessLog(sys.stderr)
    return access, access.flush
