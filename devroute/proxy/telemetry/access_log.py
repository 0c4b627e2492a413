"""The access log: a line for each detoured request, once it has completed. Never contains a contract, a query
or a body.

The lines have the form that structlog gives all others (log.py), but are put together by hand and written in
batches: an event through structlog costs 25 µs, half as much as relaying a request; a line here costs some
2 µs (bench/telemetry_cost.py).

A request that failed, with an error of devroute or a status of 500 or more, is logged as a warning, always;
of the others the setting log_sample may choose a share.
"""

import logging
import time
from collections.abc import Callable
from typing import Final

import structlog

from devroute.downstream.context import CompletedExchange
from devroute.http.trace_context import trace_parent
from devroute.proxy.telemetry.line_writer import LineWriter, digits, identifier, members, quoted, tenths
from devroute.proxy.telemetry.metrics import has_failed, result_of
from devroute.routing.route import Route

log = structlog.stdlib.get_logger("devroute.request")

#: Characters of a path that are logged.
MAX_PATH: Final = 512

# As numbers: before it looks for bytes in bytes, Python tries to convert them to one, at ten times the cost.
_QUOTE: Final = 0x22
_BACKSLASH: Final = 0x5C
_QUESTION: Final = 0x3F


class AccessLog(LineWriter):
    """JSON lines. `share`: of the requests that did not fail, which have a line; `failed_only`: none of these
    has."""

    def __init__(
        self, write: Callable[[bytes], None], share: float = 1.0, *, failed_only: bool = False
    ) -> None:
        super().__init__(write)
        self._share = 0.0 if failed_only else share
        self._due = 0.0  # a line is, from 1 on

    def completed(self, exchange: CompletedExchange) -> None:
        """Longer than 40 lines: the members of a line stand one below the other."""
        failed = has_failed(exchange)
        if not failed and self._share < 1.0:
            self._due += self._share
            if self._due < 1.0:
                return
            self._due -= 1.0
        request = exchange.request
        error = exchange.error
        route = exchange.route
        path = request.target
        if _QUESTION in path:
            path = path.partition(b"?")[0]
        if len(path) > MAX_PATH:
            path = path[:MAX_PATH]
        if _QUOTE in path or _BACKSLASH in path:
            path = quoted(path)
        trace = trace_parent(request.raw) if request.traceparent else None
        if error is None and route is not None:
            about = route.log_members or _about_route(route)
        else:
            about = _about_failed(exchange)
        self.add(
            b"".join(
                (
                    b'{"method": "',
                    request.method,
                    b'", "path": "',
                    path,
                    b'", "status": ',
                    digits(exchange.status),
                    b', "ms": ',
                    tenths(int((exchange.finished - exchange.started) * 10_000)),
                    about,
                    digits(exchange.bytes_in),
                    b', "bytes_out": ',
                    digits(exchange.bytes_out),
                    b', "trace_id": null, "request_id": "'
                    if trace is None
                    else b', "trace_id": "%b", "request_id": "' % trace.trace_id,
                    identifier(exchange.request_id),
                    b'", "event": "request", "level": "warning", "timestamp": "'
                    if failed
                    else b'", "event": "request", "level": "info", "timestamp": "',
                    self.timestamp(time.time()),
                    b'"}\n',
                )
            )
        )


def _about_route(route: Route) -> bytes:
    """What all requests of a route have in common that did not fail; rendered once for each."""
    route.log_members = _middle({**_names(route), "result": route.result, "reason": route.reason_code})
    return route.log_members


def _about_failed(exchange: CompletedExchange) -> bytes:
    route, error = exchange.route, exchange.error
    result, reason = result_of(exchange)
    if route is None:
        body = {"service": None, "target": None} if error is None else error.as_dict()
        names: dict[str, object] = {"service": body["service"], "laptop": None, "target": body["target"]}
    else:
        names = _names(route)
    return _middle({**names, "result": result, "reason": reason})


def _middle(fields: dict[str, object]) -> bytes:
    """The members of a line from behind its `ms` on, up to the number of `bytes_in`."""
    return b', %b, "bytes_in": ' % members(fields)


def _names(route: Route) -> dict[str, object]:
    named: dict[str, object] = {
        "service": route.service,
        "laptop": route.laptop or None,
        "target": route.target,
    }
    return named if route.replica is None else named | {"replica": route.replica}


def log_exchange(exchange: CompletedExchange) -> None:
    """The same through structlog, for the console, where people read a few coloured lines."""
    request, error, route = exchange.request, exchange.error, exchange.route
    trace = trace_parent(request.raw)
    result, reason = result_of(exchange)
    names = {"service": None if error is None else error.service} if route is None else _names(route)
    log.log(
        logging.WARNING if has_failed(exchange) else logging.INFO,
        f"{request.method.decode('ascii')} {request.target.partition(b'?')[0][:MAX_PATH].decode('latin-1')}",
        status=exchange.status,
        ms=round((exchange.finished - exchange.started) * 1000, 1),
        result=result,
        reason=reason,
        trace_id=None if trace is None else trace.trace_id.decode("ascii"),
        request_id=exchange.request_id.decode("latin-1"),
        **names,
    )


def request_log(
    form: str, level: str, share: float, write: Callable[[bytes], None]
) -> tuple[Callable[[CompletedExchange], None] | None, Callable[[], None]]:
    """What to call with each exchange, or None, and what to call at the end. `share`: of the requests that
    did not fail, which are logged; from level `warning` on none of them is. `write` takes lines of JSON."""
    if level == "error":
        return None, lambda: None
    if form == "console":
        return log_exchange, lambda: None
    access = AccessLog(write, share, failed_only=level == "warning")
    return access.completed, access.flush
