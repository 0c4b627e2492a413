"""Metrics of `devroute up` for Prometheus, if the setting `metrics` is on: requests, links and pings."""

from collections.abc import Callable, Collection, Container, Iterator
from time import time

from devroute.http.trace_context import trace_parent
from devroute.metrics import table
from devroute.metrics.exposition import expose
from devroute.metrics.instruments import Histogram
from devroute.metrics.requests import RequestSeries, error_type
from devroute.metrics.series import Series, build_info
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.served_stream import Finished

#: Those that an agent has.
METRICS = tuple(metric for metric in table.TABLE if metric.agent)


class AgentMetrics:
    """`links` are the open ones, `reconnects()` counts registrations after the first of each link."""

    def __init__(
        self,
        services: Container[str],
        links: Callable[[], Collection[AgentLink]],
        reconnects: Callable[[], int],
    ) -> None:
        self._requests = RequestSeries(lambda name: name in services)
        self._links = links
        self._reconnects = reconnects
        self._round_trips = Histogram(list(table.RTT.buckets))

    def follow(self, link: AgentLink) -> None:
        """Count the round trips of a new link."""
        link.heartbeat.observe = self._round_trips.observe

    def finished(self, exchange: Finished) -> None:
        error = error_type(exchange.code, exchange.status)
        service = self._requests.service(exchange.service, contracted=False)
        outcome = service.outcome(exchange.method.encode("latin-1"), exchange.status, error)
        outcome.server.observe(exchange.duration)
        trace = trace_parent(exchange.head)
        if trace is not None and trace.sampled:
            outcome.server.exemplify(trace.trace_id.decode("ascii"), exchange.duration, time())

    async def exposed(self, accept: str) -> tuple[bytes, str]:
        """The body of /metrics for an Accept, and its Content-Type."""
        return await expose(accept, self._series(), among=METRICS)

    def _series(self) -> Iterator[Series]:
        for service in self._requests.all():
            for each in service.outcomes.values():
                labels = (each.method, each.status, each.error_type, service.name)
                yield table.SERVER_SECONDS, labels, each.server
        links = self._links()
        yield table.LINKS, (), len(links)
        yield table.IN_FLIGHT, (), sum(link.in_flight for link in links)
        yield table.RTT, (), self._round_trips
        yield table.RECONNECTS, (), self._reconnects()
        yield build_info()
