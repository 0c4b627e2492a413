"""Cardinality: which services, methods and statuses have a value of their own, and for how long."""

import pytest

from devroute.metrics.requests import (
    IDLE_PRUNES,
    MAX_CONTRACTED,
    MAX_OUTCOMES,
    MAX_REGISTERED,
    MAX_RESULTS,
    RequestSeries,
)
from devroute.metrics.table import OTHER


def series(*registered: str) -> RequestSeries:
    return RequestSeries(lambda service: service in registered)


def test_a_name_that_no_laptop_offers_and_no_permitted_contract_has_is_other() -> None:
    requests = series("foo")
    assert requests.service("foo", contracted=False).name == "foo"
    assert requests.service("bar", contracted=False).name == OTHER
    assert requests.service(None, contracted=True).name == OTHER
    assert requests.service("bar", contracted=True).name == "bar"
    assert requests.service("bar", contracted=False).name == "bar", "it is known now"


def test_a_flood_of_contracted_names_displaces_no_registered_one() -> None:
    requests = series("foo")
    names = [requests.service(f"invented-{n}", contracted=True).name for n in range(MAX_CONTRACTED + 50)]
    assert names[MAX_CONTRACTED:] == [OTHER] * 50
    assert requests.service("foo", contracted=True).name == "foo"
    assert len(list(requests.all())) == MAX_CONTRACTED + 2


def test_registered_names_are_bounded_too() -> None:
    requests = RequestSeries(lambda service: True)
    for number in range(MAX_REGISTERED + 50):
        requests.service(f"s{number}", contracted=True)
    assert len(list(requests.all())) == MAX_REGISTERED + 1


@pytest.mark.parametrize(
    ("method", "status", "labels"),
    [
        (b"GET", 200, ("GET", "200")),
        (b"BREW", 418, (OTHER, "418")),
        (b"get", 299, (OTHER, "200")),
        (b"QUERY", 499, ("QUERY", "499")),
        (b"PUT", 777, ("PUT", "700")),
        (b"PUT", 0, ("PUT", "")),
    ],
)
def test_methods_and_statuses_that_are_not_registered_have_no_series_of_their_own(
    method: bytes, status: int, labels: tuple[str, str]
) -> None:
    outcome = series("foo").service("foo", contracted=False).outcome(method, status, "")
    assert (outcome.method, outcome.status) == labels


def test_an_app_that_returns_every_status_makes_a_bounded_number_of_series() -> None:
    service = series("foo").service("foo", contracted=False)
    results = service.results_for("laptop", "tunnel", "")
    for method in (b"GET", b"PUT", b"POST", b"DELETE", b"M1", b"M2"):
        for status in range(100, 1000):
            outcome = service.cached_outcome(results, method, status)
            assert outcome.status == "" or outcome.status[0] == str(status)[0], "the class stays"
    assert len(service.outcomes) <= MAX_OUTCOMES + 20
    assert set(results.outcomes) == {b"GET", b"PUT", b"POST", b"DELETE"}


def test_laptops_of_one_service_are_bounded() -> None:
    service = series("foo").service("foo", contracted=False)
    found = [service.results_for("laptop", "tunnel", f"ci--{n}").laptop for n in range(MAX_RESULTS + 9)]
    assert found[MAX_RESULTS:] == [OTHER] * 9


def test_what_had_no_request_for_an_hour_ends() -> None:
    requests = series()
    service = requests.service("bar", contracted=True)
    used, unused = service.results_for("laptop", "tunnel", ""), service.results_for("error", "loop", "")
    cached = service.cached_outcome(used, b"GET", 200)
    fallbacks = service.fallbacks_for("laptop-offline", "")
    for _ in range(IDLE_PRUNES):
        used.count += 1
        requests.prune()
    assert (used.ended, unused.ended, fallbacks.ended) == (False, True, True)
    assert service.outcomes == {}
    assert used.outcomes == {}, "nothing is counted with an outcome that is not exposed"
    assert service.cached_outcome(used, b"GET", 200) is not cached
    for _ in range(IDLE_PRUNES + 1):
        requests.prune()
    assert [each.name for each in requests.all()] == [OTHER]
    for number in range(MAX_CONTRACTED):
        assert requests.service(f"n{number}", contracted=True).name != OTHER, "its place is free again"
