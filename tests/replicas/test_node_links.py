"""The links between replicas: who may have one, and what a replica serves on it."""

import asyncio
import ssl

import pytest

from devroute.contract.target import Address
from devroute.errors import DevrouteError, LaptopOffline, ProtocolError, TargetUnreachable, UpstreamReset
from devroute.http.message import Framing, RequestHead
from devroute.http.spans import AgentSpan
from devroute.http.trace_context import TraceParent
from devroute.policy.policy import Policy
from devroute.replicas import node
from devroute.replicas.certificate import Certificate, trust
from devroute.replicas.local_laptops import take_line
from devroute.replicas.node import LINE, Node, NodeUpstream
from devroute.replicas.record import ReplicaRecord
from devroute.tunnel.dial import dial
from tests.replicas.replicas import Replica, replicas
from tests.support.eventually import eventually
from tests.support.loopback import App, AppStream, BulkApp, Client, answer, get
from tests.support.redis_server import RedisServer


def peer_url(replica: Replica) -> str:
    record = replica.shared.own.record
    assert record is not None
    return f"https://{record.peer}"


def client(certificate: Certificate | None, server: Replica) -> ssl.SSLContext:
    der = server.shared.certificate.der
    if certificate is not None:
        return certificate.client(der)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=der)
    return context


@pytest.mark.parametrize("certificate", [None, Certificate("stranger")], ids=["none", "its own"])
async def test_only_replicas_that_stand_in_redis_may_dial(
    redis_server: RedisServer, certificate: Certificate | None
) -> None:
    async with replicas(redis_server, 1) as (one,):
        with pytest.raises(DevrouteError, match="closed the connection without"):
            await dial(peer_url(one), "", one.shared.links.make_link, tls=client(certificate, one))
        host, port = peer_url(one).removeprefix("https://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /tunnel HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\n\r\n")
        assert not (await reader.read()).startswith(b"HTTP")
        writer.close()


@pytest.mark.parametrize("version", [0, 1, 3, 4, 255])
def test_a_certificate_of_no_known_version_is_none(version: int) -> None:
    der = Certificate("stranger").der
    marked = b"\xa0\x03\x02\x01"  # the tag of the version (RFC 5280 §4.1)
    changed = der.replace(marked + b"\x02", marked + bytes([version]), 1)
    with pytest.raises(ValueError):  # noqa: PT011  # of two libraries
        trust(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), changed)


async def test_a_replica_has_no_other_ones_certificate(redis_server: RedisServer) -> None:
    async with replicas(redis_server) as (one, two):
        await eventually(lambda: one.shared.replicas == 2)
        links, record = one.shared.links, two.shared.own.record
        for certificate in (two.shared.certificate.der, one.shared.certificate.der):
            changed = record.model_copy(update={"id": "f" * 16, "certificate": certificate})
            with pytest.raises(ValueError, match="of another replica"):
                links.add(Node(changed))


async def test_a_replica_that_has_ended_may_dial_no_more(redis_server: RedisServer) -> None:
    async with replicas(redis_server) as (one, two):
        link, tls = one.shared.links.make_link, client(two.shared.certificate, one)
        (await dial(peer_url(one), "", link, tls=tls)).transport.abort()
        await two.stop()
        await eventually(lambda: one.shared.replicas == 1)
        with pytest.raises(DevrouteError, match="closed the connection without"):
            await dial(peer_url(one), "", link, tls=tls)


async def test_a_replica_dials_only_the_key_that_stands_in_redis(redis_server: RedisServer) -> None:
    """Another server at the address gets no request."""
    async with replicas(redis_server) as (one, two):
        wrong = two.shared.certificate.client(Certificate("other").der)
        with pytest.raises(DevrouteError, match="not trusted"):
            await dial(peer_url(one), "", two.shared.links.make_link, tls=wrong)


@pytest.mark.parametrize(("flags", "spans"), [("01", 1), ("00", 0)])
async def test_the_owner_reports_the_laptops_span_of_a_sampled_request(
    redis_server: RedisServer, flags: str, spans: int
) -> None:
    trace_id, client_span = b"4bf92f3577b34da6a3ce929d0e0e4736", b"c1c1c1c1c1c1c1c1"
    line = b"traceparent: 00-%b-%b-%b\r\n\r\n" % (trace_id, client_span, flags.encode())
    async with replicas(redis_server) as (one, two):
        await one.connect({"foo": App(answer(b"hello"))})
        await eventually(lambda: two.names() == ["alice"])
        head = RequestHead(b"GET", b"/", Framing.NONE, 0, get().wire[:-2] + line)
        reported: list[AgentSpan] = []
        head.span = AgentSpan(TraceParent(trace_id, client_span, 1), "foo", "alice", reported.append)
        sink = Client()
        two.upstream().open(head, sink)
        await asyncio.wait_for(sink.done.wait(), 20)
        assert (bytes(sink.body), reported, len(one.spans), two.spans) == (b"hello", [], spans, [])
        for span in one.spans:
            assert (span.service, span.laptop, span.status, span.code) == ("foo", "alice", 200, "")
            assert (span.parent.trace_id, span.parent.span_id) == (trace_id, client_span)
            assert 0 < span.opened <= span.ended


async def test_a_forwarded_request_reaches_no_other_process(redis_server: RedisServer) -> None:
    """The process that was chosen has ended: another one of the laptop is no way on."""
    async with replicas(redis_server, 3) as (one, two, three):
        link = await one.connect({"foo": App(answer(b"hello"))}, instance="a1")
        await eventually(lambda: two.names() == ["alice"])
        stale = two.upstream()
        link.drain("leaving", "it ends")
        await asyncio.wait_for(link.disconnected, 20)
        await three.connect({"foo": App(answer(b"another"))}, instance="b2")
        await eventually(lambda: one.registry.processes("alice"), "the other process")
        sink = Client()
        stale.open(get(), sink)
        await asyncio.wait_for(sink.done.wait(), 20)
        assert sink.error is not None
        assert sink.error.code == LaptopOffline.code
        assert not sink.heads


async def test_a_line_of_the_clients_own_means_nothing(redis_server: RedisServer) -> None:
    app = App(answer(b"hello"))
    async with replicas(redis_server) as (one, two):
        await one.connect({"foo": app})
        await eventually(lambda: two.names() == ["alice"])
        wire = b"GET / HTTP/1.1\r\nhost: foo\r\nx-devroute-link: bob 1 foo\r\n\r\n"
        sink = Client()
        two.upstream().open(RequestHead(b"GET", b"/", Framing.NONE, 0, wire), sink)
        await asyncio.wait_for(sink.done.wait(), 20)
        assert sink.body == b"hello"
        assert app.streams[0].head.wire == wire


@pytest.mark.parametrize(
    "line", [b"", b"host: foo", LINE + b"alice", LINE + b"alice x foo", LINE + b"a 1 b c"]
)
def test_a_request_without_a_laptop_is_refused(line: bytes) -> None:
    wire = b"GET / HTTP/1.1\r\n%b\r\n\r\n" % line
    with pytest.raises(ProtocolError):
        take_line(RequestHead(b"GET", b"/", Framing.NONE, 0, wire))


async def test_the_address_of_a_laptop_is_connected_to_by_its_owner(redis_server: RedisServer) -> None:
    """So that its policy, circuit breaker and limits hold. The others name the address, and do not use it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello")

    app = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = Address("127.0.0.1", app.sockets[0].getsockname()[1])
    async with app, replicas(redis_server) as (one, two):
        one.policies[0] = Policy.parse("direct: {networks: [127.0.0.0/8], ports: [1-65535]}")
        await one.connect({}, offered=("foo",), direct=address)
        await eventually(lambda: two.names() == ["alice"])
        assert one.registry.lookup("alice", "foo").upstream is None
        assert two.registry.lookup("alice", "foo").address == address
        await two.upstream().check_reachable(2)
        sink = Client()
        two.upstream().open(get(), sink)
        await asyncio.wait_for(sink.done.wait(), 20)
        assert sink.body == b"hello"


async def test_the_owners_error_is_the_clients_error(redis_server: RedisServer) -> None:
    def fail(stream: AppStream) -> None:
        stream.sink.on_error(UpstreamReset("the app has ended", hint="start it"))

    async with replicas(redis_server) as (one, two):
        await one.connect({"foo": App(fail)})
        await eventually(lambda: two.names() == ["alice"])
        sink = Client()
        two.upstream().open(get(), sink)
        await asyncio.wait_for(sink.done.wait(), 20)
        assert sink.error is not None
        assert (sink.error.code, sink.error.message) == (UpstreamReset.code, "the app has ended")


async def test_a_client_that_does_not_read_pauses_the_laptop_behind_the_other_replica(
    redis_server: RedisServer,
) -> None:
    app = BulkApp()
    async with replicas(redis_server) as (one, two):
        await one.connect({"foo": app})
        await eventually(lambda: two.names() == ["alice"])
        sink = Client(keep=False)
        stream = two.upstream().open(get(b"/100000000"), sink)
        await asyncio.wait_for(sink.first.wait(), 20)
        stream.pause_response()
        await eventually(lambda: app.streams[0].paused, "the laptop's app to be paused")
        assert sink.size < 8_000_000
        stream.cancel()
        await asyncio.wait_for(app.streams[0].cancelled.wait(), 20)


async def test_the_limit_of_a_subject_counts_forwarded_requests_once(redis_server: RedisServer) -> None:
    app = App()
    async with replicas(redis_server) as (one, two):
        one.site.tunnels.quotas.set_limits(per_link=2, per_subject=2)
        await one.connect({"foo": app})
        await eventually(lambda: two.names() == ["alice"])
        sinks = [Client() for _ in range(3)]
        for upstream, sink in zip((one.upstream(), two.upstream(), two.upstream()), sinks, strict=True):
            upstream.open(get(), sink)
        await asyncio.wait_for(sinks[2].done.wait(), 20)
        assert sinks[2].error is not None
        assert sinks[2].error.code == "target-overloaded"
        assert len(app.streams) == 2


async def test_a_laptop_that_does_not_respond_is_noticed_by_its_owner_for_all(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "MARGIN_SECONDS", 20.0)  # so that the owner's answer comes first
    async with replicas(redis_server) as (one, two):
        link = await one.connect({"foo": App()})
        await eventually(lambda: two.names() == ["alice"])
        await two.upstream().check_reachable(9.0)
        link.transport.pause_reading()
        (member,) = one.site.tunnels.links
        member.heartbeat.last_received -= 10
        with pytest.raises(LaptopOffline, match="has not responded for"):
            await two.upstream().check_reachable(0.05)


async def test_without_a_link_a_request_is_an_error_and_nothing_is_known_of_the_laptop() -> None:
    place = {"data": "192.0.2.7:8080", "peer": "192.0.2.7:8082"}
    record = ReplicaRecord(id="0" * 16, version="1", started=0, certificate=b"", **place)  # type: ignore[arg-type]
    upstream = NodeUpstream(Node(record), "alice", 1, "foo")
    await upstream.check_reachable(0.1)
    sink = Client()
    upstream.open(get(), sink)
    await asyncio.wait_for(sink.done.wait(), 20)
    assert sink.error is not None
    assert sink.error.code == TargetUnreachable.code
    assert "192.0.2.7:8080" in sink.error.message
