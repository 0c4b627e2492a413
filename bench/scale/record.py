"""What was found along each axis, what broke first, and the tables that show it. Pure.

Other work of a machine changes rates and times, which are judged only where there was little of it. It hardly
changes CPU time and memory.
"""

import json
import statistics
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field

from devroute.routing.decision import LAPTOP_TTL_MS

#: p99 in ms above which a user notices.
SLOW_MS = 100.0
#: MiB of a replica: the limit of its Deployment.
MEMORY_MIB = 1024.0
#: A rate below this share of the best one of smaller values.
FALLEN = 0.5
#: A request that takes so many times the CPU of the cheapest one of smaller values.
DEARER = 3.0
#: The share of a core that others may use.
QUIET = 0.1


@dataclass(frozen=True, slots=True)
class Point:
    """`at`: the value on the axis. Requests a second, ms, µs of CPU of the replicas for a request, MiB for a
    replica after the load; the share of a core that others used. `problem`: why there are no figures."""

    at: int
    rate: float = 0.0
    p99: float = 0.0
    cpu: float = 0.0
    memory: float = 0.0
    others: float = 0.0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Axis:
    """`what` is counted. `sized`: rate, time and CPU follow from the value itself, so none of them can break.
    `each`: requests a second that each of them causes; the measurement has more, to find what one costs."""

    name: str
    what: str
    values: tuple[int, ...]
    quick: tuple[int, ...]
    sized: bool = False
    each: float = 0.0


@dataclass(frozen=True, slots=True)
class Break:
    axis: Axis
    at: int
    reason: str

    def __str__(self) -> str:
        return f"{self.axis.name}, {self.at:,}: {self.reason}"


AXES = (
    Axis(
        name="laptops",
        what="laptops online, of others than the one that has the requests",
        values=(1, 10, 100, 1000, 4000, 10_000),
        quick=(1, 100),
    ),
    Axis(
        name="processes",
        what="processes of one subject, as of a CI system, one of which has the requests",
        values=(1, 16, 100, 1000),
        quick=(1, 100),
    ),
    Axis("contracts", "different contracts", (1, 10, 100, 1000, 10_000), (1, 1000)),
    Axis("streams", "requests at a time", (1, 4, 16, 64, 256, 1000, 2000, 4000), (1, 64, 500)),
    Axis(
        name="bodies",
        what="bytes of a response, 4 at a time",
        values=(1 << 10, 1 << 14, 1 << 18, 1 << 22, 1 << 24),
        quick=(1 << 10, 1 << 18),
        sized=True,
    ),
    Axis(
        name="workers",
        what="workers of sidecars that ask `/resolve`",
        values=(1, 10, 50, 200, 1000, 2000),
        quick=(1, 200),
        sized=True,
        each=1000 / LAPTOP_TTL_MS,
    ),
    Axis("replicas", "replicas, requests at each, the laptop at one", (1, 2, 3), (1, 2)),
)
BY_NAME = {each.name: each for each in AXES}


@dataclass
class Record:
    """`points` by the name of the axis; `compiled`: whether the modules were, as in the image."""

    seconds: float
    cores: int
    compiled: bool
    took: float = 0.0
    points: dict[str, list[Point]] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> "Record":
        read = json.loads(text)
        points = {name: [Point(**each) for each in found] for name, found in read.pop("points").items()}
        return cls(points=points, **read)

    def as_json(self) -> str:
        return json.dumps(asdict(self), indent=1) + "\n"

    @property
    def others(self) -> float:
        """The median of all points with figures."""
        shares = [each.others for found in self.points.values() for each in found if not each.problem]
        return statistics.median(shares) if shares else 0.0

    def measured(self) -> Iterator[tuple[Axis, list[Point]]]:
        """The axes that have points, in their order."""
        return ((axis, found) for axis in AXES if (found := self.points.get(axis.name)))


# --- what breaks --------------------------------------------------------------------------------------------


def first_break(axis: Axis, points: Iterable[Point]) -> Break | None:
    before: list[Point] = []
    for point in points:
        if reason := _reason(axis, point, before):
            return Break(axis, point.at, reason)
        before.append(point)
    return None


def _reason(axis: Axis, point: Point, before: list[Point]) -> str:
    """Empty if all is well."""
    if point.problem:
        return point.problem
    if point.memory > MEMORY_MIB:
        return f"{point.memory:,.0f} MiB, over {MEMORY_MIB:,.0f}"
    if (cores := point.at * axis.each * point.cpu / 1e6) > 1:
        return f"{cores:.1f} cores for {axis.each:g} requests/s of each, and a replica has one"
    if axis.sized:
        return ""
    cheapest = min((each.cpu for each in before), default=0.0)
    if before and point.cpu > DEARER * cheapest:
        return f"{point.cpu:,.0f} µs of CPU, more than {DEARER:g} times {cheapest:,.0f}"
    if point.others > QUIET:
        return ""
    best = max((each.rate for each in before if each.others <= QUIET), default=0.0)
    if point.p99 > SLOW_MS:
        return f"p99 {point.p99:,.0f} ms, over {SLOW_MS:.0f}"
    if point.rate < FALLEN * best:
        return f"{point.rate:,.0f} requests/s, less than {FALLEN:.0%} of {best:,.0f}"
    return ""


def earliest(record: Record) -> list[Break]:
    """The breaks of the axes that were good to the smallest share of what was asked of them."""
    breaks: dict[float, list[Break]] = {}
    for axis, points in record.measured():
        if found := first_break(axis, points):
            last = good_to(axis, points)
            breaks.setdefault(last.at / axis.values[-1] if last else 0.0, []).append(found)
    return breaks[min(breaks)] if breaks else []


def good_to(axis: Axis, points: list[Point]) -> Point | None:
    """The last point before the first break; None if the first one broke."""
    found = first_break(axis, points)
    whole = [point for point in points if found is None or point.at < found.at]
    return whole[-1] if whole else None


# --- the tables ---------------------------------------------------------------------------------------------


def limits(record: Record) -> str:
    """The table of docs/sizing.md."""
    rows = ["| of | good to | requests/s there | p99 ms | CPU µs | MiB | beyond it |"]
    rows.append("| --- | ---: | ---: | ---: | ---: | ---: | --- |")
    for axis, points in record.measured():
        found, last = first_break(axis, points), good_to(axis, points)
        beyond = f"{found.at:,}: {found.reason}" if found else "not measured"
        cells = ("none", "-", "-", "-", "-") if last is None else (f"{last.at:,}", *_figures(last))
        rows.append(f"| {axis.what} | {' | '.join(cells)} | {beyond} |")
    return "\n".join((*rows, "", _headline(record), ""))


def _headline(record: Record) -> str:
    found = "; ".join(map(str, earliest(record)))
    first = f"**What breaks first: {found}.**" if found else "**Nothing broke.**"
    return f"{first} {conditions(record)}"


def conditions(record: Record) -> str:
    """How the figures were found, and whether they are to be trusted."""
    modules = "compiled modules" if record.compiled else "plain Python, which takes more CPU than the image"
    loaded = (
        ""
        if record.others <= QUIET
        else " **The machine was loaded: rates and times are worse than on one of your own, and not judged.**"
    )
    return (
        f"{record.cores} cores, which client, laptop and app share with the replicas; {modules};"
        f" {record.seconds:g} s for each point, {record.took / 60:.1f} minutes in all."
        f" Others used {record.others:.0%} of a core (median).{loaded}"
    )


def table(record: Record) -> str:
    """Every point, for the record."""
    rows = ["| axis | value | requests/s | p99 ms | CPU µs a request | MiB of a replica |"]
    rows.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for axis, points in record.measured():
        for point in points:
            cells = (point.problem, "-", "-", "-") if point.problem else _figures(point)
            rows.append(f"| {axis.name} | {point.at:,} | {' | '.join(cells)} |")
    return "\n".join((_headline(record), "", *rows, ""))


def _figures(point: Point) -> tuple[str, str, str, str]:
    return f"{point.rate:,.0f}", f"{point.p99:,.1f}", f"{point.cpu:,.0f}", f"{point.memory:,.0f}"


def with_part(text: str, name: str, part: str) -> str:
    """The page with another part between `<!-- NAME -->` and `<!-- end of NAME -->`. Raises ValueError for a
    page without them."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the page has no {begin.strip()} ... {end}")
    return f"{before}{begin}{part}{end}{after}"
