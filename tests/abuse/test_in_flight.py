"""Quotas of open requests, for one tunnel and for all of a subject; and the total timeout of a request."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from devroute.contract.target import Address
from devroute.errors import TargetOverloaded
from devroute.http.http1.request import parse_request_head
from devroute.http.message import VIA_HTTP2, Framing, RequestHead
from devroute.policy.policy import Policy
from devroute.routing.router import ContractRouter
from devroute.tunnel.agent_link import AgentLink
from devroute.upstream.faults import AbortUpstream, Delayed, DelayUpstream
from devroute.upstream.interface import Reservable, Upstream, UpstreamStream
from devroute.upstream.pools import Pools
from tests.conformance.port import TIMEOUTS, data_port
from tests.support.eventually import PATIENCE_S, eventually, quiet
from tests.support.loopback import App, Client, Site, connect, get, tunnel


async def refusal(where: Site, name: str) -> str | None:
    """Why one more request is refused; None if it is not."""
    client = Client()
    where.upstream(name).open(get(), client)
    await quiet(lambda: client.error)
    assert client.error is None or isinstance(client.error, TargetOverloaded)
    return client.error and client.error.message


@pytest.fixture
async def two() -> AsyncIterator[tuple[Site, AgentLink]]:
    """alice's laptops `alice` and `alice--ci`, whose apps never respond."""
    async with tunnel(App()) as (where, _):
        second = await connect(where, {"foo": App()}, name="alice--ci")
        await second.welcome
        yield where, second
        second.drain("leaving", "the test is over")
        second.close_with(TargetOverloaded("the test is over"))
        await second.disconnected


async def test_a_tunnel_takes_as_many_requests_as_its_quota(two: tuple[Site, AgentLink]) -> None:
    where, _ = two
    where.tunnels.quotas.set_limits(per_link=3, per_subject=100)
    assert [await refusal(where, "alice") for _ in range(4)] == [
        None, None, None, "3 requests are open to this laptop already",
    ]  # fmt: skip
    assert await refusal(where, "alice--ci") is None


class Delays:
    """Requests that their contract delays for an hour, to one target."""

    def __init__(self, target: Reservable, upstream: Upstream) -> None:
        self.upstream = DelayUpstream(upstream, 3600.0, target)

    async def one(self) -> tuple[UpstreamStream, str | None]:
        client = Client()
        stream = self.upstream.open(get(), client)
        await asyncio.sleep(0)
        assert client.error is None or isinstance(client.error, TargetOverloaded)
        return stream, client.error and client.error.message

    async def some(self, count: int) -> list[str | None]:
        return [(await self.one())[1] for _ in range(count)]


async def test_a_delayed_request_to_a_laptop_counts_as_in_flight(two: tuple[Site, AgentLink]) -> None:
    where, _ = two
    upstream = where.upstream("alice")
    assert isinstance(upstream, Reservable)
    delays = Delays(upstream, upstream)
    where.tunnels.quotas.set_limits(per_link=3, per_subject=100)
    full = "3 requests are open to this laptop already"
    first, error = await delays.one()
    assert error is None
    assert await delays.some(3) == [None, None, full]
    assert await refusal(where, "alice") == full
    first.cancel()
    first.cancel()
    assert await refusal(where, "alice") is None
    assert await refusal(where, "alice") == full
    where.tunnels.quotas.set_limits(per_link=100, per_subject=4)
    assert await refusal(where, "alice--ci") is None
    assert await refusal(where, "alice--ci") == "4 requests are open to 'alice' already"
    assert await Delays(upstream, upstream).some(1) == ["4 requests are open to 'alice' already"]


async def test_a_delayed_request_to_an_address_counts_as_in_flight() -> None:
    pools = Pools(
        lambda: Policy.parse("direct: {networks: [127.0.0.0/8]}"), connect_timeout=PATIENCE_S, max_in_flight=2
    )
    pool = pools.get("foo", Address("127.0.0.1", 9))
    delays = Delays(pool, pool)
    first, _ = await delays.one()
    full = "127.0.0.1:9 has 2 requests in flight already"
    assert await delays.some(2) == [None, full]
    assert (pool.in_flight, pool.busy) == (2, True)
    client = Client()
    pool.open(get(), client)
    await eventually(lambda: client.error)
    assert client.error is not None
    assert client.error.message == full
    first.cancel()
    assert pool.in_flight == 1
    await pools.close()


async def test_a_request_that_waits_to_know_what_its_app_speaks_counts_as_in_flight() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    policy = Policy.parse("direct: {networks: [127.0.0.0/8]}")
    pools = Pools(lambda: policy, connect_timeout=PATIENCE_S, max_in_flight=2)
    async with await asyncio.start_server(silent, "127.0.0.1", 0) as app:
        pool = pools.get("foo", Address("127.0.0.1", app.sockets[0].getsockname()[1]))
        wire = b"GET / HTTP/1.1\r\nhost: foo\r\n" + VIA_HTTP2
        clients = [Client() for _ in range(3)]
        for client in clients:
            pool.open(RequestHead(b"GET", b"/", Framing.NONE, 0, wire), client)
        assert pool.in_flight == 2
        await asyncio.wait_for(clients[2].done.wait(), PATIENCE_S)
        assert isinstance(clients[2].error, TargetOverloaded)
        assert [client.error for client in clients[:2]] == [None, None]
        await pools.close()


async def test_delayed_aborts_are_bounded_and_end_after_their_delay() -> None:
    count = Delayed(2)
    abort = AbortUpstream(503, "foo")
    assert await Delays(count, abort).some(3) == [None, None, "2 requests are delayed already"]
    count = Delayed(1)
    for _ in range(3):
        client = Client()
        DelayUpstream(abort, 0.0, count).open(get(), client)
        await asyncio.wait_for(client.done.wait(), PATIENCE_S)
        assert client.error is None


async def test_a_subjects_laptops_share_its_quota(two: tuple[Site, AgentLink]) -> None:
    where, second = two
    bob = await connect(where, {"foo": App()}, token="bob-token")
    await bob.welcome
    where.tunnels.quotas.set_limits(per_link=100, per_subject=4)
    found = [await refusal(where, name) for name in ("alice", "alice--ci") * 3]
    assert found == [None] * 4 + ["4 requests are open to 'alice' already"] * 2
    assert await refusal(where, "bob") is None
    where.tunnels.quotas.set_limits(per_link=100, per_subject=5)  # a reload, with requests under way
    assert await refusal(where, "alice") is None
    second.drain("leaving", "the laptop is shut")
    second.close_with(TargetOverloaded("the laptop is shut"))
    await second.disconnected
    await eventually(lambda: "alice--ci" not in str(where.registry.listing()))
    assert await refusal(where, "alice") is None  # its requests count no longer
    bob.close_with(TargetOverloaded("the test is over"))


@pytest.mark.parametrize("http2", [False, True])
async def test_laptops_that_are_registered_by_their_addresses_count_as_well(
    two: tuple[Site, AgentLink], http2: bool
) -> None:
    where, _ = two
    policy = Policy.from_mapping({"direct": {"networks": ["127.0.0.1/32"], "ports": ["1-65535"]}})
    pools = Pools(lambda: policy, connect_timeout=PATIENCE_S, max_in_flight=100)
    router = ContractRouter(where.registry, lambda: policy, pools)
    app = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0)  # never responds
    address = Address("127.0.0.1", app.sockets[0].getsockname()[1])
    third = await connect(where, {"foo": App()}, name="alice--lan", direct=address)
    await third.welcome
    head = REQUEST.replace(b'"alice"', b'"alice--lan"')
    streams: list[UpstreamStream] = []
    grpc = b"content-type: application/grpc\r\n" if http2 else b""
    request = RequestHead(b"GET", b"/", Framing.NONE, 0, b"GET / HTTP/1.1\r\nhost: foo\r\n%b\r\n" % grpc)

    async def direct(contract: bytes = head) -> str | None:
        client, route = Client(), router(parse_request_head(contract))
        streams.append(route.upstream.open(request, client))
        await quiet(lambda: client.error)
        assert client.error is None or isinstance(client.error, TargetOverloaded)
        return client.error and client.error.message

    where.tunnels.quotas.set_limits(per_link=100, per_subject=4)
    full = "4 requests are open to 'alice' already"
    assert [await direct(), await refusal(where, "alice"), await direct()] == [None] * 3
    assert await refusal(where, "alice--ci") is None
    assert [await direct(), await refusal(where, "alice"), await direct()] == [full] * 3
    by_address = head.replace(b"alice--lan", str(address).encode())
    assert await direct(by_address) is None  # an address in a contract belongs to no laptop
    where.tunnels.quotas.set_limits(per_link=100, per_subject=6)  # a reload, with requests under way
    assert [await direct(), await direct()] == [None, full.replace("4", "6")]
    streams[0].cancel()
    assert [await refusal(where, "alice"), await direct()] == [None, full.replace("4", "6")]
    refused = Client()
    router(parse_request_head(head)).upstream.open(get(), refused).cancel()
    await asyncio.sleep(0)
    assert refused.error is None, "a stream that was cancelled gets no error"
    for stream in streams:
        stream.cancel()
    assert await direct() is None
    streams[-1].cancel()
    third.close_with(TargetOverloaded("the test is over"))
    await third.disconnected
    await pools.close()
    app.close()


REQUEST = b'GET / HTTP/1.1\r\nhost: foo\r\nx-devroute: {"foo": "alice"}\r\nx-devroute-matched: foo\r\n\r\n'


async def test_a_response_that_never_ends_is_cut_off_after_the_total_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"x")
            await asyncio.sleep(0.001)

    async with data_port(await asyncio.start_server(drip, "127.0.0.1", 0)) as port:
        monkeypatch.setattr(TIMEOUTS, "total", 0.05)
        client = await port.dial()
        client.writer.write(REQUEST)
        await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\nxx"), PATIENCE_S)
        ticking = asyncio.get_running_loop()
        await eventually(lambda: port.server.tick(ticking.time()) or port.exchanges)
        assert port.exchanges[0].error is not None
        assert port.exchanges[0].error.code == "upstream-timeout"
        assert "was not complete after 0.05 s" in port.exchanges[0].error.message
        await client.rest()
