"""`shadow`, the sidecar filter for ordinary requests of a workload that takes part in shadow traffic, under
LuaJIT."""

import pytest

from devroute.mesh.manifests import lua
from tests.lua import worker as envoy
from tests.lua.worker import CONTROL, DATA, OWN, SETTINGS

TICKET, OTHER = "ab" * 16, "cd" * 16
SPIFFE = "spiffe://cluster.local/ns/shop/sa/web"


def copies(*lines: str, ttl: int = 1000) -> str:
    return f"devroute 1\ndecision copy\nttl {ttl}\n" + "".join(f"copy {line}\n" for line in lines)


ALL = copies(f"{TICKET} 100.000000 GET,HEAD,POST")


class Worker(envoy.Worker):
    def __init__(self, body: str = ALL, share: str = "100.000000") -> None:
        settings = SETTINGS | {"service": "foo", "namespace": "shop", "share": share}
        super().__init__(lua.source("shadow", SETTINGS=settings))
        self.response = self.responds(body)

    def is_copied(self, **request: str) -> bool:
        handle = self.request(**request)
        assert handle.cleared, "the route is chosen again"
        assert handle["result"] in ("copy", "service")
        assert (handle["result"] == "copy") is (handle.sent("x-devroute-copy") is not None)
        assert self.logged == [], "no failure of the filter"
        return handle["result"] == "copy"


def test_a_copy_names_its_clusters_its_laptop_and_its_caller() -> None:
    worker = Worker()
    handle = worker.request(caller=SPIFFE, x_devroute_caller="spiffe://forged", x_devroute_copy="forged")
    assert handle.sent("x-devroute-cluster") == OWN
    assert handle.sent("x-devroute-shadow") == DATA
    assert handle.sent("x-devroute-copy") == TICKET
    assert handle.sent("x-devroute-caller") == SPIFFE
    assert len(handle.sent("x-devroute-compare") or "") == 32
    assert handle.decided == {
        ("devroute", "result"): "copy",
        ("devroute", "compare"): handle.sent("x-devroute-compare"),
    }
    assert worker.request(x_devroute_caller="spiffe://forged").sent("x-devroute-caller") is None


def test_the_proxy_is_asked_by_the_services_name_and_without_a_contract() -> None:
    worker = Worker()
    worker.request()
    assert worker.asked == [
        {
            ":method": "GET",
            ":path": "/resolve",
            ":authority": "devroute-proxy",
            "x-devroute-candidates": "foo",
            "x-devroute-namespace": "shop",
            "x-envoy-retry-on": "5xx",
            "x-envoy-max-retries": "8",
            "x-envoy-upstream-rq-per-try-timeout-ms": "100",
            "x-envoy-hedge-on-per-try-timeout": "true",
            "timeout": 250,
        }
    ]


@pytest.mark.parametrize(
    ("request_", "copied"),
    [
        ({"_method": "POST", "content_length": "65536"}, True),
        ({"_method": "POST", "content_length": "65537"}, False),
        ({"_method": "POST", "content_length": "many"}, False),
        ({"_method": "POST"}, False),
        ({"_method": "POST", "content_type": "application/grpc+proto"}, True),
        ({"_method": "DELETE"}, False),
        ({"transfer_encoding": "chunked"}, False),
        ({"upgrade": "websocket"}, False),
        ({"baggage": "a=b,devroute-via=bar~foo;p"}, False),
        ({"baggage": "devroute-via=bar, devroute-via=foo"}, False),
        ({"baggage": "devroute-via=foobar"}, True),
        ({"baggage": "a=b"}, True),
    ],
)
def test_only_short_requests_of_wanted_methods_are_copied(request_: dict[str, str], copied: bool) -> None:
    assert Worker().is_copied(**request_) is copied


def test_a_laptop_may_want_certain_paths_only() -> None:
    worker = Worker(copies(f"{TICKET} 100 GET /api/ /v2"))
    assert [worker.is_copied(_path=path) for path in ("/api/x?y", "/v2", "/api", "/", "/x/api/")] == [
        *(True, True),
        *(False, False, False),
    ]


@pytest.mark.parametrize(
    ("share", "percentages", "expected"),
    [
        ("100", (25, 50), (500, 1000)),
        ("50", (25, 25), (1000, 1000)),  # of the half that gets here, twice as many
        ("100", (100, 100), (1000, 1000)),  # more than there is: less for each, in proportion
    ],
)
def test_laptops_get_their_percentage_of_all_requests(
    share: str, percentages: tuple[int, int], expected: tuple[int, int]
) -> None:
    lines = (f"{ticket} {each}.0 GET" for ticket, each in zip((TICKET, OTHER), percentages, strict=True))
    worker = Worker(copies(*lines), share)
    tickets = [worker.request().sent("x-devroute-copy") for _ in range(2000)]
    for ticket, number in zip((TICKET, OTHER), expected, strict=True):
        assert abs(tickets.count(ticket) - number) < 140  # 6 sigma


@pytest.mark.parametrize("missing", [OWN, DATA])
def test_without_one_of_the_clusters_nothing_is_copied(missing: str) -> None:
    worker = Worker()
    worker.clusters.remove(missing)
    assert not worker.is_copied()


def test_a_response_holds_for_its_time() -> None:
    worker = Worker(ALL.replace("1000", "300"))
    for now, asked in [(0, 1), (299, 1), (300, 2)]:
        worker.now = 1_000_000 + now
        assert worker.is_copied()
        assert len(worker.asked) == asked


def test_the_absence_of_laptops_is_cached_too() -> None:
    worker = Worker("devroute 1\ndecision service\nttl 1000\n")
    assert not any(worker.is_copied() for _ in range(5))
    assert len(worker.asked) == 1
    worker.now += 1000
    worker.is_copied()
    assert len(worker.asked) == 2


def test_a_clock_that_is_set_back_does_not_prolong_a_response() -> None:
    worker = Worker()
    worker.request()
    worker.now -= 3_600_000
    worker.request()
    assert len(worker.asked) == 2


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (ALL, "503"),
        ("", "200"),
        ("devroute 2\ndecision copy\n", "200"),
        ("devroute 1\ndecision detour\nservice foo\n", "200"),
        (copies(), "200"),
        (copies("nothing"), "200"),
        (copies(f"{TICKET} 1.2.3 GET"), "200"),
        (copies(f"{TICKET} 0 GET"), "200"),
        (copies(f"{TICKET} 100 GET", "nothing"), "200"),
        (ALL + "x" * 65536, "200"),
    ],
)
def test_a_failure_copies_nothing_and_is_asked_about_once_in_two_seconds(body: str, status: str) -> None:
    worker = Worker()
    worker.response = worker.responds(body, status)
    for now, asked in [(0, 1), (1999, 1), (2000, 2)]:
        worker.now = 1_000_000 + now
        assert not worker.is_copied()
        assert len(worker.asked) == asked


def test_without_the_control_cluster_nothing_is_copied() -> None:
    worker = Worker()
    worker.clusters.remove(CONTROL)
    assert not worker.is_copied()


def test_while_one_request_waits_for_the_proxy_others_use_the_last_response() -> None:
    worker = Worker()
    assert worker.is_copied()
    worker.now += 1000
    meanwhile: list[bool] = []

    def late() -> object:
        meanwhile.append(worker.is_copied())
        return worker.responds("devroute 1\ndecision service\nttl 1000\n")()

    worker.response = late
    assert not worker.is_copied()
    assert meanwhile == [True]
    assert len(worker.asked) == 2


def test_a_failure_of_the_filter_leaves_the_request_to_the_service() -> None:
    worker = Worker(share="")
    handle = worker.request()
    assert (handle["result"], handle.cleared, handle.sent("x-devroute-copy")) == ("service", True, None)
    (logged,) = worker.logged
    assert "devroute: " in logged
