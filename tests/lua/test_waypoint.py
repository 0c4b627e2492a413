"""`waypoint`, the filter of ambient meshes, which runs for every request of a service, under LuaJIT."""

import pytest

from devroute.mesh.manifests import lua
from devroute.mesh.manifests.model import Carriers
from tests.lua import worker as envoy
from tests.lua.worker import CONTROL, Handle

DETOUR = "devroute 1\ndecision detour\nservice foo\nttl 1000\n"


class Worker(envoy.Worker):
    def __init__(self, body: str = DETOUR) -> None:
        settings = {
            "control": CONTROL,
            "service": "foo",
            "namespace": "shop",
            **Carriers().settings,
        }
        super().__init__(lua.source("waypoint", SETTINGS=settings))
        self.response = self.responds(body)


def test_a_detour_is_the_header_that_the_route_matches() -> None:
    worker = Worker()
    handle = worker.request('{"foo": "x"}')
    assert handle.sent("x-devroute-matched") == "foo"
    assert handle.cleared
    assert worker.asked[0]["x-devroute-candidates"] == "foo"
    assert worker.asked[0]["x-devroute-namespace"] == "shop"


def test_a_contract_in_baggage_is_decided_too() -> None:
    assert Worker().request(baggage="devroute=%7B%22foo%22%3A%22x%22%7D").sent("x-devroute-matched") == "foo"


@pytest.mark.parametrize("contracts", [(), ('{"bar": "x"}',)])
def test_a_forged_marker_is_removed(contracts: tuple[str, ...]) -> None:
    worker = Worker()
    handle = worker.request(*contracts, x_devroute_matched="foo")
    assert (handle.sent("x-devroute-matched"), handle.cleared) == (None, True)
    assert worker.asked == []


def test_a_request_without_anything_of_ours_is_left_alone() -> None:
    worker = Worker()
    handle = worker.request(baggage="a=b")
    assert (handle.cleared, handle.decided, worker.asked) == (False, {}, [])


@pytest.mark.parametrize("decision", ["mirror", "version"])
def test_what_needs_more_than_a_header_is_left_to_the_service(decision: str) -> None:
    worker = Worker(f"devroute 1\ndecision {decision}\nservice foo\nversion v2\nttl 1000\n")
    handle = worker.request('{"foo": "x"}')
    assert handle.sent("x-devroute-matched") is None
    assert handle["result"] == "fallback"
    assert handle["reason"] == "a waypoint can neither copy requests nor choose a version"


def test_the_response_states_the_decision_unless_the_proxy_has() -> None:
    worker = Worker("devroute 1\ndecision fallback\nreason offline\nttl 0\n")
    handle = worker.request('{"foo": "x"}')
    response = Handle(worker, [(":status", "200")])
    response.decided = handle.decided
    worker.handle(response, "envoy_on_response")
    assert (response.sent("x-devroute-result"), response.sent("x-devroute-reason")) == ("fallback", "offline")
    for result in ("laptop", "mirror"):  # the proxy's, or that of a sidecar behind the waypoint
        response.fields = [("x-devroute-result", result)]
        worker.handle(response, "envoy_on_response")
        assert response.fields == [("x-devroute-result", result)], "no reason that belongs to another result"


def test_the_response_to_a_request_without_a_decision_is_left_alone() -> None:
    worker = Worker()
    response = worker.handle(Handle(worker, [(":status", "200")]), "envoy_on_response")
    assert response.fields == [(":status", "200")]
