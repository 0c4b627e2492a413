"""The access log: a line for each detoured request, once it has completed. Never contains a contract, a query
or a body.

The lines have the form that structlog gives all others (log.py), but are put together by hand and written in
batches: an event through structlog costs 25 µs, half as much as relaying a request; a line here costs 2 µs.
"""

import time
from collections.abc import Callable
from typing import Final

import structlog

from devroute.errors import DevrouteError
from devroute.proxy.downstream.context import CompletedExchange
from devroute.proxy.telemetry.line_writer import LineWriter, digits, identifier, members, quoted
from devroute.routing.route import Route

log = structlog.stdlib.get_logger("devroute.request")

#: Characters of a path that are logged.
MAX_PATH: Final = 512

# As numbers: before it looks for bytes in bytes, Python tries to convert them to one, at ten times the cost.
_QUOTE: Final = 0x22
_BACKSLASH: Final = 0x5C


class AccessLog(LineWriter):
    """JSON lines."""

    def completed(self, exchange: CompletedExchange) -> None:
        request = exchange.request
        error = exchange.error
        route = exchange.route
        path = request.target.partition(b"?")[0][:MAX_PATH]
        if _QUOTE in path or _BACKSLASH in path:
            path = quoted(path)
        tenths = int(exchange.elapsed() * 10_000)  # of a millisecond
        line = b"".join(
            (
                b'{"method": "',
                request.method,
                b'", "path": "',
                path,
                b'", "status": ',
                digits(exchange.status),
                b', "ms": ',
                digits(tenths // 10),
                b".",
                digits(tenths % 10),
                b", ",
                _service(error) if route is None else route.log_members or _render(route),
                b', "code": null' if error is None else b', "code": "%b"' % error.code.encode(),
                b', "bytes_in": ',
                digits(exchange.bytes_in),
                b', "bytes_out": ',
                digits(exchange.bytes_out),
                b', "request_id": "',
                identifier(exchange.request_id),
                b'", "event": "request", "level": "info", "timestamp": "',
                self.timestamp(time.time()),
                b'"}\n',
            )
        )
        self.add(line)


def _render(route: Route) -> bytes:
    """What all requests of a route have in common; rendered once for each."""
    route.log_members = _service(route)
    return route.log_members


def _service(source: Route | DevrouteError | None) -> bytes:
    """Service and target, of a route or of the error in its place."""
    service, target = (None, None) if source is None else (source.service, source.target)
    if isinstance(source, DevrouteError):
        body = source.as_dict()
        service, target = body["service"], body["target"]
    named: dict[str, object] = {"service": service, "target": target}
    if isinstance(source, Route) and source.replica is not None:
        named["replica"] = source.replica
    return members(named)


def log_exchange(exchange: CompletedExchange) -> None:
    """The same through structlog, for the console, where people read a few coloured lines."""
    request = exchange.request
    error = exchange.error
    source = exchange.route or error
    log.info(
        f"{request.method.decode('ascii')} {request.target.partition(b'?')[0][:MAX_PATH].decode('latin-1')}",
        status=exchange.status,
        ms=round(exchange.elapsed() * 1000, 1),
        service=None if source is None else source.service,
        target=None if source is None else source.target,
        code=None if error is None else error.code,
        **(
            {}
            if exchange.route is None or exchange.route.replica is None
            else {"replica": exchange.route.replica}
        ),
    )


def request_log(
    form: str, level: str, write: Callable[[bytes], None]
) -> tuple[Callable[[CompletedExchange], None] | None, Callable[[], None]]:
    """What to call with each exchange, or None, and what to call at the end. `write` takes lines of JSON."""
    if level in ("warning", "error"):
        return None, lambda: None
    if form == "console":
        return log_exchange, lambda: None
    access = AccessLog(write)
    return access.completed, access.flush
