"""All series of the proxy, from what is counted and from its state at the moment."""

from collections.abc import Iterator, Mapping

from devroute.metrics import table
from devroute.metrics.requests import ServiceSeries
from devroute.metrics.series import Series, build_info
from devroute.metrics.table import Metric
from devroute.proxy.telemetry.control_metrics import ControlMetrics
from devroute.proxy.telemetry.metrics import Metrics


def all_series(metrics: Metrics, control: ControlMetrics, state: Mapping[Metric, float]) -> Iterator[Series]:
    """`state`: metrics without labels."""
    for service in metrics.requests.all():
        yield from _service(service, by_laptop=metrics.by_laptop)
    for word, histogram in control.resolves.items():
        yield table.RESOLVE_SECONDS, (word,), histogram
        yield table.RESOLVES, (word,), histogram.total
    yield table.RTT, (), control.round_trips
    yield table.RECONNECTS, (), control.reconnects
    yield table.BODY_BYTES, ("request",), metrics.bytes_in
    yield table.BODY_BYTES, ("response",), metrics.bytes_out
    for metric, value in state.items():
        yield metric, (), value
    yield build_info()


def _service(service: ServiceSeries, *, by_laptop: bool) -> Iterator[Series]:
    name = service.name
    for each in service.outcomes.values():
        labels = (each.method, each.status, each.error_type, name)
        yield table.SERVER_SECONDS, labels, each.server
        if each.client.total:
            yield table.CLIENT_SECONDS, (*labels, name), each.client
    for metric, results in ((table.REQUESTS, service.results), (table.FALLBACKS, service.fallbacks)):
        for one in results.values():
            values = (name, one.result, one.reason) if metric is table.REQUESTS else (name, one.reason)
            yield metric, (*values, one.laptop) if by_laptop else values, one.count
