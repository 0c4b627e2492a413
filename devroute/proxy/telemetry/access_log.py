"""One line for each detoured request, when it is over: who answered, how long it took. Never shows a
contract, a query or a body.

The lines have the form that structlog gives all others (log.py), but they are written by hand and many at a
time: an event through structlog costs half as much as relaying a request (25 µs), a line here a few.
"""

import contextlib
import json
import sys
import time
from collections.abc import Callable
from typing import BinaryIO, Final

import structlog

from devroute.errors import DevrouteError
from devroute.proxy.downstream.context import CompletedExchange
from devroute.proxy.telemetry.line_writer import LineWriter, identifier, quoted
from devroute.routing.route import Route

log = structlog.stdlib.get_logger("devroute.request")

#: Characters of a path that are logged.
MAX_PATH: Final = 512

# As numbers: looking for bytes in bytes, Python first tries to make a number of them, at ten times the price.
_QUOTE: Final = 0x22
_BACKSLASH: Final = 0x5C

# Formatting with % would cost as much as everything else about a line.
_NUMBERS: Final[list[bytes]] = [b"%d" % number for number in range(1000)]
_PADDED: Final[list[bytes]] = [b"%03d" % number for number in range(1000)]


def _digits(number: int) -> bytes:
    return _NUMBERS[number] if number < 1000 else b"%d" % number


def _route_members(route: Route) -> bytes:
    """Service and target, rendered once for each route."""
    if not route.log_members:
        route.log_members = _where(route)
    return route.log_members


def _where(known: Route | DevrouteError | None) -> bytes:
    """Service and target, of a route or of an error that kept a request from getting one."""
    service, target = (None, None) if known is None else (known.service, known.target)
    return f'"service": {json.dumps(service)}, "target": {json.dumps(target)}'.encode()


class AccessLog(LineWriter):
    """JSON lines on `stream`. Those that cannot be written are lost, as in log.py."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__(self._to_stream)
        self._stream = stream

    def _to_stream(self, lines: bytes) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(lines)
            self._stream.flush()

    def completed(self, exchange: CompletedExchange) -> None:
        """Log an exchange that is over. Not __call__, which mypyc gets wrong where a class has a base."""
        request = exchange.request
        error = exchange.error
        route = exchange.route
        now = time.time()
        path = request.target.partition(b"?")[0][:MAX_PATH]
        if _QUOTE in path or _BACKSLASH in path:
            path = quoted(path)
        tenths = int(exchange.elapsed() * 10_000)  # of a millisecond
        micros = int((now - int(now)) * 1e6)
        line = b"".join(
            (
                b'{"method": "',
                request.method,
                b'", "path": "',
                path,
                b'", "status": ',
                _digits(exchange.status),
                b', "ms": ',
                _digits(tenths // 10),
                b".",
                _NUMBERS[tenths % 10],
                b", ",
                _route_members(route) if route is not None else _where(error),
                b', "code": null' if error is None else b', "code": "%b"' % error.code.encode(),
                b', "bytes_in": ',
                _digits(exchange.bytes_in),
                b', "bytes_out": ',
                _digits(exchange.bytes_out),
                b', "request_id": "',
                identifier(exchange.request_id),
                b'", "event": "request", "level": "info", "timestamp": "',
                self.stamp(now),
                b".",
                _PADDED[micros // 1000],
                _PADDED[micros % 1000],
                b'Z"}\n',
            )
        )
        self.add(line)


def log_exchange(exchange: CompletedExchange) -> None:
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


def request_log(
    form: str, level: str
) -> tuple[Callable[[CompletedExchange], None] | None, Callable[[], None]]:
    """What to call with each exchange, if anything, and what to call at the end."""
    if level in ("warning", "error"):
        return None, lambda: None
    if form == "console":
        return log_exchange, lambda: None
    access = AccessLog(sys.stderr.buffer)
    return access.completed, access.flush
