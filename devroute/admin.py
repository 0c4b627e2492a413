"""The admin port: liveness, readiness and counters, for the kubelet and Prometheus. Changes nothing."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from aiohttp import web

from devroute.relay import Observed


@dataclass(slots=True)
class Counters:
    """What the data path counts: plain integers, so that a request costs a few additions."""

    answered: Counter[int] = field(default_factory=Counter)  # by status
    failed: Counter[tuple[str, int]] = field(default_factory=Counter)  # by code and status
    bytes_in: int = 0
    bytes_out: int = 0

    def count(self, exchange: Observed) -> None:
        if exchange.error is None:
            self.answered[exchange.status] += 1
        else:
            self.failed[exchange.error.code, exchange.status] += 1
        self.bytes_in += exchange.bytes_in
        self.bytes_out += exchange.bytes_out

    def as_text(self, gauges: Mapping[str, int]) -> str:
        """The Prometheus text format, version 0.0.4."""
        lines = [
            "# HELP devroute_requests_total Detoured requests: laptop or an error's code, and the status.",
            "# TYPE devroute_requests_total counter",
        ]
        outcomes = [("laptop", status, count) for status, count in self.answered.items()]
        outcomes += [(code, status, count) for (code, status), count in self.failed.items()]
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
        return "\n".join(lines) + "\n"


def create_app(
    counters: Counters, gauges: Callable[[], Mapping[str, int]], readiness: Callable[[], Mapping[str, object]]
) -> web.Application:
    """`readiness` gives the details of /readyz; the proxy is ready where its `ready` is true."""

    async def healthz(request: web.Request) -> web.Response:
        return web.json_response({"alive": True})

    async def readyz(request: web.Request) -> web.Response:
        details = readiness()
        return web.json_response(details, status=200 if details["ready"] else 503)

    async def metrics(request: web.Request) -> web.Response:
        return web.Response(
            text=counters.as_text(gauges()),
            headers={"content-type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    return app
