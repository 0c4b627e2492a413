"""What a laptop reaches, over the links of a real agent and a real proxy's control port; the mesh is a
hand-written app.
"""

import asyncio

import pytest
from pydantic import SecretStr

from devroute.agent import mesh_links
from devroute.agent.mesh_links import MeshLinks, tcp_request
from devroute.agent.registration import Registrar
from devroute.agent.settings import AgentSettings
from devroute.agent.token_source import TokenSource
from devroute.errors import (
    DevrouteError,
    NotSupported,
    ProtocolError,
    ServerUnreachable,
    TargetDenied,
    UpstreamReset,
)
from devroute.http.message import Framing
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.protocol import handshake
from tests.support.eventually import eventually
from tests.support.loopback import App, AppStream, Client, answer, connect, get, head, post, response_to, site
from tests.support.mesh_way import Mesh, reaching, welcomed


async def test_a_request_reaches_the_mesh_and_its_response_the_laptop() -> None:
    def echo(stream: AppStream) -> None:
        stream.sink.on_informational(head(103))
        stream.sink.on_head(head(200))
        stream.sink.on_data(bytes(stream.body) or b"-")
        stream.sink.on_end([(b"grpc-status", b"0")])

    app = App(echo)
    async with reaching(app) as (mesh, links, link, where):
        client = await response_to(links.upstream("c.shop:80"), post(5), b"hello")
        assert (client.hints, client.body, client.trailers) == ([103], b"hello", [(b"grpc-status", b"0")])
        assert mesh.asked == [("alice", "alice", b"c.shop:80")]
        await eventually(lambda: mesh.ended)
        (ended,) = mesh.ended
        assert (ended.service, ended.method, ended.status, ended.code) == ("c.shop:80", "POST", 200, "")
        (proxy,) = where.tunnels.links
        assert (link.in_flight, proxy.in_flight) == (0, 0), "what a laptop reaches counts as no request to it"


async def test_bytes_pass_in_both_directions_and_each_can_end_by_itself() -> None:
    app = App(lambda stream: stream.sink.on_head(head(101)))
    async with reaching(app) as (mesh, links, _, _where):
        client = Client()
        stream = links.upstream("tcp://orders-db:5432").open(tcp_request("orders-db:5432"), client)
        await client.first.wait()
        assert (client.heads[0].status, mesh.asked[0][2]) == (101, b"tcp://orders-db:5432")
        assert app.streams[0].head.framing is Framing.UPGRADE
        stream.send_data(b"select 1")
        stream.send_end([])
        await eventually(lambda: app.streams[0].ended)
        app.streams[0].sink.on_data(b"1")
        app.streams[0].sink.on_end([])
        await client.done.wait()
        assert (bytes(app.streams[0].body), client.body) == (b"select 1", b"1")


async def test_an_error_of_the_proxy_arrives_with_its_code_and_hint() -> None:
    denied = TargetDenied("policy does not permit it", hint="ask for a rule")
    async with reaching(App(lambda stream: stream.sink.on_error(denied))) as (_, links, _link, _where):
        client = await response_to(links.upstream("c.shop:80"), get())
        assert isinstance(client.error, TargetDenied)
        assert (client.error.message, client.error.hint) == (denied.message, denied.hint)


async def test_a_laptop_that_does_not_read_pauses_the_mesh() -> None:
    app = App(lambda stream: stream.sink.on_head(head(200)))
    async with reaching(app) as (_, links, _link, _where):
        client = Client()
        stream = links.upstream("c:80").open(get(), client)
        await client.first.wait()
        stream.pause_response()
        source = app.streams[0]
        sent = 0
        while not source.paused:
            source.sink.on_data(bytes(64 * 1024))
            sent += 64 * 1024
            await asyncio.sleep(0)
        assert client.size == 0
        stream.resume_response()
        await eventually(lambda: client.size == sent and not source.paused)


async def test_a_client_that_goes_away_cancels_the_request_in_the_mesh() -> None:
    app = App()
    async with reaching(app) as (mesh, links, _, _where):
        stream = links.upstream("c:80").open(get(), Client())
        await app.opened.wait()
        stream.cancel()
        await asyncio.wait_for(app.streams[0].cancelled.wait(), 20)
        await eventually(lambda: [ended.code for ended in mesh.ended] == ["cancelled"])


async def test_a_lost_link_ends_its_requests_on_both_sides() -> None:
    app = App(lambda stream: stream.sink.on_head(head(200)))
    async with reaching(app) as (mesh, links, link, _):
        client = Client()
        links.upstream("c:80").open(get(), client)
        await client.first.wait()
        link.transport.abort()
        await asyncio.wait_for(client.done.wait(), 20)
        assert isinstance(client.error, UpstreamReset)
        await asyncio.wait_for(app.streams[0].cancelled.wait(), 20)
        await eventually(lambda: mesh.ended)


async def test_a_laptop_without_services_reaches_the_mesh() -> None:
    async with site(reach=Mesh(App(answer(b"hi")))) as where:
        link = await connect(where, {}, reach=True)
        await link.welcome
        link.enable_reach()
        client = await response_to(MeshLinks(lambda: [link]).upstream("c:80"), get())
        assert client.body == b"hi"
        link.close_with(DevrouteError("the test is over"))


async def test_an_agent_that_did_not_ask_for_reach_may_open_nothing() -> None:
    mesh = Mesh(App())
    async with site(reach=mesh) as where:
        link = await connect(where, {"foo": App()})
        await link.welcome
        link.enable_reach()  # though it did not ask
        client = await response_to(MeshLinks(lambda: [link]).upstream("c:80"), get())
        assert isinstance(client.error, UpstreamReset)
        assert link.goaway is not None
        assert (link.goaway.message, mesh.asked) == ("OPEN is not allowed here", [])


async def test_a_server_without_reach_is_named_at_once() -> None:
    async with site() as where:
        link = await welcomed(where)
        links = MeshLinks(lambda: [link])
        client = await response_to(links.upstream("c:80"), get())
        assert links.server_is_older
        assert isinstance(client.error, NotSupported)
        assert "does not let laptops reach services" in client.error.message
        link.close_with(DevrouteError("the test is over"))


async def test_a_request_waits_for_a_link_that_is_about_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_links, "WAIT_SECONDS", 60.0)
    made: list[AgentLink] = []
    links = MeshLinks(lambda: made)
    client = Client()
    stream = links.upstream("c:80").open(post(5), client)
    stream.send_data(b"hello")
    stream.send_end([])
    app = App(answer(b"hi"))
    async with site(reach=Mesh(app)) as where:
        made.append(await welcomed(where))
        links.linked()
        await asyncio.wait_for(client.done.wait(), 20)
        assert (bytes(app.streams[0].body), client.body) == (b"hello", b"hi")
        made[0].close_with(DevrouteError("the test is over"))


async def test_a_request_without_a_link_fails_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh_links, "WAIT_SECONDS", 0.01)
    client = await response_to(MeshLinks(list).upstream("c:80"), get())
    assert isinstance(client.error, ServerUnreachable)
    assert "no link to the server" in client.error.message


async def test_no_more_requests_wait_for_a_link_than_the_limit() -> None:
    links = MeshLinks(list)
    waiting = [links.upstream("c:80").open(get(), Client()) for _ in range(mesh_links.MAX_WAITING)]
    client = await response_to(links.upstream("c:80"), get())
    assert isinstance(client.error, ServerUnreachable)
    for stream in waiting:
        stream.cancel()


async def test_a_link_whose_server_is_about_to_stop_carries_no_new_request() -> None:
    async with reaching(App(answer(b"hi"))) as (_, links, link, where):
        app = App()
        other_mesh = Mesh(app)
        async with site(reach=other_mesh) as other:
            newer = await welcomed(other)
            both = MeshLinks(lambda: [newer, link])
            assert both.usable() is link
            (proxy,) = where.tunnels.links
            proxy.drain("draining", "the proxy ends")
            await eventually(lambda: link.goaway is not None)
            assert both.usable() is newer
            newer.close_with(DevrouteError("the test is over"))
        assert links.usable() is None


@pytest.mark.parametrize("place", ["", "a b:80", "a\r\nx: y", "a/b:80", "\xe9:80"])
def test_a_tcp_request_for_what_is_no_name_and_port_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match=r"NAME:PORT|ascii"):
        tcp_request(place)


async def test_an_older_server_that_wants_a_service_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: type, body: bytes) -> None:
        assert kind is handshake.Hello
        raise ProtocolError("HELLO: services: it is empty")

    monkeypatch.setattr(handshake, "decode", refuse)
    async with site() as where:
        settings = AgentSettings(server=where.url, token=SecretStr("alice-token"), reach=["c.shop:80"])
        registrar = Registrar(
            settings,
            TokenSource(settings),
            lambda websocket, loop: AgentLink(websocket, loop, {}, lambda finished: None),
            lambda link: None,
            lambda error: None,
            reach=True,
        )
        with pytest.raises(ProtocolError) as caught:
            await registrar.register()
        assert "lets no laptop reach the mesh" in caught.value.hint
