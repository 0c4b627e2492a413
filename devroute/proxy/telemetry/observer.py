"""Reports each completed exchange to metrics, access log, audit trail and `devroute trace`. An error in one
of them never fails the connection that is being read: it may be a whole tunnel.

The one place where a request's end is observed; what else wants to know of it is called here.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog

from devroute.downstream.context import CompletedExchange
from devroute.proxy.telemetry.activity import Activity
from devroute.proxy.telemetry.audit import Audit
from devroute.proxy.telemetry.metrics import Metrics
from devroute.routing.trace import Traces

if TYPE_CHECKING:
    from devroute.proxy.telemetry.tracing import Tracing

log = structlog.stdlib.get_logger("devroute.observer")


class Observer:
    """`log`, `audit` and `tracing` are None where the settings turn them off; `clock` gives seconds, for
    `traces`."""

    def __init__(
        self,
        metrics: Metrics,
        log: Callable[[CompletedExchange], None] | None,
        audit: Audit | None,
        traces: Traces,
        clock: Callable[[], float],
        activity: Activity,
        tracing: "Tracing | None" = None,
    ) -> None:
        self._metrics = metrics
        self._activity = activity
        self._log = log
        self._audit = audit
        self._traces = traces
        self._clock = clock
        self._tracing = tracing

    def completed(self, exchange: CompletedExchange) -> None:
        try:
            self._metrics.count(exchange)
            self._activity.count(exchange)
            if self._audit is not None:
                self._audit.completed(exchange)
            if self._log is not None:
                self._log(exchange)
            if self._tracing is not None and exchange.spans is not None:
                self._tracing.add(exchange)
            trace_id = exchange.request.trace
            if trace_id is not None:
                self._trace(exchange, trace_id.decode("latin-1"))
        except Exception as error:  # the last resort: a bug must not cost others their requests
            log.error("request.unobserved", exc_info=error)

    def _trace(self, exchange: CompletedExchange, trace_id: str) -> None:
        route = exchange.route
        if route is None:
            return
        error = "" if exchange.error is None else exchange.error.message
        took, result = exchange.finished - exchange.started, route.result if not error else "error"
        self._traces.add_response(
            trace_id, route.service, route.target, exchange.status, result, error, took, self._clock()
        )
