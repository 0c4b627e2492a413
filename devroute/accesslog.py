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
from typing import BinaryIO, Final

import structlog

from devroute.errors import DevrouteError
from devroute.relay import Observed

log = structlog.stdlib.get_logger("devroute.request")

#: Characters of a path that are logged.
MAX_PATH: Final = 512

#: How long a line may wait for others, and how many bytes.
FLUSH_SECONDS: Final = 0.1
FLUSH_BYTES: Final = 32 * 1024

_LINE: Final = (
    b'{"method": "%b", "path": "%b", "status": %d, "ms": %.1f, %b, "code": %b, "bytes_in": %d, '
    b'"bytes_out": %d, "request_id": "%b", "event": "request", "level": "info", "timestamp": "%b.%06dZ"}\n'
)


def _quoted(text: bytes) -> bytes:
    """The inside of a JSON string, for the few texts that need it."""
    return json.dumps(text.decode("latin-1"))[1:-1].encode()


def _where(error: DevrouteError | None) -> bytes:
    """Service and target of a request that got no route."""
    service, target = (error.service, error.target) if error is not None else (None, None)
    return f'"service": {json.dumps(service)}, "target": {json.dumps(target)}'.encode()


class AccessLog:
    """JSON lines on `stream`. `flush` writes what waits; call it once more at the end."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._lines: list[bytes] = []
        self._bytes = 0
        self._due: asyncio.TimerHandle | None = None
        self._second = 0
        self._stamp = b""

    def __call__(self, exchange: Observed) -> None:
        """Log an exchange that is over."""
        request = exchange.request
        error = exchange.error
        route = exchange.route
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        path = request.target.partition(b"?")[0][:MAX_PATH]
        if b'"' in path or b"\\" in path:
            path = _quoted(path)
        request_id = exchange.request_id
        if not request_id.replace(b"-", b"").isalnum():
            request_id = _quoted(request_id)
        line = _LINE % (
            request.method,
            path,
            exchange.status,
            exchange.elapsed() * 1000,
            route.label if route is not None else _where(error),
            b"null" if error is None else b'"%b"' % error.code.encode(),
            exchange.bytes_in,
            exchange.bytes_out,
            request_id,
            self._stamp,
            int((now - second) * 1e6),
        )
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
    access = AccessLog(sys.stderr.buffer)
    return access, access.flush
