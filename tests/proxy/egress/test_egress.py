"""What a laptop reaches: policy, limits, audit and TCP, over a real link and real sockets."""

import asyncio
import contextlib
import socket
import struct
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from devroute.agent.mesh_links import MeshLinks, tcp_request
from devroute.auth.identity import Identity
from devroute.contract.destination import parse_destination
from devroute.errors import (
    DevrouteError,
    MeshTlsRequired,
    ReachDenied,
    RequestMalformed,
    ServiceUnknown,
    TargetOverloaded,
    TargetUnreachable,
    UpstreamReset,
    UpstreamTimeout,
)
from devroute.http.message import Framing, RequestHead
from devroute.policy import policy as policies
from devroute.policy.policy import Policy
from devroute.proxy.egress import egress as egress_module
from devroute.proxy.egress.egress import Egress
from devroute.proxy.egress.tcp import MeshTcpStream, is_own_machine
from devroute.proxy.settings import ProxySettings
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.opened_stream import OpenedStream
from devroute.tunnel.protocol import flood_guard
from devroute.tunnel.protocol.flood_guard import REFUSED_AS_TINY, TINY_BURST
from devroute.tunnel.protocol.frames import WINDOW
from devroute.tunnel.protocol.windows import PROCESS_WAITING, SUBJECT_UNREAD, SUBJECT_WAITING, WindowBudget
from devroute.upstream.resolver import Resolved, Resolver
from devroute.upstream.tcp import TcpConnection, TcpStream
from tests.support.eventually import eventually
from tests.support.loopback import App, Client, Site, answer, get, head, post, site
from tests.support.mesh_way import welcomed

POLICY = """
reach:
- {subjects: [alice], services: [c], namespaces: ["*"]}
- {subjects: [alice], services: [db], namespaces: ["*"], hosts: ["*.example.com"], protocols: [tcp]}
"""

#: Another address of this machine than the one that connections to it come from: as another machine's.
ELSEWHERE = "127.0.0.2"


class Names(Resolver):
    """Takes the place of the cluster's DNS."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.addresses: list[str] | None = [ELSEWHERE]
        self.alias_of = ""

    async def look_up(self, host: str) -> Resolved:
        self.asked.append(host)
        if self.addresses is None:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return Resolved(self.addresses, self.alias_of or host.removesuffix("."))


@dataclass
class Reaching:
    egress: Egress
    agent: AgentLink
    links: MeshLinks
    names: Names
    site: Site
    events: list[dict[str, Any]] = field(default_factory=list)
    policy: Policy = field(default_factory=lambda: Policy.parse(POLICY))

    async def get(self, service: str) -> Client:
        client = Client()
        self.links.upstream(service).open(get(), client)
        await asyncio.wait_for(client.done.wait(), 20)
        return client

    async def tcp(self, service: str) -> Client:
        """Once it is connected, or has failed."""
        client = Client()
        client.stream = self.links.upstream(service).open(tcp_request("db:1"), client)  # type: ignore[attr-defined]
        await asyncio.wait_for(client.first.wait(), 20)
        return client


@asynccontextmanager
async def reaching(app: App | None = None, **settings: Any) -> AsyncIterator[Reaching]:
    events: list[dict[str, Any]] = []

    def record(event: str, /, **fields: object) -> None:
        events.append({"event": event, **fields})

    names = Names()
    found: Reaching
    egress = Egress(ProxySettings(**settings), lambda: found.policy, app, record, names)
    async with site(reach=egress) as where:
        link = await welcomed(where)
        found = Reaching(egress, link, MeshLinks(lambda: [link]), names, where, events)
        yield found
        link.close_with(DevrouteError("the test is over"))
    await egress.close()


# --- policy -------------------------------------------------------------------------------------------------


async def test_a_permitted_request_reaches_the_mesh_under_its_own_name_and_is_recorded() -> None:
    app = App(answer(b"hello"))
    async with reaching(app, reach_namespace="shop") as found:
        client = await found.get("c:80")
        assert (client.error, client.body) == (None, b"hello")
        assert (
            b"\r\nhost: c.shop.svc.cluster.local:80\r\nx-devroute-subject: alice\r\n"
            in app.streams[0].head.wire
        )
        await eventually(lambda: found.events)
        (event,) = found.events
        seconds = event.pop("seconds")
        assert 0 <= seconds < 10
        assert event == {
            "event": "reach", "subject": "alice", "laptop": "alice", "service": "c.shop:80", "status": 200,
            "code": None, "bytes": 5,
        }  # fmt: skip
        assert found.egress.counts == {("http", "ok"): 1}
        assert not found.egress.open


@pytest.mark.parametrize(
    ("service", "kind", "reason"),
    [
        ("d:80", ReachDenied, "no rule of reach lists d.default"),
        ("tcp://c:80", ReachDenied, "the rule lists http, not tcp"),
        ("c.kube-system:80", ReachDenied, "a namespace that no laptop may reach"),
        ("c.devroute:80", ReachDenied, "a namespace that no laptop may reach"),
        ("10.0.0.1:80", RequestMalformed, "is an address; write a name"),
        ("c", RequestMalformed, "a port is missing"),
    ],
)
async def test_what_is_not_permitted_is_refused_and_recorded(
    service: str, kind: type[DevrouteError], reason: str
) -> None:
    app = App()
    async with reaching(app) as found:
        client = await found.get(service)
        assert type(client.error) is kind
        assert reason in client.error.message
        await eventually(lambda: found.events)
        (event,) = found.events
        assert (event["event"], event["at"], event["subject"], event["code"]) == (
            "refusal", "reach", "alice", kind.code,
        )  # fmt: skip
        assert not app.streams


async def test_no_laptop_chooses_what_the_trail_and_the_metrics_say_of_its_requests() -> None:
    async with reaching(app := App()) as found:
        codes = ["reach-denied", *(f"made-up-{number}" for number in range(100))]
        for code in codes:
            stream = found.links.upstream("c:80").open(post(5), Client())
            assert isinstance(stream, OpenedStream)
            stream.link.send_reset(stream, code, "the laptop's own text")
        await eventually(lambda: len(found.events) == len(codes))
        assert {(event["event"], event.get("code")) for event in found.events} == {("reach", "cancelled")}
        assert found.egress.counts == {("http", "cancelled"): len(codes)}
        assert len(app.streams) == len(codes)


async def test_a_body_of_the_wrong_length_hides_no_request_that_was_sent() -> None:
    async with reaching(app := App()) as found:
        stream = found.links.upstream("c:80").open(post(5), Client())
        stream.send_data(b"whole")
        await eventually(lambda: app.streams and app.streams[0].body == b"whole")
        stream.send_data(b"!")
        await eventually(lambda: found.events)
        (event,) = found.events
        assert (event["event"], event["service"], event["code"]) == (
            "reach", "c.default:80", "request-malformed",
        )  # fmt: skip


async def test_trailers_say_nothing_that_only_the_mesh_may_say() -> None:
    async with reaching(app := App()) as found:
        wire = b"POST / HTTP/1.1\r\nhost: c\r\ntransfer-encoding: chunked\r\n\r\n"
        chunked = RequestHead(b"POST", b"/", Framing.CHUNKED, 0, wire)
        stream = found.links.upstream("c:80").open(chunked, Client())
        stream.send_data(b"x")
        wanted = [(b"x-checksum", b"1"), (b"x-devroute-trace", b"2")]
        hidden = [b"x-devroute-subject", b"X-Forwarded-Client-Cert", b"x_devroute_subject", b"forwarded"]
        stream.send_end([*((name, b"mallory") for name in hidden), *wanted])
        await eventually(lambda: app.streams and app.streams[0].ended)
        assert app.streams[0].trailers == wanted


async def test_a_new_policy_applies_to_the_next_request_and_ends_what_it_does_not_permit() -> None:
    app = App(lambda stream: stream.sink.on_head(head(200)))
    async with reaching(app) as found:
        client = Client()
        found.links.upstream("c:80").open(get(), client)
        await client.first.wait()
        found.policy = Policy.parse("")
        found.egress.review_policy()
        await asyncio.wait_for(client.done.wait(), 20)
        assert isinstance(client.error, ReachDenied)
        await asyncio.wait_for(app.streams[0].cancelled.wait(), 20)
        assert isinstance((await found.get("c:80")).error, ReachDenied)
        await eventually(lambda: len(found.events) == 2)
        assert [(event["event"], event["code"]) for event in found.events] == [
            ("reach", "reach-denied"), ("refusal", "reach-denied"),
        ]  # fmt: skip
        found.policy = Policy.parse(POLICY)
        app.serve = answer(b"again")
        assert (await found.get("c:80")).body == b"again"


async def test_a_newer_token_of_other_groups_ends_what_they_do_not_permit() -> None:
    async def authenticate(authorization: str, certificate: object) -> Identity:
        return Identity("alice", frozenset(authorization.split()[1:]))

    policy = Policy.parse('reach: [{groups: [qa], services: [c], namespaces: ["*"]}]')
    app = App(lambda stream: stream.sink.on_head(head(200)))
    egress = Egress(ProxySettings(), lambda: policy, app, lambda event, /, **fields: None)
    async with site(reach=egress, authenticate=authenticate) as where:
        link = await welcomed(where, token="qa")
        client = Client()
        MeshLinks(lambda: [link]).upstream("c:80").open(get(), client)
        await client.first.wait()
        await asyncio.wait_for(link.renew("qa dev"), 20)
        assert client.error is None
        await asyncio.wait_for(link.renew("dev"), 20)
        await asyncio.wait_for(client.done.wait(), 20)
        assert isinstance(client.error, ReachDenied)
        link.close_with(DevrouteError("the test is over"))
    await egress.close()


# --- limits -------------------------------------------------------------------------------------------------


async def test_a_subject_has_a_limit_of_open_streams() -> None:
    app = App(lambda stream: stream.sink.on_head(head(200)))
    async with reaching(app, max_reach_per_subject=2) as found:
        clients = [Client() for _ in range(2)]
        for client in clients:
            found.links.upstream("c:80").open(get(), client)
            await client.first.wait()
        refused = await found.get("c:80")
        assert isinstance(refused.error, TargetOverloaded)
        assert refused.error.message == "'alice' has 2 requests and connections open already"
        app.streams[0].sink.on_end([])
        await clients[0].done.wait()
        app.serve = answer(b"there is room")
        assert (await found.get("c:80")).body == b"there is room"


async def test_what_waits_for_services_that_do_not_read_is_bounded_and_room_returns() -> None:
    async with reaching(app := App()) as found:
        (proxy,) = found.site.tunnels.links
        proxy.waiting = waiting = WindowBudget(300_000)
        upstream, clients = found.links.upstream("c:80"), [Client() for _ in range(4)]
        streams = [upstream.open(post(100_000), client) for client in clients]
        await eventually(lambda: len(app.streams) == len(streams))
        for reading, stream in zip(app.streams, streams, strict=True):
            reading.sink.pause_request()
            stream.send_data(bytes(100_000))
        await asyncio.wait_for(clients[3].done.wait(), 20)
        assert isinstance(clients[3].error, TargetOverloaded)
        assert clients[3].error.message.startswith("c:80 does not read")
        assert waiting.left == 0
        streams[0].cancel()
        await asyncio.wait_for(app.streams[0].cancelled.wait(), 20)
        assert waiting.left == 100_000
        app.streams[1].sink.resume_request()
        assert (len(app.streams[1].body), waiting.left) == (100_000, 200_000)
        proxy.close_with(DevrouteError("the test is over"))
        assert waiting.left == 300_000


async def test_the_links_of_a_subject_share_what_may_wait_for_them() -> None:
    async with reaching(App()) as found:
        await welcomed(found.site, name="alice--2")
        await welcomed(found.site, token="bob-token")
        alice, again, bob = (link.waiting for link in found.site.tunnels.links)
        assert alice is again is not bob
        assert alice is not None
        assert bob is not None
        assert alice.left == bob.left == SUBJECT_WAITING
        assert alice.take(SUBJECT_WAITING)
        others = 0
        while found.egress.all_waiting.take(WINDOW):
            others += WINDOW
        assert others == PROCESS_WAITING - SUBJECT_WAITING
        assert not bob.take(1)


async def test_a_laptop_that_does_not_read_its_responses_makes_the_proxy_hold_few_of_them() -> None:
    async with reaching(App(answer(bytes(50_000)))) as found:
        (proxy,) = found.site.tunnels.links
        found.agent.transport.pause_reading()
        clients = [Client() for _ in range(2000)]
        for number, client in enumerate(clients, 1):
            found.links.upstream("c:80").open(get(), client)
            if number % 10 == 0:  # of those that are open at a time, each may get a response
                await eventually(lambda: found.egress.counts.total() == number)  # noqa: B023  # awaited here
        assert SUBJECT_UNREAD < proxy.unread < SUBJECT_UNREAD + 1024 * 1024
        found.agent.transport.resume_reading()
        await asyncio.gather(*(asyncio.wait_for(client.done.wait(), 20) for client in clients))
        assert {type(client.error) for client in clients} == {type(None), TargetOverloaded}
        assert proxy.unread == 0
        assert (await found.get("c:80")).error is None


@pytest.mark.parametrize(("service", "kind"), [("d:80", ReachDenied), ("c:80", RequestMalformed)])
async def test_a_flood_of_streams_that_are_refused_is_read_slowly(
    service: str, kind: type[DevrouteError], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A quarter of the rate: a machine whose cores are all in use may not send faster than the usual one.
    monkeypatch.setattr(flood_guard, "TINY_PER_SECOND", flood_guard.TINY_PER_SECOND / 4)
    bad = RequestHead(b"GET", b"/", Framing.NONE, 0, b"GET / HTTP/1.1\r\n\r\n")
    async with reaching(app := App()) as found:
        (proxy,) = found.site.tunnels.links
        upstream, clients = found.links.upstream(service), []
        while proxy.transport.is_reading():
            for _ in range(100):
                clients.append(Client())
                upstream.open(bad, clients[-1])
            await eventually(lambda: clients[-1].done.is_set() or not proxy.transport.is_reading())
        assert len(found.events) >= TINY_BURST // REFUSED_AS_TINY
        await asyncio.wait_for(clients[-1].done.wait(), 20)
        assert {type(each.error) for each in clients} == {kind}
        assert not app.streams


async def test_what_carries_nothing_for_too_long_ends() -> None:
    app = App(lambda stream: stream.sink.on_head(head(200)))
    async with reaching(app, reach_idle_timeout=60) as found:
        client = Client()
        found.links.upstream("c:80").open(get(), client)
        await client.first.wait()
        (stream,) = found.egress.open
        found.egress.tick(stream.active + 59)
        app.streams[0].sink.on_data(b"x")  # at second 59
        found.egress.tick(stream.active + 59.5)  # 60 may be more than 60, as the clock's numbers are rounded
        await eventually(lambda: client.body == b"x")
        assert not client.done.is_set()
        found.egress.tick(stream.active + 61)
        await asyncio.wait_for(client.done.wait(), 20)
        assert isinstance(client.error, UpstreamTimeout)
        await asyncio.wait_for(app.streams[0].cancelled.wait(), 20)
        assert not found.egress.open


@pytest.mark.usefixtures("loopback_permitted")
async def test_a_proxy_that_stops_waits_for_requests_and_for_no_connection() -> None:
    app = App(lambda stream: stream.sink.on_head(head(200)))
    async with database(lambda reader, writer: reader.read()) as port, reaching(app) as found:
        await found.tcp(f"tcp://db.data:{port}")
        await asyncio.wait_for(found.egress.drain(), 20)
        client = Client()
        found.links.upstream("c:80").open(get(), client)
        await client.first.wait()
        draining = asyncio.ensure_future(found.egress.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        app.streams[0].sink.on_end([])
        await asyncio.wait_for(draining, 20)


async def test_destinations_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress_module, "MAX_TCP", 2)
    async with reaching() as found:
        upstreams = [
            found.egress.upstream(parse_destination(f"tcp://db{n}:1"), "alice") for n in (1, 2, 3, 1)
        ]
        assert upstreams[0] is not upstreams[3]
        assert found.egress.upstream(parse_destination("tcp://db3:1"), "alice") is upstreams[2]


# --- TCP ----------------------------------------------------------------------------------------------------

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@asynccontextmanager
async def database(handle: Handle, host: str = ELSEWHERE) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await handle(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def break_connection(writer: asyncio.StreamWriter) -> None:
    """With a reset."""
    linger = struct.pack("ii", 1, 0)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


@pytest.fixture
def loopback_permitted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "SPECIAL", ())


@pytest.mark.usefixtures("loopback_permitted")
async def test_bytes_pass_to_a_database_and_back_and_each_half_ends_by_itself() -> None:
    async def echo_to_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"hello ")  # a server may speak first
        writer.write(await reader.read())
        await writer.drain()

    async with database(echo_to_the_end) as port, reaching() as found:
        client = await found.tcp(f"tcp://db.data:{port}")
        assert client.heads[0].status == 101
        stream = client.stream  # type: ignore[attr-defined]
        stream.send_data(b"x" * 300_000)
        stream.send_end([])
        await asyncio.wait_for(client.done.wait(), 20)
        assert (client.error, client.body) == (None, b"hello " + b"x" * 300_000)
        assert found.names.asked == ["db.data.svc.cluster.local."]
        await eventually(lambda: found.events and not found.egress.open)
        (event,) = found.events
        assert (event["service"], event["status"], event["code"], event["bytes"]) == (
            f"tcp://db.data:{port}", 101, None, 300_006,
        )  # fmt: skip
        assert found.egress.counts == {("tcp", "ok"): 1}


@pytest.mark.usefixtures("loopback_permitted")
async def test_a_service_that_ends_its_half_first_gets_the_rest_of_the_laptop_s() -> None:
    rest: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def end_first(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"bye")
        writer.write_eof()
        rest.set_result(await reader.read())

    async with database(end_first) as port, reaching() as found:
        client = await found.tcp(f"tcp://db.data:{port}")
        await asyncio.wait_for(client.done.wait(), 20)
        assert client.body == b"bye"
        client.stream.send_data(b"the rest")  # type: ignore[attr-defined]
        client.stream.send_end([])  # type: ignore[attr-defined]
        assert await asyncio.wait_for(rest, 20) == b"the rest"
        await eventually(lambda: not found.egress.open)


@pytest.mark.usefixtures("loopback_permitted")
async def test_a_laptop_that_ends_its_half_before_it_is_connected_leaves_nothing_open() -> None:
    async with database(lambda reader, writer: reader.read()) as port, reaching() as found:
        client = Client()
        stream = found.links.upstream(f"tcp://db.data:{port}").open(tcp_request("db:1"), client)
        stream.send_end([])
        await asyncio.wait_for(client.done.wait(), 20)
        assert (client.error, client.heads[0].status) == (None, 101)
        await eventually(lambda: found.events and not found.egress.open)


@pytest.mark.usefixtures("loopback_permitted")
@pytest.mark.parametrize("reset", [False, True])
async def test_a_service_that_closes_at_the_first_bytes_may_want_the_mesh_s_tls(*, reset: bool) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if reset:
            break_connection(writer)

    async with database(hang_up) as port, reaching() as found:
        client = await found.tcp(f"tcp://db.data:{port}")
        client.stream.send_data(b"select 1")  # type: ignore[attr-defined]
        await asyncio.wait_for(client.done.wait(), 20)
        assert isinstance(client.error, MeshTlsRequired)
        assert "PeerAuthentication STRICT" in client.error.hint


@pytest.mark.usefixtures("loopback_permitted")
async def test_a_connection_that_breaks_later_is_a_reset() -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1))
        await writer.drain()
        await reader.read(1)
        break_connection(writer)

    async with database(break_off) as port, reaching() as found:
        client = await found.tcp(f"tcp://db.data:{port}")
        client.stream.send_data(b"1")  # type: ignore[attr-defined]
        await eventually(lambda: client.body == b"1")
        client.stream.send_data(b"2345")  # type: ignore[attr-defined]
        await asyncio.wait_for(client.done.wait(), 20)
        assert isinstance(client.error, UpstreamReset)


async def test_a_side_that_does_not_read_pauses_the_other() -> None:
    may_read = asyncio.Event()
    received: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def read_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await may_read.wait()
        writer.transport.resume_reading()  # type: ignore[attr-defined]
        received.set_result(len(await reader.read()))

    async with database(read_late) as port:
        client = Client()
        stream = MeshTcpStream(parse_destination(f"tcp://db:{port}"), client)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: TcpConnection(stream, loop), ELSEWHERE, port)
        stream.pause_response()
        stream.connected(connection)
        assert not connection.transport.is_reading()
        stream.resume_response()
        assert connection.transport.is_reading()
        sent = 0
        while not client.paused:
            stream.send_data(bytes(64 * 1024))
            sent += 64 * 1024
            await asyncio.sleep(0)
        may_read.set()
        await eventually(lambda: not client.paused)
        stream.send_end([])
        assert await asyncio.wait_for(received, 20) == sent
        await asyncio.wait_for(client.done.wait(), 20)


@pytest.mark.parametrize(
    "end",
    [
        lambda stream: stream.fail(UpstreamReset("it broke")),
        lambda stream: stream.cancel(),
        lambda stream: stream.lost(None, complete=True, refused=False),
    ],
)
def test_a_connection_that_has_ended_leaves_nothing_to_the_garbage_collector(
    end: Callable[[TcpStream], None],
) -> None:
    client = Client()
    client.stream = TcpStream("tcp://db:1", client)  # type: ignore[attr-defined]
    gone = weakref.ref(client)
    end(client.stream)  # type: ignore[attr-defined]
    del client
    assert gone() is None


@pytest.mark.usefixtures("loopback_permitted")
async def test_a_laptop_that_goes_away_closes_its_connections() -> None:
    gone = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionResetError:
            gone.set()

    async with database(wait) as port, reaching() as found:
        client = await found.tcp(f"tcp://db.data:{port}")
        client.stream.cancel()  # type: ignore[attr-defined]
        await asyncio.wait_for(gone.wait(), 20)
        await eventually(lambda: [event["code"] for event in found.events] == ["cancelled"])


async def test_no_name_leads_to_this_machine_or_its_metadata() -> None:
    async with database(lambda reader, writer: reader.read(), "127.0.0.1") as port, reaching() as found:
        for address in ("127.0.0.1", "169.254.169.254", "::1"):
            found.names.addresses = ["10.9.8.7", address]
            client = await found.tcp(f"tcp://db.data:{port}")
            assert isinstance(client.error, ReachDenied)
            assert "no laptop may reach that" in client.error.message


@pytest.mark.parametrize("name", ["redis.devroute.svc.cluster.local", "db.other.svc.cluster.local"])
@pytest.mark.usefixtures("loopback_permitted")
async def test_no_alias_leads_past_the_policy_to_a_service_of_the_cluster(name: str) -> None:
    async with database(lambda reader, writer: reader.read()) as port, reaching() as found:
        found.names.alias_of = name
        for destination in (f"tcp://db.team:{port}", f"tcp://eu.example.com:{port}"):
            client = await found.tcp(destination)
            assert isinstance(client.error, ReachDenied)
            assert client.error.message == (
                f"{destination} is an alias of '{name}', in the cluster: no laptop may reach that"
            )


@pytest.mark.usefixtures("loopback_permitted")
async def test_an_alias_of_a_host_outside_leads_to_no_address_of_the_cluster() -> None:
    ended: list[asyncio.StreamWriter] = []

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read()
        ended.append(writer)

    async with database(wait) as port, reaching() as found:
        for alias_of, cluster in (("db.example.com", ""), ("", "cluster: {services: [127.0.0.0/8]}\n")):
            found.names.alias_of = alias_of
            found.policy = Policy.parse(POLICY + cluster)
            client = await found.tcp(f"tcp://db.team:{port}")
            assert client.error is None
            client.stream.cancel()  # type: ignore[attr-defined]
        await eventually(lambda: len(ended) == 2)
        found.names.alias_of = "db.example.com"
        client = await found.tcp(f"tcp://db.team:{port}")
        assert isinstance(client.error, ReachDenied)
        assert f"leads to {ELSEWHERE}, in the" in client.error.message


@pytest.mark.usefixtures("loopback_permitted")
async def test_no_name_leads_to_the_proxy_itself() -> None:
    async with database(lambda reader, writer: reader.read(), "127.0.0.1") as port, reaching() as found:
        found.names.addresses = ["127.0.0.1"]  # as its own pod's address: both ends have it
        client = await found.tcp(f"tcp://db.data:{port}")
        assert isinstance(client.error, ReachDenied)
        assert "leads to the proxy itself" in client.error.message


def test_two_ends_with_one_address_are_one_machine() -> None:
    ends: dict[str, object] = {"sockname": ("10.1.2.3", 5), "peername": ("10.1.2.3", 8081)}
    assert is_own_machine(ends.get)
    assert not is_own_machine({**ends, "peername": ("10.1.2.4", 8081)}.get)


@pytest.mark.usefixtures("loopback_permitted")
async def test_a_name_that_does_not_resolve_and_a_port_that_is_closed_have_errors_of_their_own() -> None:
    async with reaching() as found:
        refused = await found.tcp("tcp://db.data:1")
        assert isinstance(refused.error, TargetUnreachable)
        assert refused.error.message == "tcp://db.data:1 refused the connection"
        found.names.addresses = None
        unknown = await found.tcp("tcp://db.data:1")
        assert isinstance(unknown.error, ServiceUnknown)
        assert unknown.error.message == "tcp://db.data:1 is a name that does not resolve"


async def test_tcp_begins_with_an_upgrade() -> None:
    async with reaching() as found:
        client = await found.get("tcp://db:1")
        assert isinstance(client.error, RequestMalformed)
