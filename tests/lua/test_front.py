"""`front`, the first filter of sidecars whose Envoy is older than 1.38, under LuaJIT."""

from devroute.mesh.manifests import lua
from tests.lua.worker import Worker

CONTRACT = '{"foo": "alice"}'


def test_the_route_is_chosen_again_with_an_empty_result_which_reports_nothing() -> None:
    handle = Worker(lua.source("front")).request(CONTRACT)
    assert handle.cleared, "else the service's own route is not the one that filters of policy obey"
    assert handle.decided == {("devroute", "result"): ""}


def test_nothing_is_asked_and_the_request_stays_as_it_is() -> None:
    worker = Worker(lua.source("front"))
    handle = worker.request(CONTRACT, baggage="a=b", x_devroute_via="bar")
    assert (worker.asked, worker.reported, worker.logged, handle.responded) == ([], [], [], None)
    assert handle.calls == [], "no header is read or changed"
    assert (handle.sent("x-devroute"), handle.sent("baggage")) == (CONTRACT, "a=b")
    assert handle.sent("x-devroute-via") == "bar"
