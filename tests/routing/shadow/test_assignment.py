"""Which laptops get shadow traffic, and how the proxy recognises it."""

import gc
import weakref

import pytest

from devroute.contract.conditions import MAX_LIST, MAX_TEXT
from devroute.contract.offer_options import OfferOptions
from devroute.errors import CallerDenied, ConditionUnmet, ContractMissing, LaptopOffline, ShadowDenied
from devroute.http.http1.request import parse_request_head
from devroute.http.message import RequestHead
from devroute.policy.policy import Policy
from devroute.routing.registry import Registry
from devroute.routing.resolve_codec import MAX_BYTES, encode
from devroute.routing.route import Route
from devroute.routing.router import ContractRouter
from devroute.routing.shadow.assignment import MAX_LAPTOPS, assign_shadow_traffic, ticket_of
from devroute.routing.shadow.traffic import ShadowTraffic
from devroute.tunnel.protocol.handshake import Hello, Offer
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream
from devroute.upstream.mirror import MirrorUpstream
from devroute.upstream.pools import Pools
from tests.support.resolve_reader import decode

OPEN = Policy.from_mapping({"shadow": ["foo"]})


class Link:
    def upstream(self, service: str) -> Upstream:
        return self

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        raise NotImplementedError


class Mesh:
    """A registry, and the shadow traffic of its laptops."""

    def __init__(self) -> None:
        self.shadow = ShadowTraffic(lambda: 0.0)
        self.registry = Registry([self.shadow])

    def laptop(self, name: str, **options: object) -> Link:
        link = Link()
        offers = (Offer(service="foo", terms=OfferOptions(**options)), Offer(service="bar"))  # type: ignore[arg-type]
        self.registry.register(name, Hello(agent="1", name=name, services=offers), link, 0.0)
        return link

    def process(self, name: str, instance: str, service: str, **options: object) -> Link:
        """One of several processes of a laptop."""
        link = Link()
        offers = (Offer(service=service, terms=OfferOptions(**options)),)  # type: ignore[arg-type]
        hello = Hello(agent="1", name=name, services=offers, instance=instance)
        self.registry.register(name, hello, link, 0.0)
        return link

    def resolve(self, policy: Policy = OPEN, *candidates: str) -> dict[str, list[str]]:
        return decode(encode(assign_shadow_traffic(candidates or ("foo",), policy, self.shadow)))


def test_a_laptop_gets_shadow_traffic_only_if_it_asks_for_it() -> None:
    mesh = Mesh()
    mesh.laptop("alice")
    assert mesh.resolve() == {"decision": ["service"], "ttl": ["1000"]}


def test_processes_of_one_laptop_take_shadow_traffic_and_leave_independently() -> None:
    mesh = Mesh()
    one = mesh.process("alice", "a1", "foo", shadow=100.0)
    mesh.process("alice", "b2", "bar", shadow=100.0)
    assert [len(mesh.shadow.targets(service)) for service in ("foo", "bar")] == [1, 1]
    assert mesh.shadow.watch("alice", "foo") is not None
    mesh.registry.unregister(one)
    assert [len(mesh.shadow.targets(service)) for service in ("foo", "bar")] == [0, 1]
    assert mesh.shadow.watch("alice", "foo") is None
    assert mesh.shadow.watch("alice", "bar") is not None
    assert mesh.shadow.watch("alice", "bar.shop") is not None, "a contract may name the namespace"


def test_an_offer_for_a_namespace_gets_the_shadow_traffic_of_that_alone() -> None:
    mesh = Mesh()
    mesh.process("alice", "a1", "foo.shop", shadow=100.0)
    for namespace, laptops in (("shop", 1), ("qa", 0), (None, 0)):
        assert len(assign_shadow_traffic(("foo",), OPEN, mesh.shadow, namespace).laptops) == laptops


def test_each_laptop_has_a_line_with_its_ticket_and_options() -> None:
    mesh = Mesh()
    mesh.laptop("bob", shadow=12.5, shadow_methods=("GET", "POST"), paths=("/api/", "/v2/"))
    mesh.laptop("alice", shadow=100.0)
    alice, bob = mesh.shadow.targets("foo")
    assert mesh.resolve(OPEN, "foo-v1", "foo") == {
        "decision": ["copy"],
        "ttl": ["1000"],
        "service": ["foo"],
        "copy": [
            f"{alice.ticket} 100.000000 GET,HEAD,OPTIONS,TRACE",
            f"{bob.ticket} 12.500000 GET,POST /api/ /v2/",
        ],
    }
    assert alice.ticket != bob.ticket
    assert mesh.shadow.targets("bar") == []


def test_a_response_names_no_more_laptops_than_a_sidecar_draws_from() -> None:
    mesh = Mesh()
    for number in range(MAX_LAPTOPS + 5):
        mesh.laptop(f"alice{number}", shadow=1.0)
    assert len(mesh.resolve()["copy"]) == MAX_LAPTOPS


def test_laptops_with_long_lists_of_paths_do_not_make_the_response_too_long_for_a_sidecar() -> None:
    mesh = Mesh()
    for number in range(8):
        paths = tuple(f"/{path}{number}" + "a" * (MAX_TEXT - 4) for path in range(10, 10 + MAX_LIST))
        methods = tuple(f"{letter}" + "A" * 31 for letter in "ABCDEFGHIJKLMNOP")
        mesh.laptop(f"alice{number}", shadow=1.0, paths=paths, shadow_methods=methods)
    mesh.laptop("bob", shadow=1.0)
    body = encode(assign_shadow_traffic(("foo",), OPEN, mesh.shadow))
    assert len(body) <= MAX_BYTES
    assert len(decode(body)["copy"]) == 4  # three of them, and bob, whose line is short


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"shadow": ["bar"]},
        {"shadow": ["foo"], "services": ["bar"]},
        {"shadow": ["foo"], "callers": [{"from": ["*"], "services": ["foo"], "targets": ["bob"]}]},
    ],
)
def test_policy_decides_which_laptops_get_shadow_traffic(policy: dict[str, object]) -> None:
    mesh = Mesh()
    mesh.laptop("alice", shadow=100.0)
    assert mesh.resolve(Policy.from_mapping(policy))["decision"] == ["service"]


def test_a_ticket_ends_with_its_registration() -> None:
    mesh = Mesh()
    mesh.laptop("alice", shadow=100.0)
    (older,) = mesh.shadow.targets("foo")
    newer_link = mesh.laptop("alice", shadow=100.0)
    (newer,) = mesh.shadow.targets("foo")
    assert mesh.shadow.target(newer.ticket) is newer
    with pytest.raises(LaptopOffline):
        mesh.shadow.target(older.ticket)
    mesh.registry.unregister(newer_link)
    assert mesh.shadow.targets("foo") == []


class Desk(Mesh):
    """With the data port's router, and a policy that changes."""

    def __init__(self) -> None:
        super().__init__()
        self.policy = OPEN
        pools = Pools(lambda: self.policy, connect_timeout=1, max_in_flight=1)
        self.router = ContractRouter(self.registry, lambda: self.policy, pools, shadow=self.shadow)

    def copy(self, ticket: str, *lines: str, method: str = "GET") -> Route:
        fields = [f"{method} / HTTP/1.1", "host: foo-shadow", f"x-devroute-copy: {ticket}", *lines]
        return self.router(parse_request_head("\r\n".join([*fields, "", ""]).encode()))

    def ticket(self, **options: object) -> str:
        self.laptop("alice", **{"shadow": 100.0, **options})
        (target,) = self.shadow.targets("foo")
        return target.ticket


async def test_a_shadow_request_finds_its_laptop_by_the_ticket() -> None:
    desk = Desk()
    ticket = desk.ticket()
    route = desk.copy(ticket)
    assert (route.service, route.target) == ("foo", "alice")
    assert isinstance(route.upstream, MirrorUpstream)
    assert desk.copy(ticket) is route


@pytest.mark.parametrize("ticket", ["f" * 32, "", "alice", "f" * 31, "f" * 33, "é" * 16])
async def test_an_unknown_ticket_is_refused(ticket: str) -> None:
    desk = Desk()
    desk.ticket()
    with pytest.raises((LaptopOffline, ContractMissing)):
        desk.copy(ticket)


async def test_a_contract_takes_precedence_over_a_ticket() -> None:
    desk = Desk()
    ticket = desk.ticket()
    with pytest.raises(LaptopOffline, match="bob"):
        desk.copy(ticket, 'x-devroute: {"foo": "bob"}', "x-devroute-matched: foo")


async def test_a_laptop_that_registers_again_and_again_leaves_no_objects_behind() -> None:
    desk = Desk()
    links = []
    for _ in range(3):
        desk.copy(desk.ticket())
        links.append(weakref.ref(desk.registry.registrations()[0].link))
    gc.collect()
    assert [link() is None for link in links] == [True, True, False]


async def test_the_laptops_options_are_checked_for_each_shadow_request() -> None:
    desk = Desk()
    ticket = desk.ticket()
    with pytest.raises(ConditionUnmet):
        desk.copy(ticket, method="POST")


async def test_a_new_policy_ends_shadow_traffic_that_it_does_not_permit() -> None:
    desk = Desk()
    ticket = desk.ticket()
    desk.copy(ticket)
    desk.policy = Policy.from_mapping({})
    desk.router.forget()
    with pytest.raises(ShadowDenied):
        desk.copy(ticket)


async def test_only_requests_of_callers_that_policy_lists_are_sent_to_the_laptop() -> None:
    desk = Desk()
    desk.policy = Policy.from_mapping(
        {"shadow": ["foo"], "callers": [{"from": ["qa/web"], "services": ["foo"], "targets": ["alice"]}]}
    )
    ticket = desk.ticket()
    assert desk.copy(ticket, "x-devroute-caller: spiffe://cluster.local/ns/qa/sa/web").target == "alice"
    for lines in ([], ["x-devroute-caller: spiffe://cluster.local/ns/shop/sa/web"]):
        with pytest.raises(CallerDenied):
            desk.copy(ticket, *lines)


def test_a_ticket_is_read_from_its_own_field_only() -> None:
    assert ticket_of(b"GET / HTTP/1.1\r\nx-devroute-copy: abc\r\n\r\n") == "abc"
    for head in (
        b"GET /x-devroute-copy: abc HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nx-devroute-copy: a b\r\n\r\n",
    ):
        assert ticket_of(head) is None
