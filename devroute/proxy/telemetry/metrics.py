"""Counts each completed exchange of the data port. Under 1 µs a request (bench/telemetry_cost.py): a route's
results are looked up once, and an exemplar is looked for at most once a second for each bucket.
"""

import time
from typing import Final

from devroute.downstream.context import CompletedExchange
from devroute.http.trace_context import trace_parent
from devroute.metrics.requests import Outcome, RequestSeries, Results
from devroute.metrics.table import OTHER
from devroute.routing.route import FAULT, Route

#: Seconds for which a bucket keeps its exemplar at least.
EXEMPLAR_SECONDS: Final = 1.0

#: The result of a request that failed; its reason is the error's code.
ERROR: Final = "error"


def has_failed(exchange: CompletedExchange) -> bool:
    """With an error of devroute, or by a status of the app's."""
    return exchange.error is not None or exchange.status >= 500


def result_of(exchange: CompletedExchange) -> tuple[str, str]:
    """The result, and the code of its reason."""
    error, route = exchange.error, exchange.route
    if error is not None or route is None:
        return ERROR, "" if error is None else error.code
    return route.result, route.reason_code


class Metrics:
    """Bytes are those of bodies. `by_laptop`: what has a result counts for each laptop apart."""

    def __init__(self, requests: RequestSeries, *, by_laptop: bool) -> None:
        self.requests = requests
        self.by_laptop = by_laptop
        self.bytes_in = 0
        self.bytes_out = 0

    def count(self, exchange: CompletedExchange) -> None:
        self.bytes_in += exchange.bytes_in
        self.bytes_out += exchange.bytes_out
        route = exchange.route
        if route is None or exchange.error is not None:
            self._count_failed(exchange, route)
            return
        results = route.metrics
        if results is None or results.ended:
            results = self._results(route, route.result, route.reason_code)
            results.own = route.reason_code == FAULT
            route.metrics = results
        results.count += 1
        request, status = exchange.request, exchange.status
        by_status = results.outcomes.get(request.method)
        outcome = None if by_status is None else by_status.get(status)
        if outcome is None:
            outcome = results.service.cached_outcome(results, request.method, status)
        self._observe(exchange, outcome, 0.0 if results.own else exchange.opened)

    def _observe(self, exchange: CompletedExchange, outcome: Outcome, opened: float) -> None:
        """`opened` as in the exchange; 0 also where the proxy itself has responded."""
        finished = exchange.finished
        seconds = finished - exchange.started
        at = outcome.server.observe(seconds)
        if opened:
            outcome.client.observe(exchange.ended - opened)
        if finished > outcome.due[at]:
            outcome.due[at] = finished + EXEMPLAR_SECONDS
            _exemplify(exchange, outcome, seconds, opened)

    def _count_failed(self, exchange: CompletedExchange, route: Route | None) -> None:
        error, request = exchange.error, exchange.request
        code = OTHER if error is None else error.code
        if route is None:
            service = self.requests.service(None if error is None else error.service, contracted=False)
            results = service.results_for(ERROR, code, "")
        else:
            results = self._results(route, ERROR, code)
        results.count += 1
        outcome = results.service.outcome(request.method, exchange.status, code)
        self._observe(exchange, outcome, exchange.opened)

    def _results(self, route: Route, result: str, reason: str) -> Results:
        laptop = route.laptop if self.by_laptop else ""
        return self.requests.service(route.service, contracted=True).results_for(result, reason, laptop)


def _exemplify(exchange: CompletedExchange, outcome: Outcome, seconds: float, opened: float) -> None:
    """By a trace that is kept somewhere: one that is sampled."""
    trace = trace_parent(exchange.request.raw)
    if trace is None or not trace.sampled:
        return
    trace_id, now = trace.trace_id.decode("ascii"), time.time()
    outcome.server.exemplify(trace_id, seconds, now)
    if opened:
        outcome.client.exemplify(trace_id, exchange.ended - opened, now)
