"""Counters and histograms for the request path: each update is an addition or two, without a lock, a lookup
of labels, or a walk over buckets. One thread counts. Compiled (setup.py).
"""

from bisect import bisect_left

#: Trace id, the value that was observed, and when, as Unix time.
Exemplar = tuple[str, float, float]


class Histogram:
    """`bounds` are the buckets' upper bounds, ascending, without infinity; `counts` has one more number than
    these, each of its own bucket alone."""

    __slots__ = ("bounds", "counts", "exemplars", "sum")

    def __init__(self, bounds: list[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.exemplars: dict[int, Exemplar] = {}  # by bucket

    def observe(self, value: float) -> int:
        """Returns the bucket's place in `counts`. Most values are in one of the first buckets: compiled,
        going through these costs a tenth of bisect_left."""
        bounds = self.bounds
        last = len(bounds)
        at = 0
        while at < last and bounds[at] < value:
            at += 1
        self.counts[at] += 1
        self.sum += value
        return at

    def exemplify(self, trace_id: str, value: float, when: float) -> None:
        """Keep a value that was observed as the example of its bucket."""
        self.exemplars[bisect_left(self.bounds, value)] = (trace_id, value, when)

    @property
    def total(self) -> int:
        return sum(self.counts)
