"""Who hears of each exchange that is over, in one place: counters, log, audit and `devroute trace`. They look
on: whatever is wrong with one of them, the connection that is being read goes on; it may be a whole tunnel.
"""

from collections.abc import Callable
from typing import Final

import structlog

from devroute.headers import TRACE, line_start
from devroute.http.message import header_value
from devroute.proxy.telemetry.audit import Audit
from devroute.proxy.telemetry.metrics import Metrics
from devroute.routing.route import CompletedExchange

log = structlog.stdlib.get_logger("devroute.observer")

#: As sidecars write it, in lower case.
_TRACED: Final = line_start(TRACE)


class Observer:
    """`log` may be None. `traced(exchange, key)` is called for the few that `devroute trace` waits for."""

    def __init__(
        self,
        counters: Metrics,
        log: Callable[[CompletedExchange], None] | None,
        audit: Audit | None,
        traced: Callable[[CompletedExchange, str], None],
    ) -> None:
        self._counters = counters
        self._log = log
        self._audit = audit
        self._traced = traced

    def completed(self, exchange: CompletedExchange) -> None:
        self._counters.count(exchange)
        try:
            if self._audit is not None:
                self._audit.detoured(exchange)
            if self._log is not None:
                self._log(exchange)
            key = header_value(exchange.request.raw, _TRACED)
            if key is not None:
                self._traced(exchange, key.decode("latin-1"))
        except Exception as error:  # the last resort: a bug must not cost others their requests
            log.error("request.unobserved", exc_info=error)
