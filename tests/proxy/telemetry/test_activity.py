"""What the team's page has of requests."""

from sys import getrefcount
from typing import Any

from devroute.downstream.context import CompletedExchange
from devroute.errors import LaptopOffline, UpstreamReset
from devroute.http.http1.request import parse_request_head
from devroute.proxy.telemetry.activity import (
    IDLE_TICKS,
    MAX_FALLBACKS,
    MAX_TALLIES,
    OTHER,
    TICKS_A_MINUTE,
    Activity,
)
from devroute.routing.route import Route


def exchange(route: Route | None, status: int = 200, error: Any = None) -> CompletedExchange:
    done = CompletedExchange(parse_request_head(b"GET /secret HTTP/1.1\r\nhost: shop\r\n\r\n"), 1.0)
    done.route, done.status, done.error = route, status, error
    return done


def route(service: str = "shop", target: str = "alice") -> Any:
    return Route(None, service, target, "laptop", "")  # type: ignore[arg-type]


def count(activity: Activity, found: Any, times: int = 1, **how: Any) -> None:
    for _ in range(times):
        activity.count(exchange(found, **how))


def test_requests_of_the_last_minute_are_counted_by_service_and_target() -> None:
    activity, shop = Activity(), route()
    count(activity, shop, 3)
    count(activity, route(), 1, status=503)  # another route of the same
    count(activity, route("cart"), 1, error=UpstreamReset("gone"))
    count(activity, None)
    assert sorted(activity.rates()) == [("cart", "alice", 1, 1), ("shop", "alice", 4, 1)]
    for _ in range(TICKS_A_MINUTE):
        activity.tick()
    assert len(list(activity.rates())) == 2
    activity.tick()
    assert list(activity.rates()) == []
    count(activity, shop)
    assert list(activity.rates()) == [("shop", "alice", 1, 0)]


def test_a_route_that_was_idle_for_long_is_counted_again() -> None:
    activity, shop = Activity(), route()
    count(activity, shop)
    for _ in range(IDLE_TICKS + 2):
        activity.tick()
    count(activity, shop)
    assert list(activity.rates()) == [("shop", "alice", 1, 0)]


def test_further_targets_are_counted_together() -> None:
    activity = Activity()
    for number in range(MAX_TALLIES + 5):
        count(activity, route(target=f"t{number}"))
    rates = list(activity.rates())
    assert len(rates) == MAX_TALLIES + 1
    assert rates[-1] == (OTHER, OTHER, 5, 0)


def test_the_last_fallbacks_are_kept_the_newest_first() -> None:
    activity = Activity()
    for number in range(MAX_FALLBACKS + 1):
        activity.fell_back("shop", f"t{number}", LaptopOffline("it is not online"), float(number))
    activity.fell_back("shop", "t5", LaptopOffline("x" * 2000), 100.0)
    newest, second, *_, oldest = activity.fallbacks()
    assert (newest.target, newest.times, newest.last, newest.code) == ("t5", 2, 100.0, "laptop-offline")
    assert len(newest.reason) == 300
    assert (second.target, oldest.target) == (f"t{MAX_FALLBACKS}", "t1")
    assert len(activity.fallbacks()) == MAX_FALLBACKS


def test_nothing_of_a_request_is_kept_but_its_service_and_target() -> None:
    activity, done = Activity(), exchange(route())
    before = getrefcount(done.request), getrefcount(done.request.target)
    activity.count(done)
    assert (getrefcount(done.request), getrefcount(done.request.target)) == before
    assert list(activity.rates()) == [("shop", "alice", 1, 0)]
