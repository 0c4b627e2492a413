"""Where `devroute manifests check` warns of callers that retry, cut short or eject what a laptop answers."""

from typing import Any

import pytest

from devroute.mesh.preflight.callers import virtual_service, with_callers


def findings(kind: Any, spec: dict[str, Any]) -> list[str]:
    return [each.place for each in kind({"spec": spec}) if each.severity == "warning"]


@pytest.mark.parametrize(
    ("route", "places"),
    [
        ({}, []),
        ({"timeout": "0s"}, []),
        ({"timeout": "10s"}, ["spec.http[0].timeout"]),
        ({"retries": {"attempts": 3}}, []),
        ({"retries": {"attempts": 3, "perTryTimeout": "2s"}}, ["spec.http[0].retries.perTryTimeout"]),
        ({"retries": {"attempts": 0, "perTryTimeout": "2s"}}, []),
        ({"retries": {"retryOn": "5xx,reset"}}, []),
        ({"retries": {"retryOn": "5xx,envoy-ratelimited"}}, ["spec.http[0].retries.retryOn"]),
    ],
)
def test_routes_that_ask_again_or_too_soon(route: dict[str, Any], places: list[str]) -> None:
    assert findings(virtual_service, {"hosts": ["foo"], "http": [route]}) == places


@pytest.mark.parametrize("http", [None, "x", [None], [{"retries": []}]])
def test_what_is_no_virtual_service_is_left_to_others(http: object) -> None:
    assert findings(virtual_service, {"http": http}) == []


@pytest.mark.parametrize(
    ("policy", "found"),
    [
        ({}, False),
        ({"outlierDetection": {"consecutive5xxErrors": 5}}, True),
        ({"portLevelSettings": [{"port": {"number": 80}, "outlierDetection": {}}]}, True),
    ],
)
def test_outlier_detection_counts_laptops_errors(policy: dict[str, Any], found: bool) -> None:
    warnings = findings(with_callers, {"host": "foo", "trafficPolicy": policy})
    assert warnings == (["spec.trafficPolicy.outlierDetection"] if found else [])
