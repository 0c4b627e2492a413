"""The text that Prometheus reads, in its own format or in OpenMetrics with exemplars, written by
prometheus_client.

Writing one histogram takes some 0.2 ms, and a proxy may have thousands: after a few of them, requests have
their turn.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Final

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.exposition import generate_latest as as_text
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import (
    Metric as Family,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE_OPENMETRICS
from prometheus_client.openmetrics.exposition import generate_latest as as_openmetrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from devroute.metrics.instruments import Histogram
from devroute.metrics.series import Series
from devroute.metrics.table import TABLE, Metric, labels_of

#: Lines that are written before requests have their turn: some 0.5 ms.
LINES_AT_ONCE: Final = 48

_OPENMETRICS: Final = "application/openmetrics-text"
_EOF: Final = b"# EOF\n"


def wants_openmetrics(accept: str) -> bool:
    """Whether a value of Accept lists OpenMetrics, not with a weight of 0 (RFC 9110 §12.5.1)."""
    for each in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in each.split(";"))
        if kind == _OPENMETRICS:
            return not any(part.removeprefix("q=").strip("0.") == "" for part in parameters if "q=" in part)
    return False


async def expose(
    accept: str, series: Iterable[Series], *, among: Sequence[Metric] = TABLE, by_laptop: bool = False
) -> tuple[bytes, str]:
    """The body of a response to a request with this Accept, and its Content-Type. `series`: in any order, of
    the metrics `among`; process_* is added. `by_laptop`: those of table.BY_LAPTOP have the laptop's name as
    the last value."""
    process = await asyncio.to_thread(lambda: list(ProcessCollector(registry=None).collect()))
    openmetrics = wants_openmetrics(accept)
    write: Callable[[Collector], bytes] = as_openmetrics if openmetrics else as_text
    by_name: dict[str, list[Series]] = {metric.name: [] for metric in among}
    for each in series:
        by_name[each[0].name].append(each)
    text = []
    for metric in among:
        for at, part in enumerate(_parts(metric, by_name[metric.name], by_laptop=by_laptop)):
            text.append(_without_frame(write(_One(part)), first=at == 0))
            await asyncio.sleep(0)
    text += [_without_frame(write(_One(family)), first=True) for family in process]
    if openmetrics:
        text.append(_EOF)
    return b"".join(text), CONTENT_TYPE_OPENMETRICS if openmetrics else CONTENT_TYPE_PLAIN_0_0_4


class _One(Collector):
    def __init__(self, family: Family) -> None:
        self._family = family

    def collect(self) -> Iterable[Family]:
        return (self._family,)


def _without_frame(written: bytes, *, first: bool) -> bytes:
    """A part of a metric's lines: only the first one has HELP and TYPE, and none the end of all."""
    written = written.removesuffix(_EOF)
    if first:
        return written
    return b"".join(line for line in written.splitlines(keepends=True) if not line.startswith(b"#"))


def _parts(metric: Metric, series: list[Series], *, by_laptop: bool) -> Iterator[Family]:
    """A metric's series, a few at a time. A metric without any has one part, with its name and meaning."""
    size = max(1, LINES_AT_ONCE // (len(metric.buckets) + 3 if metric.buckets else 1))
    labels = labels_of(metric, by_laptop=by_laptop)
    for start in range(0, max(1, len(series)), size):
        family = _family(metric, labels)
        for _, values, value in series[start : start + size]:
            if isinstance(value, Histogram):
                assert isinstance(family, HistogramMetricFamily)
                family.add_metric(values, _buckets(value), value.sum)
            else:
                assert isinstance(family, CounterMetricFamily | GaugeMetricFamily)
                family.add_metric(values, value)
        yield family


def _family(
    metric: Metric, labels: tuple[str, ...]
) -> CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily:
    if metric.kind == "histogram":
        return HistogramMetricFamily(metric.name, metric.help, labels=labels)
    if metric.kind == "counter":
        return CounterMetricFamily(metric.name, metric.help, labels=labels)
    return GaugeMetricFamily(metric.name, metric.help, labels=labels)


def _buckets(histogram: Histogram) -> list[tuple[str, float] | tuple[str, float, Exemplar]]:
    """The counts of each bucket and all below it, with its exemplar."""
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    found: list[tuple[str, float] | tuple[str, float, Exemplar]] = []
    for at, (bound, count) in enumerate(zip(bounds, accumulate(histogram.counts), strict=True)):
        if at in histogram.exemplars:
            trace_id, value, when = histogram.exemplars[at]
            found.append((bound, count, Exemplar({"trace_id": trace_id}, value, round(when, 3))))
        else:
            found.append((bound, count))
    return found
