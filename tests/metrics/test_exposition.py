"""Both formats, as prometheus_client's parsers and promtool read them."""

import asyncio
import shutil
import subprocess

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from devroute import __version__
from devroute.metrics import table
from devroute.metrics.exposition import expose, wants_openmetrics
from devroute.metrics.instruments import Histogram
from devroute.metrics.series import Series, build_info
from devroute.metrics.table import BY_LAPTOP, HTTP_BUCKETS, PROCESS, TABLE, labels_of
from tests.support.prometheus import needs_promtool

TRACE = "80f198ee56343ba864fe8b2a57d3eff7"
#: As Prometheus 2.42 sends it.
ACCEPT = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


def seconds(*values: float) -> Histogram:
    histogram = Histogram(list(HTTP_BUCKETS))
    for value in values:
        histogram.observe(value)
    return histogram


def every_series(*, by_laptop: bool = False) -> list[Series]:
    """Some of each metric, more than are written at once."""
    found: list[Series] = []
    for metric in TABLE:
        for number in range(60 if metric.labels else 1):
            labels = tuple(f'{name} "{number}"\\' for name in labels_of(metric, by_laptop=by_laptop))
            histogram = Histogram(list(metric.buckets))
            histogram.observe(number)
            found.append((metric, labels, histogram if metric.kind == "histogram" else number))
    return found


def text_of(accept: str, series: list[Series], *, by_laptop: bool = False) -> str:
    return asyncio.run(expose(accept, series, by_laptop=by_laptop))[0].decode()


@pytest.mark.parametrize("by_laptop", [False, True])
@pytest.mark.parametrize("accept", ["", ACCEPT])
def test_a_parser_reads_back_every_series_once(accept: str, by_laptop: bool) -> None:
    text = text_of(accept, every_series(by_laptop=by_laptop), by_laptop=by_laptop)
    parse = parse_openmetrics if accept else parse_text
    families = {each.name: each for each in parse(text)}
    for metric in TABLE:
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.kind, metric.help)
        one = metric.name + ("_count" if metric.kind == "histogram" else "")
        samples = [each for each in family.samples if each.name == one]
        assert len(samples) == (60 if metric.labels else 1)
        assert {tuple(each.labels) for each in samples} == {
            tuple(sorted(labels_of(metric, by_laptop=by_laptop)))
        }
    assert ('laptop="' in text) is by_laptop
    assert {metric.name.removesuffix("_total") for metric in TABLE} < families.keys()
    assert {name.removesuffix("_total") for name in PROCESS} <= families.keys()


def test_buckets_are_cumulative_and_a_value_on_a_bound_belongs_below_it() -> None:
    observed = seconds(0.005, 0.0051, 0.3, 99)
    text = text_of("", [(table.SERVER_SECONDS, ("GET", "200", "", "foo"), observed)])
    (family,) = [each for each in parse_text(text) if each.name == table.SERVER_SECONDS.name]
    buckets = {each.labels["le"]: each.value for each in family.samples if each.name.endswith("_bucket")}
    assert [*map(float, buckets)] == [*HTTP_BUCKETS, float("inf")]
    assert [buckets[each] for each in ("0.005", "0.01", "0.5", "10.0", "+Inf")] == [1, 2, 3, 3, 4]
    (total,) = [each.value for each in family.samples if each.name.endswith("_sum")]
    assert total == pytest.approx(99.3101)


def test_exemplars_stand_in_openmetrics_alone() -> None:
    histogram = seconds(0.3)
    histogram.exemplify(TRACE, 0.3, 1_700_000_000.25)
    series: list[Series] = [(table.SERVER_SECONDS, ("GET", "200", "", "foo"), histogram)]
    families = parse_openmetrics(text_of(ACCEPT, series))
    exemplars = [
        (each.labels["le"], each.exemplar.labels, each.exemplar.value, float(each.exemplar.timestamp))
        for family in families
        for each in family.samples
        if each.exemplar
    ]
    assert exemplars == [("0.5", {"trace_id": TRACE}, 0.3, 1_700_000_000.25)]
    assert TRACE not in text_of("", series)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (ACCEPT, True),
        ("application/openmetrics-text", True),
        ("APPLICATION/OpenMetrics-Text; q=0.5", True),
        ("text/plain, application/openmetrics-text;version=1.0.0;q=0.2", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.0", False),
        ("text/plain", False),
        ("*/*", False),
        ("", False),
        ("application/openmetrics-text2,;;,,", False),
    ],
)
def test_openmetrics_only_when_asked_for(accept: str, wanted: bool) -> None:
    assert wants_openmetrics(accept) is wanted
    _, content_type = asyncio.run(expose(accept, []))
    expected = "application/openmetrics-text; version=1.0.0" if wanted else "text/plain; version=0.0.4"
    assert content_type == f"{expected}; charset=utf-8"


def test_the_version_is_a_metric() -> None:
    assert f'devroute_build_info{{version="{__version__}"}} 1.0\n' in text_of("", [build_info()])


def test_requests_have_their_turn_while_much_is_written() -> None:
    """A proxy relays on the same loop."""
    labels = [("GET", str(number), "", "foo") for number in range(300)]
    series: list[Series] = [(table.SERVER_SECONDS, each, seconds(0.3)) for each in labels]
    turns = 0

    async def main() -> None:
        writing = asyncio.ensure_future(expose("", series))
        nonlocal turns
        while not writing.done():
            turns += 1
            await asyncio.sleep(0)

    asyncio.run(main())
    assert turns > 100


def test_the_table_is_sound() -> None:
    names = [metric.name for metric in TABLE]
    assert len(names) == len(set(names))
    for metric in TABLE:
        assert metric.name.endswith("_total") is (metric.kind == "counter")
        assert bool(metric.buckets) is (metric.kind == "histogram")
        assert list(metric.buckets) == sorted(metric.buckets)
        assert not metric.help.endswith(".")
    assert set(BY_LAPTOP) <= set(TABLE)


@needs_promtool
def test_promtool_accepts_the_text() -> None:
    program = shutil.which("promtool")
    assert program is not None
    checked = subprocess.run(
        [program, "check", "metrics"], input=text_of("", every_series()), capture_output=True, text=True
    )
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
