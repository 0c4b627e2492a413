"""What the terminal says of answers that were compared (`devroute up --shadow`)."""

import io
import json
from typing import Any

from devroute.agent.comparisons import ComparisonResult
from devroute.agent.ui.layout import View, lines
from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.reporter import MAX_DIFFERENCES
from devroute.agent.ui.writer import TerminalWriter

PLACE: dict[str, str | None] = {"where": "body $.a", "left": "1", "right": None}


def printed(form: Any, *verdicts: tuple[ComparisonResult, int]) -> str:
    out = io.StringIO()
    report = LineReporter(form, TerminalWriter(out))
    for verdict, lost in verdicts:
        report.compared(verdict, lost)
    report.close()
    return out.getvalue()


def verdict(found: list[dict[str, str | None]] | None) -> ComparisonResult:
    return ComparisonResult("foo", "GET", "/a\x1b", found)


def test_each_difference_is_said_and_what_was_the_same_is_counted() -> None:
    text = printed("text", (verdict([]), 0), (verdict([PLACE] * 7), 0), (verdict(None), 2))
    assert "foo  GET '/a\\x1b'  differs from the service's response:" in text
    assert text.count("body $.a: 1 -> nothing") == MAX_DIFFERENCES
    assert "and 2 more" in text
    assert text.splitlines()[-1].endswith("shadow: 1 same, 1 different, 3 not compared")


def test_where_all_is_the_same_only_the_count_is_said() -> None:
    (line,) = printed("text", *[(verdict([]), 0)] * 120).splitlines()
    assert line.endswith("shadow: 120 same, 0 different")


def test_those_without_a_contract_are_told_apart() -> None:
    ordinary = ComparisonResult("foo", "GET", "/", [], contract=False)
    (line,) = printed("text", (verdict([]), 0), (ordinary, 0)).splitlines()
    assert line.endswith("shadow: 2 same, 0 different (1 without a contract)")
    events = printed("json", (verdict([]), 0), (ordinary, 0)).splitlines()
    assert [json.loads(line)["contract"] for line in events] == [True, False]


def test_for_scripts_each_comparison_is_an_event_with_the_counts() -> None:
    events = [
        json.loads(line) for line in printed("json", (verdict([PLACE]), 0), (verdict([]), 0)).splitlines()
    ]
    assert [each["differences"] for each in events] == [[PLACE], []]
    assert [(each["same"], each["different"]) for each in events] == [(0, 1), (1, 1)]


def test_the_page_counts_them() -> None:
    view = View(name="alice", services=[("foo", "http://localhost:1")], shadow="shadow: 3 same, 1 different")
    page = "\n".join("".join(text for text, _ in line) for line in lines(view, 80, 24))
    assert "0 requests  shadow: 3 same, 1 different" in page
