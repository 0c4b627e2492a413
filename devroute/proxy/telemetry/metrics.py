"""The data path's metrics, for Prometheus. Plain integers, so that a request costs a few additions."""

from collections.abc import Mapping

from devroute.proxy.downstream.context import CompletedExchange


class Metrics:
    """`responses` counts by status, `failures` by code and status; bytes are those of bodies."""

    def __init__(self) -> None:
        self.responses: dict[int, int] = {}
        self.failures: dict[tuple[str, int], int] = {}
        self.bytes_in = 0
        self.bytes_out = 0

    def count(self, exchange: CompletedExchange) -> None:
        status = exchange.status
        if exchange.error is None:
            self.responses[status] = self.responses.get(status, 0) + 1
        else:
            key = (exchange.error.code, status)
            self.failures[key] = self.failures.get(key, 0) + 1
        self.bytes_in += exchange.bytes_in
        self.bytes_out += exchange.bytes_out

    def as_text(self, gauges: Mapping[str, int], counters: Mapping[str, int]) -> str:
        """The Prometheus text format, version 0.0.4."""
        lines = [
            "# HELP devroute_requests_total Detoured requests by result (laptop or error code) and status.",
            "# TYPE devroute_requests_total counter",
        ]
        outcomes = [("laptop", status, count) for status, count in self.responses.items()]
        outcomes += [(code, status, count) for (code, status), count in self.failures.items()]
        for result, status, count in sorted(outcomes):
            lines.append(f'devroute_requests_total{{result="{result}",status="{status}"}} {count}')
        lines += [
            "# HELP devroute_body_bytes_total Body bytes relayed.",
            "# TYPE devroute_body_bytes_total counter",
            f'devroute_body_bytes_total{{direction="request"}} {self.bytes_in}',
            f'devroute_body_bytes_total{{direction="response"}} {self.bytes_out}',
        ]
        for name, value in gauges.items():
            lines += [f"# TYPE devroute_{name} gauge", f"devroute_{name} {value}"]
        for name, value in counters.items():
            lines += [f"# TYPE devroute_{name} counter", f"devroute_{name} {value}"]
        return "\n".join(lines) + "\n"
