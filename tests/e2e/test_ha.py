"""What the harness of several replicas (ha/) makes of the requests that it sent, and of its figures: it has
to be able to fail. The harness itself runs by `make ha`."""

import json
import math

import pytest

from ha.figures import Figure, Report
from ha.ledger import Kind, Outcome, count, examples, hindered, judge, longest, p99, quantile, unexcused

LAPTOP = {"x-devroute-result": "laptop"}


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind"),
    [
        (200, LAPTOP, "ha--1 7", Kind.GOOD),
        (200, LAPTOP, "ha--2 7", Kind.WRONG),
        (200, LAPTOP, "ha--1 8", Kind.WRONG),
        (200, LAPTOP, "", Kind.WRONG),
        (200, {"x-devroute-result": "fallback"}, "the service 7", Kind.FALLBACK),
        (200, {"x-devroute-result": "service"}, "the service 7", Kind.FAILED),
        (200, {}, "ha--1 7", Kind.FAILED),
        (503, {"x-devroute-result": "laptop"}, "ha--1 7", Kind.FAILED),
        (502, {"x-devroute-result": "error"}, '{"code": "target-unreachable"}', Kind.FAILED),
        (503, {}, "no healthy upstream", Kind.FAILED),
    ],
)
def test_a_response_is_good_only_if_its_laptop_sent_it_to_this_request(
    status: int, headers: dict[str, str], body: str, kind: Kind
) -> None:
    assert judge("ha--1", "7", status, headers, body)[0] is kind


def test_a_bad_response_is_described_by_its_code() -> None:
    _, detail = judge("ha--1", "7", 502, {}, '{"code": "target-unreachable", "error": "closed"}')
    assert detail.startswith("502 target-unreachable")


def outcome(due: float, ended: float, kind: Kind = Kind.FAILED, *, slow: bool = False) -> Outcome:
    return Outcome("ha--1", due, ended, kind, slow)


@pytest.mark.parametrize(
    ("outcome", "excused"),
    [
        (outcome(9, 10.5), True),
        (outcome(10.05, 10.5), True),
        (outcome(9, 9.9), False),
        (outcome(10.2, 10.3), False),
        (outcome(9, 10.5, Kind.FALLBACK), True),
        (outcome(10.2, 10.3, Kind.FALLBACK), False),
        (outcome(9, 10.5, Kind.WRONG), False),
        (outcome(10.2, 10.2, Kind.UNSENT), False),
        (outcome(10.2, 10.3, Kind.GOOD), True),
    ],
)
def test_only_requests_that_were_open_when_their_replica_was_killed_may_fail(
    outcome: Outcome, excused: bool
) -> None:
    assert unexcused([outcome], killed=10, gone=10.1) == ([] if excused else [outcome])


@pytest.mark.parametrize(
    ("detail", "kind", "stall", "excused"),
    [
        ("the devroute proxy did not respond within 500 ms", Kind.FALLBACK, (9.5, 10.2), True),
        ("TimeoutError", Kind.FAILED, (9.5, 10.2), True),
        ("TimeoutError", Kind.FAILED, (12, 13), False),
        ("TimeoutError", Kind.FAILED, (8, 9), False),
        ("503 upstream-reset", Kind.FAILED, (9.5, 10.2), False),
        ("laptop 'ha--1' is not online", Kind.FALLBACK, (9.5, 10.2), False),
        ("TimeoutError", Kind.WRONG, (9.5, 10.2), False),
    ],
)
def test_a_machine_that_stood_still_explains_late_responses_alone(
    detail: str, kind: Kind, stall: tuple[float, float], excused: bool
) -> None:
    assert hindered(Outcome("ha--1", 10, 11, kind, False, detail), [stall]) is excused


def test_quantiles_are_by_nearest_rank() -> None:
    values = [float(each) for each in range(1, 101)]
    assert [quantile(values, share) for share in (0, 0.5, 0.99, 1)] == [1, 50, 99, 100]
    assert quantile([], 0.99) == 0


def test_apps_that_take_their_time_count_for_the_longest_request_and_not_for_the_quantile() -> None:
    outcomes = [outcome(0, 1, Kind.GOOD), outcome(0, 3, Kind.GOOD, slow=True), outcome(0, 2)]
    assert longest(outcomes) == 3
    assert p99(outcomes) == 1


def test_bad_requests_are_counted_and_the_most_frequent_named_first() -> None:
    outcomes = [outcome(0, 1, Kind.GOOD), outcome(0, 1, Kind.FALLBACK), outcome(0, 1), outcome(0, 1)]
    assert [count(outcomes, kind) for kind in Kind] == [1, 0, 1, 2, 0]
    assert [each.partition(":")[0] for each in examples(outcomes)] == ["2 times failed", "1 times fallback"]


@pytest.mark.parametrize(
    ("figure", "met"),
    [
        (Figure("p", "n", 0, 0), True),
        (Figure("p", "n", 1, 0), False),
        (Figure("p", "n", 0.97, 0.97, least=True), True),
        (Figure("p", "n", 0.96, 0.97, least=True), False),
        (Figure("p", "n", math.nan, 1), False),
        (Figure("p", "n", math.nan, 1, least=True), False),
        (Figure("p", "n", 1), None),
    ],
)
def test_a_figure_meets_its_bound_or_does_not(figure: Figure, met: bool | None) -> None:
    assert figure.met is met


def test_a_run_passes_if_all_bounds_are_met_and_all_phases_have_ended() -> None:
    report = Report()
    assert not report.passed  # nothing was measured
    report.at_most("restart", "failed", 0, 0)
    report.add("restart", "requests", 100)
    assert report.passed
    report.broken["kill"] = "TimeoutError"
    assert not report.passed
    report.broken.clear()
    report.at_least("kill", "held", 999, 1000)
    assert not report.passed


def test_the_table_and_the_json_say_what_has_failed() -> None:
    report = Report()
    report.at_most("restart", "failed", 0, 0)
    report.at_most("restart", "longest", 1.25, 1, "s")
    report.broken["kill"] = "TimeoutError: "
    report.note("restart", ["1 times failed: 503"])
    lines = report.table().splitlines()
    assert lines[2].split() == ["restart", "failed", "0", "0", "ok"]
    assert lines[3].split() == ["longest", "1.25", "s", "≤", "1", "FAILED"]
    assert lines[4:] == ["kill: did not finish: TimeoutError:", "restart: 1 times failed: 503"]
    found = json.loads(report.as_json())
    assert found["passed"] is False
    assert [each["met"] for each in found["figures"]] == [True, False]
    assert found["broken"] == {"kill": "TimeoutError: "}
