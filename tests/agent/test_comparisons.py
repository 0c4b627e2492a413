"""What `devroute up --shadow` reports of compared responses."""

import io
import json
from typing import Any

from devroute.agent.comparisons import ComparisonResult
from devroute.agent.ui.layout import View, lines
from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.reporter import MAX_DIFFERENCES
from devroute.agent.ui.writer import TerminalWriter

PLACE: dict[str, str | None] = {"where": "body $.a", "left": "1", "right": None}


def printed(form: Any, *results: tuple[ComparisonResult, int]) -> str:
    out = io.StringIO()
    reporter = LineReporter(form, TerminalWriter(out))
    for result, lost in results:
        reporter.compared(result, lost)
    reporter.close()
    return out.getvalue()


def result(found: list[dict[str, str | None]] | None) -> ComparisonResult:
    return ComparisonResult("foo", "GET", "/a\x1b", found)


def test_each_difference_is_shown_and_equal_responses_are_counted() -> None:
    text = printed("text", (result([]), 0), (result([PLACE] * 7), 0), (result(None), 2))
    assert "foo  GET '/a\\x1b'  differs from the service's response:" in text
    assert text.count("body $.a: 1 -> nothing") == MAX_DIFFERENCES
    assert "and 2 more" in text
    assert text.splitlines()[-1].endswith("shadow: 1 same, 1 different, 3 not compared")


def test_without_differences_only_the_count_is_shown() -> None:
    (line,) = printed("text", *[(result([]), 0)] * 120).splitlines()
    assert line.endswith("shadow: 120 same, 0 different")


def test_comparisons_without_a_contract_are_counted_separately() -> None:
    ordinary = ComparisonResult("foo", "GET", "/", [], contract=False)
    (line,) = printed("text", (result([]), 0), (ordinary, 0)).splitlines()
    assert line.endswith("shadow: 2 same, 0 different (1 without a contract)")
    events = printed("json", (result([]), 0), (ordinary, 0)).splitlines()
    assert [json.loads(line)["contract"] for line in events] == [True, False]


def test_in_json_each_comparison_is_an_event_with_the_counts() -> None:
    events = [
        json.loads(line) for line in printed("json", (result([PLACE]), 0), (result([]), 0)).splitlines()
    ]
    assert [each["differences"] for each in events] == [[PLACE], []]
    assert [(each["same"], each["different"]) for each in events] == [(0, 1), (1, 1)]


def test_the_page_shows_the_counts() -> None:
    view = View(name="alice", services=[("foo", "http://localhost:1")], shadow="shadow: 3 same, 1 different")
    page = "\n".join("".join(text for text, _ in line) for line in lines(view, 80, 24))
    assert "0 requests  shadow: 3 same, 1 different" in page
