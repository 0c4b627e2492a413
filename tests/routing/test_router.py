"""Where a detoured request goes. No socket: only what is chosen, and when it is judged again."""

import pytest

from devroute.contract.offer_options import OfferOptions
from devroute.contract.target import Address
from devroute.contract.trace_id import with_trace
from devroute.errors import (
    CallerDenied,
    ConditionUnmet,
    ContractInvalid,
    ContractMissing,
    DevrouteError,
    LaptopOffline,
    LoopDetected,
    MarkerMissing,
    NotSupported,
    RequestMalformed,
    ServiceNotInContract,
    ServiceNotServed,
    TargetDenied,
)
from devroute.http.http1.request import parse_request_head
from devroute.http.message import RequestHead
from devroute.policy.policy import Policy
from devroute.routing import router
from devroute.routing.registry import LaptopService
from devroute.routing.route import FAILOVER, Route
from devroute.routing.router import ContractRouter
from devroute.routing.shadow.comparison import ComparedResponse
from devroute.routing.shadow.traffic import ShadowTraffic
from devroute.upstream.interface import ResponseSink, UpstreamStream
from devroute.upstream.mirror import MirrorUpstream
from devroute.upstream.negotiating import NegotiatingUpstream
from devroute.upstream.pools import MAX_POOLS, Pools
from tests.support.loopback import Client, get

OPEN = Policy.from_mapping({"direct": {"networks": ["192.168.0.0/16", "100.64.0.0/10"]}})


class Tunnel:
    """An upstream that is never opened."""

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        raise NotImplementedError


class Desk:
    """A router with its policy and its laptops, both to be changed by a test."""

    def __init__(self) -> None:
        self.policy = OPEN
        self.laptops: dict[tuple[str, str], LaptopService] = {}
        self.asked = 0
        self.consulted = 0
        self.pools = Pools(lambda: self.policy, connect_timeout=1, max_in_flight=1)
        self.router = ContractRouter(self, self.consult, self.pools)

    def consult(self) -> Policy:
        self.consulted += 1
        return self.policy

    def lookup(self, name: str, service: str) -> LaptopService:
        self.asked += 1
        try:
            return self.laptops[name, service]
        except KeyError:
            raise LaptopOffline(f"{name} is not online") from None

    def route(self, contract: bytes, matched: bytes = b"foo") -> Route:
        return self.fields(b"x-devroute: " + contract, b"x-devroute-matched: " + matched)

    def fields(self, *lines: bytes) -> Route:
        raw = b"\r\n".join((b"GET / HTTP/1.1", b"host: foo", *lines)) + b"\r\n\r\n"
        return self.router(parse_request_head(raw))


@pytest.fixture
async def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize("cacheable", [False, True])
async def test_no_cache_may_keep_a_detoured_response_unless_the_proxy_is_set_so(
    desk: Desk, cacheable: bool
) -> None:
    if cacheable:
        desk.router = ContractRouter(desk, desk.consult, desk.pools, cacheable=True)
    route = desk.route(b'{"foo": "192.168.1.12:8001"}')
    assert route.no_store is (b"\r\ncache-control: no-store\r\n" in route.response_headers) is not cacheable
    assert desk.route(b'{"foo": {"to": "192.168.1.12:8001", "abort": 503}}').no_store is not cacheable
    failed_over = route.with_outcome("service", "foo: failover", FAILOVER)
    assert not failed_over.no_store
    assert route.with_outcome("service", "foo: failover", FAILOVER) is failed_over
    assert route.with_outcome("service", "foo: another", FAILOVER).reason == "foo: another"
    assert (route.result, failed_over.reason) == ("laptop", "foo: failover"), "neither has changed"


async def test_an_address_is_reached_directly_by_one_pool_for_each_service(desk: Desk) -> None:
    route = desk.route(b'{"foo": "192.168.1.12:8001", "bar": "192.168.1.12:8001"}')
    assert isinstance(route.upstream, NegotiatingUpstream)
    assert (route.service, route.target) == ("foo", "192.168.1.12:8001")
    assert route.response_headers == (
        b"x-devroute-result: laptop\r\nx-devroute-reason: foo answered by 192.168.1.12:8001\r\n"
        b"cache-control: no-store\r\n"
    )
    assert desk.route(b'{"foo": "192.168.1.12:8001"}').upstream is route.upstream
    assert desk.route(b'{"bar": "192.168.1.12:8001"}', b"bar").upstream is not route.upstream


async def test_a_contract_is_judged_once_and_its_route_used_again(desk: Desk) -> None:
    contract = b'{"foo": "192.168.1.12:8001"}'
    assert desk.route(contract) is desk.route(contract)
    seen = desk.consulted
    for number in range(3):
        marked = with_trace(contract.decode(), f"{number:032x}").encode()
        assert desk.route(marked) is desk.route(contract), "traces of a contract share its decision"
    assert desk.consulted == seen


async def test_who_is_online_is_asked_for_every_request(desk: Desk) -> None:
    first, second = Tunnel(), Tunnel()
    desk.laptops["alice", "foo"] = LaptopService(first, None)
    contract = b'{"foo": "alice"}'
    assert desk.route(contract).upstream is first
    assert desk.route(contract) is desk.route(contract)
    desk.laptops["alice", "foo"] = LaptopService(second, None)
    assert desk.route(contract).upstream is second
    del desk.laptops["alice", "foo"]
    with pytest.raises(LaptopOffline):
        desk.route(contract)
    assert desk.asked == 5


async def test_shadow_traffic_is_limited_to_the_offered_methods_whatever_the_sidecar_sends(
    desk: Desk,
) -> None:
    desk.laptops["alice", "foo"] = LaptopService(Tunnel(), None, OfferOptions(shadow=25.0))
    route = desk.route(b'{"foo": "alice"}')
    assert b"x-devroute-result: mirror" in route.response_headers
    assert isinstance(route.upstream, MirrorUpstream)
    desk.laptops["alice", "foo"] = LaptopService(
        Tunnel(), None, OfferOptions(shadow=25.0, shadow_methods=("POST",))
    )
    with pytest.raises(ConditionUnmet, match="shadow traffic of POST only"):
        desk.route(b'{"foo": "alice"}')


@pytest.mark.parametrize("line", [b'x-devroute: {"foo": "alice"}', b"x-devroute-copy: " + b"f" * 32])
async def test_no_comparison_is_expected_for_a_copy_whose_laptop_has_left(desk: Desk, line: bytes) -> None:
    shadow = ShadowTraffic(lambda: 0.0)
    desk.router = ContractRouter(desk, desk.consult, desk.pools, shadow=shadow)
    with pytest.raises(LaptopOffline):
        desk.fields(line, b"x-devroute-matched: foo", b"x-devroute-compare: abc1")
    shadow.comparisons.add_service_response("abc1", ComparedResponse(200))
    assert len(shadow.comparisons) == 0


async def test_a_laptops_own_address_is_subject_to_policy_too(desk: Desk) -> None:
    desk.laptops["alice", "foo"] = LaptopService(None, Address("192.168.1.12", 8001))
    route = desk.route(b'{"foo": "alice"}')
    assert route.upstream is desk.pools.get("foo", Address("192.168.1.12", 8001))
    assert b"foo answered by alice (192.168.1.12:8001)" in route.response_headers
    desk.laptops["alice", "foo"] = LaptopService(None, Address("127.0.0.1", 8001))
    with pytest.raises(TargetDenied):
        desk.route(b'{"foo": "alice"}')
    desk.laptops["alice", "foo"] = LaptopService(None, None)
    with pytest.raises(ServiceNotServed):
        desk.route(b'{"foo": "alice"}')


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        ([], ContractMissing, "missing"),
        ([b"x-devroute-matched: foo"], ContractMissing, "missing"),
        ([b'x-devroute: {"foo":"a"}'], MarkerMissing, "no sidecar"),
        ([b'x-devroute: {"foo":"a"}'] * 2 + [b"x-devroute-matched: foo"], ContractInvalid, "2 times"),
        ([b'x-devroute: {"foo":"a"}'] + [b"x-devroute-matched: foo"] * 3, RequestMalformed, "3 times"),
        ([b'x-devroute: {"foo":"\xff"}', b"x-devroute-matched: foo"], ContractInvalid, "UTF-8"),
        (
            [b'x-devroute: {"foo":"a","b":"c"}', b"x-devroute-matched: x"],
            ServiceNotInContract,
            "names foo, b",
        ),
        ([b"x-devroute: {}", b"x-devroute-matched: x"], ContractInvalid, "no service"),
        ([b'x-devroute: {"foo":[1]}', b"x-devroute-matched: foo"], ContractInvalid, "foo"),
    ],
)
async def test_what_is_missing_repeated_or_malformed_is_named(
    desk: Desk, lines: list[bytes], error: type[DevrouteError], message: str
) -> None:
    with pytest.raises(error, match=message):
        desk.fields(*lines)


async def test_a_policy_that_denies_is_asked_again_only_when_another_is_in_force(desk: Desk) -> None:
    contract = b'{"foo": "10.0.0.1:8001"}'
    with pytest.raises(TargetDenied):
        desk.route(contract)
    allowed = desk.route(b'{"foo": "192.168.1.12:8001"}')
    desk.policy = Policy.from_mapping({"direct": {"networks": ["10.0.0.0/8"]}})
    desk.router.forget()
    assert desk.route(contract).upstream is not allowed.upstream
    with pytest.raises(TargetDenied):
        desk.route(b'{"foo": "192.168.1.12:8001"}')


async def test_a_key_with_a_namespace_is_matched_as_it_is_written(desk: Desk) -> None:
    contract = b'{"foo.shop": "192.168.1.12:8001"}'
    assert desk.route(contract, b"foo.shop").service == "foo.shop"
    with pytest.raises(ServiceNotInContract):
        desk.route(contract, b"foo")


async def test_options_that_exclude_each_other_are_reported(desk: Desk) -> None:
    with pytest.raises(NotSupported, match="not for mirrored requests"):
        desk.route(b'{"foo": {"to": "alice", "mirror": true, "delay": 1}}')


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (b'"version:v2"', "inside the mesh"),
        (b'{"to": "192.168.1.12:8001", "methods": ["POST", "PUT"]}', "is for POST, PUT"),
        (b'{"to": "192.168.1.12:8001", "path": "/api/"}', "is for /api/"),
        (b'{"to": "192.168.1.12:8001", "percent": 0}', "is for 0%"),
    ],
)
async def test_a_sidecar_that_ignores_a_condition_is_not_believed(
    desk: Desk, target: bytes, message: str
) -> None:
    with pytest.raises(ConditionUnmet, match=message):
        desk.route(b'{"foo": %b}' % target)


async def test_a_request_that_meets_the_conditions_is_routed(desk: Desk) -> None:
    contract = b'{"foo": {"to": "192.168.1.12:8001", "methods": ["GET"], "path": "/", "percent": 0.5}}'
    assert desk.route(contract).target == "192.168.1.12:8001"


async def test_a_service_on_the_way_twice_is_a_loop(desk: Desk) -> None:
    lines = [b'x-devroute: {"foo": "192.168.1.12:8001"}', b"x-devroute-matched: foo"]
    for way in (b"foo", b"bar, foo", b"foobar, foo"):
        assert desk.fields(*lines, b"x-devroute-via: " + way).service == "foo"
    with pytest.raises(LoopDetected, match="leads back"):
        desk.fields(*lines, b"x-devroute-via: foo, bar, foo")


async def test_the_cache_of_contracts_is_bounded(desk: Desk) -> None:
    contract = b'{"foo": "192.168.1.12:8001", "x%d": "a"}'
    first = desk.route(contract % 0)
    assert desk.route(contract % 0) is first
    most = router.MAX_REMEMBERED_BYTES
    for number in range(1, most // (router.DECISION_COST * 6000) + 2):
        desk.route((contract % number).replace(b", ", b"," + b" " * 6000))
        assert desk.router.decisions.size <= most
    assert desk.route(contract % 0) is not first


async def test_idle_pools_are_forgotten(desk: Desk) -> None:
    address = Address("192.168.1.12", 8001)
    idle, busy = desk.pools.get("foo", address), desk.pools.get("bar", address)
    stream = busy.open(get(), Client())
    desk.pools.prune()
    assert desk.pools.get("bar", address) is busy
    assert desk.pools.get("foo", address) is not idle
    stream.cancel()
    await desk.pools.close()


async def test_a_route_leads_to_the_pool_that_its_address_has_now(desk: Desk) -> None:
    address, contract = Address("192.168.1.12", 8001), b'{"foo": "192.168.1.12:8001"}'
    first = desk.route(contract).upstream
    desk.pools.prune()
    again = desk.route(contract).upstream
    assert again is desk.pools.get("foo", address) is not first
    for number in range(MAX_POOLS):  # there is no room for one more
        desk.pools.get("bar", Address("192.168.1.13", 1 + number))
    assert desk.route(contract).upstream is desk.pools.get("foo", address) is not again


# --- callers -----------------------------------------------------------------------------------------------

QA = b"spiffe://cluster.local/ns/qa/sa/runner"


async def test_where_policy_restricts_callers_the_sidecar_has_to_name_them(desk: Desk) -> None:
    networks = {"networks": ["192.168.0.0/16"]}
    desk.policy = Policy.from_mapping({"direct": networks, "callers": [{"from": ["qa/*"]}]})
    lines = (b'x-devroute: {"foo": "192.168.1.12:8001"}', b"x-devroute-matched: foo")
    for _ in range(2):
        assert desk.fields(*lines, b"x-devroute-caller: " + QA).service == "foo"
        for other in (
            [],
            [b"x-devroute-caller: "],
            [b"x-devroute-caller: " + QA + b"/x"],
            [b"x-caller: " + QA],
        ):
            with pytest.raises(CallerDenied):
                desk.fields(*lines, *other)
    desk.policy = OPEN
    desk.router.forget()
    assert desk.fields(*lines).service == "foo"


async def test_the_cache_of_callers_is_bounded_for_each_contract(desk: Desk) -> None:
    desk.policy = Policy.from_mapping({"callers": [{"from": ["qa/*"]}]})
    desk.laptops["alice", "foo"] = LaptopService(Tunnel(), None)

    def judgements(number: int) -> int:
        """How often policy is consulted about a request of this caller."""
        before = desk.consulted
        caller = b"x-devroute-caller: spiffe://x/ns/qa/sa/%d" % number
        desk.fields(b'x-devroute: {"foo": "alice"}', b"x-devroute-matched: foo", caller)
        return desk.consulted - before

    judgements(0)
    assert judgements(0) == 0, "its caller is remembered"
    for number in range(1, router.MAX_CALLERS + 10):
        assert judgements(number) == 1
    assert judgements(0) == 1
