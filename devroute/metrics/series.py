"""Values of metrics, as a scrape collects them. exposition.py writes them, and takes longer to import."""

from devroute import __version__
from devroute.metrics import table
from devroute.metrics.instruments import Histogram
from devroute.metrics.table import Metric

#: A metric, the values of its labels, and its value.
Series = tuple[Metric, tuple[str, ...], float | Histogram]


def build_info() -> Series:
    return (table.BUILD, (__version__,), 1)
