"""Reports of sidecars, and shadow traffic, that reach any of several replicas."""

import asyncio
import json
import time
from typing import Any

import pytest

from devroute.contract.offer_options import OfferOptions
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, RequestHead
from devroute.routing.shadow.comparison import LaptopResponseObserver, parse_service_response
from devroute.routing.shadow.notifier import COMPARISON_SERVICE
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import dial
from devroute.tunnel.protocol.handshake import Hello, Offer
from tests.replicas.replicas import Replica, replicas
from tests.support.eventually import eventually
from tests.support.loopback import App, answer
from tests.support.redis_server import RedisServer

TRACE = "0123456789abcdef" * 2
KEY = "ab" * 16
HEAD = RequestHead(b"GET", b"/a", Framing.NONE, 0, b"GET /a HTTP/1.1\r\nhost: foo\r\n\r\n")
REAL = b'status 200\ncontent-type: application/json\n\n{"a": 1}'


async def test_a_trace_is_put_together_from_what_each_replica_was_reported(redis_server: RedisServer) -> None:
    async with replicas(redis_server, 3) as (one, two, three):
        now = time.monotonic()
        sent = {"x-devroute-trace": TRACE, "x-devroute-candidates": "foo", "x-devroute-result": "laptop"}
        one.traces.add_hop(sent, now)
        two.traces.add_response(TRACE, "foo", "alice", 200, "laptop", "", 0.02, now + 0.03)
        for each in (one, two, three):
            others = await each.shared.reports.traces(TRACE)
            (hop,) = each.traces.hops(TRACE, time.monotonic(), others)
            assert (hop.service, hop.target, hop.status) == ("foo", "alice", 200)
        two.services.add(["foo", "bar"])
        others = await one.shared.reports.traces("f" * 32)
        assert {name for each in others for name in each.services} == {"foo", "bar"}
        assert one.traces.hops("f" * 32, time.monotonic(), others) == []


async def test_a_client_that_waits_for_a_trace_is_known_to_all(redis_server: RedisServer) -> None:
    """Only then are reports on requests without a contract kept."""
    sent = {"x-devroute-trace": TRACE, "x-devroute-candidates": "foo", "x-devroute-result": "service"}
    async with replicas(redis_server) as (one, two):
        await one.shared.reports.traces(TRACE)
        two.traces.add_hop(sent | {"x-devroute-trace-source": "traceparent"}, time.monotonic())
        (others,) = await one.shared.reports.traces(TRACE)
        assert [hop.service for hop in others.hops] == ["foo"]


class Laptop:
    """The laptop's side of a copied request at a replica, and the comparisons that it was sent."""

    def __init__(self, replica: Replica) -> None:
        self.sent: list[dict[str, Any]] = []
        self.observer = replica.shadow.comparisons.expect(KEY, "foo", HEAD, self.notify)
        assert isinstance(self.observer, LaptopResponseObserver)

    def notify(self, document: bytes) -> None:
        self.sent.append(json.loads(document))

    def respond(self) -> None:
        assert self.observer is not None
        self.observer.on_head(
            parse_response_head(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n", b"GET")
        )
        self.observer.on_end([])


def report(replica: Replica) -> None:
    """As POST /compare does."""
    response = parse_service_response(REAL, whole=True)
    if not replica.shadow.comparisons.add_service_response(KEY, response):
        replica.shared.reports.pass_on(KEY)


@pytest.mark.parametrize("order", ["copy report response", "copy response report", "report copy response"])
async def test_a_report_that_reaches_another_replica_than_the_copy_is_compared(
    redis_server: RedisServer, order: str
) -> None:
    async with replicas(redis_server, 3) as (one, two, three):
        laptop: list[Laptop] = []
        steps = {
            "copy": lambda: laptop.append(Laptop(one)),
            "response": lambda: laptop[0].respond(),
            "report": lambda: report(two),
        }
        for step in order.split():
            steps[step]()
            # Each has arrived before the next one is sent.
            await eventually(lambda: not one.shared.reports.busy and not two.shared.reports.busy)
        await eventually(lambda: laptop[0].sent, "the comparison")
        (sent,) = laptop[0].sent
        assert (sent["real"]["status"], sent["laptop"]["status"]) == (200, 201)
        for each in (one, two, three):
            await eventually(lambda each=each: len(each.shadow.comparisons) == 0)


async def test_a_report_whose_copy_is_here_asks_no_other_replica(redis_server: RedisServer) -> None:
    async with replicas(redis_server) as (one, _):
        laptop = Laptop(one)
        report(one)
        laptop.respond()
        assert len(laptop.sent) == 1
        assert not one.shared.reports.busy


async def shadow_laptop(replica: Replica, comparisons: App) -> AgentLink:
    terms = OfferOptions(shadow=25.0)

    def make(websocket: Any, loop: asyncio.AbstractEventLoop) -> AgentLink:
        services = {"foo": App(answer(b"hello")), COMPARISON_SERVICE: comparisons}
        link = AgentLink(websocket, loop, services, lambda finished: None)
        offer = Offer(service="foo", terms=terms)
        link.send_hello(Hello(agent="test", services=(offer,), instance="a1").encode())
        return link

    link = await dial(replica.site.url, "alice-token", make)
    await link.welcome
    return link


async def test_shadow_traffic_has_the_same_ticket_everywhere_and_its_comparisons_reach_the_laptop(
    redis_server: RedisServer,
) -> None:
    compared = App(answer(b""))
    async with replicas(redis_server) as (one, two):
        link = await shadow_laptop(one, compared)
        await eventually(lambda: two.shadow.targets("foo"))
        (here,), (there,) = one.shadow.targets("foo"), two.shadow.targets("foo")
        assert here.ticket == there.ticket
        assert two.shadow.target(here.ticket).laptop.owner == one.place
        watch = two.shadow.watch("alice", "foo")
        assert watch is not None
        field = b"x-devroute-compare: %b\r\n" % KEY.encode()
        wire = HEAD.wire.replace(b"host: foo\r\n", b"host: foo\r\n" + field)
        observer = watch(RequestHead(b"GET", b"/a", Framing.NONE, 0, wire))
        assert isinstance(observer, LaptopResponseObserver)
        observer.on_head(parse_response_head(b"HTTP/1.1 204 No Content\r\n\r\n", b"GET"))
        observer.on_end([])
        report(one)
        await asyncio.wait_for(compared.opened.wait(), 20)
        await asyncio.wait_for(compared.streams[0].complete.wait(), 20)
        assert json.loads(compared.streams[0].body)["id"] == KEY
        link.drain("leaving", "the test is over")
        await eventually(lambda: not two.shadow.targets("foo"))
