"""bench/scale: what counts as broken, the plots, and that pages show the recorded run."""

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from bench.scale import chart
from bench.scale.axes import MAX_LINKS, MEASURED, commonest_error
from bench.scale.record import (
    AXES,
    BY_NAME,
    Point,
    Record,
    earliest,
    first_break,
    good_to,
    limits,
    table,
    with_part,
)
from tests.support.paths import ROOT

FINE = Point(1, rate=1000, p99=5, cpu=20, memory=70)
#: On a machine that others use.
LOADED = replace(FINE, others=1.5)


def record(**points: list[Point]) -> Record:
    return Record(seconds=1, cores=2, compiled=True, took=60, points=points)


@pytest.mark.parametrize(
    ("axis", "second", "reason"),
    [
        ("laptops", replace(FINE, at=10), None),
        ("laptops", Point(10, problem="3 errors in 9 requests"), "3 errors in 9 requests"),
        ("laptops", replace(FINE, at=10, memory=1025), "1,025 MiB, over 1,024"),
        ("laptops", replace(FINE, at=10, p99=101), "p99 101 ms, over 100"),
        ("laptops", replace(FINE, at=10, rate=499), "499 requests/s, less than 50% of 1,000"),
        ("laptops", replace(FINE, at=10, cpu=61), "61 µs of CPU, more than 3 times 20"),
        ("laptops", replace(LOADED, at=10, p99=101, rate=1), None),
        ("laptops", replace(LOADED, at=10, memory=1025), "1,025 MiB, over 1,024"),
        ("bodies", replace(FINE, at=1 << 24, p99=500, rate=1, cpu=9000), None),
        ("workers", replace(LOADED, at=2000, cpu=120), None),
        (
            "workers",
            replace(LOADED, at=2000, cpu=200),
            "1.6 cores for 4 requests/s of each, and a replica has one",
        ),
    ],
)
def test_the_first_value_that_breaks_is_found_with_its_reason(
    axis: str, second: Point, reason: str | None
) -> None:
    found = first_break(BY_NAME[axis], [FINE, second])
    assert (found and (found.at, found.reason)) == (reason and (second.at, reason))
    assert good_to(BY_NAME[axis], [FINE, second]) == (FINE if reason else second)


def test_what_breaks_first_was_good_to_the_smallest_share_of_its_axis() -> None:
    bad = Point(10, problem="gone")
    later = record(laptops=[FINE, replace(FINE, at=1000), replace(bad, at=4000)], contracts=[FINE, bad])
    assert [str(each) for each in earliest(later)] == ["contracts, 10: gone"]
    assert "**What breaks first: contracts, 10: gone.**" in limits(later)
    both = record(laptops=[FINE, bad], contracts=[FINE, bad])
    assert [each.axis.name for each in earliest(both)] == ["laptops", "contracts"]
    assert earliest(record(laptops=[FINE])) == []


def test_a_record_is_read_as_it_was_written() -> None:
    written = record(laptops=[FINE, Point(10, problem="gone")])
    assert Record.from_json(written.as_json()) == written


def test_the_plots_are_well_formed_and_have_each_point() -> None:
    """Axes with a single point, and with none that has figures, too."""
    shown = chart.svg(
        record(
            laptops=[FINE, replace(FINE, at=10), Point(100, problem="<gone>")],
            contracts=[FINE],
            streams=[Point(1, problem="gone")],
        )
    )
    root = ElementTree.fromstring(shown)
    columns = len(chart.COLUMNS)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 3 * columns
    assert shown.count("✕") == 2 * columns


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (9.876, "9.88"), (12_345, "12.3k"), (1 << 24, "16.8M")]
)
def test_figures_in_plots_are_short(value: float, text: str) -> None:
    assert chart.short(value) == text


def test_a_page_without_the_place_is_refused() -> None:
    assert (
        with_part("a\n<!-- x -->\nold<!-- end of x -->b", "x", "new")
        == "a\n<!-- x -->\nnew<!-- end of x -->b"
    )
    with pytest.raises(ValueError, match="<!-- x -->"):
        with_part("a", "x", "new")


def test_the_commonest_error_of_refused_requests_is_named() -> None:
    line = b'{"status": %d, "ms": 1.0, "service": "foo", "reason": "%s", "bytes_in": 0}\n'
    lines = [line % each for each in ((200, b"tunnel"), (200, b"tunnel"), (503, b"target-overloaded"))]
    assert commonest_error(lines) == "target-overloaded"
    assert commonest_error(lines[:2]) == ""


def test_every_axis_is_measured_up_to_what_the_replica_permits() -> None:
    assert list(MEASURED) == [axis.name for axis in AXES]
    assert max(BY_NAME["laptops"].values) < MAX_LINKS
    for axis in AXES:
        assert list(axis.values) == sorted(set(axis.values))
        assert set(axis.quick) <= {*axis.values, 500}


def test_pages_and_plots_are_those_of_the_recorded_run() -> None:
    """`make scale RECORD=1`."""
    folder = ROOT / "bench" / "scale"
    kept = Record.from_json((folder / "scale.json").read_text(encoding="utf-8"))
    assert set(kept.points) == set(BY_NAME)
    assert (folder / "scale.svg").read_text(encoding="utf-8") == chart.svg(kept)
    for page, part in ((folder / "README.md", table(kept)), (ROOT / "docs" / "sizing.md", limits(kept))):
        text = page.read_text(encoding="utf-8")
        assert with_part(text, "scale", part) == text, f"{page.name} differs: make scale RECORD=1"
