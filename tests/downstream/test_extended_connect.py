"""WebSockets over HTTP/2 (RFC 8441): by hand-made frames, and by a real Envoy in front of the proxy."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import h2.events
import h2.settings
import pytest
from aiohttp import web

from devroute.downstream.listener import Listener
from devroute.mesh import envoy
from devroute.mesh.istio.sidecar import (
    ANY_PORT,
    Endpoint,
    address,
    cluster,
    connection_manager,
    listener,
    route_to,
)
from devroute.upstream.negotiating import NegotiatingUpstream
from tests.envoy.harness import serving
from tests.support import h2_peer
from tests.support.data_port import TIMEOUTS, always, app_behind, data_port
from tests.support.eventually import eventually, quiet

Play = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
CONNECT = [(b":method", b"CONNECT"), (b":scheme", b"http"), (b":path", b"/socket"), (b":authority", b"foo")]
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-app: 1\r\n\r\n"


@asynccontextmanager
async def reaching(port: int, way: str) -> AsyncIterator[tuple[int, Listener, NegotiatingUpstream]]:
    async with app_behind(port, way) as (upstream, pool), data_port(always(upstream)) as (number, server):
        yield number, server, pool


@asynccontextmanager
async def played(play: Play, way: str) -> AsyncIterator[tuple[h2_peer.Peer, Listener, NegotiatingUpstream]]:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await play(reader, writer)
        writer.close()

    app = await asyncio.start_server(connected, "127.0.0.1", 0)
    async with reaching(app.sockets[0].getsockname()[1], way) as (port, server, pool):
        peer = await h2_peer.dial(port)
        await peer.until(h2.events.RemoteSettingsChanged)
        yield peer, server, pool
        peer.close()
    app.close()


def open_socket(peer: h2_peer.Peer, *more: tuple[bytes, bytes], protocol: bytes = b"websocket") -> int:
    number = peer.wire.get_next_available_stream_id()
    peer.wire.send_headers(number, [*CONNECT, (b":protocol", protocol), *more])
    peer.flush()
    return number


@pytest.mark.parametrize("way", ["direct", "tunnel"])
@pytest.mark.parametrize("first", ["client", "app"])
async def test_an_extended_connect_is_an_upgrade_whose_halves_end_one_after_the_other(
    first: str, way: str
) -> None:
    heads = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        early = asyncio.ensure_future(reader.read(1))
        await quiet(early.done)  # what came before the switch could be another request
        assert not early.done()
        writer.write(SWITCH)
        assert await early + await reader.readexactly(4) == b"early"
        writer.write(b"hello")
        if first == "client":
            assert await reader.read() == b""
            writer.write(b" and more")

    async with played(play, way) as (peer, server, pool), asyncio.timeout(20):
        assert peer.wire.remote_settings.enable_connect_protocol == 1
        number = open_socket(peer, (b"sec-websocket-version", b"13"))
        peer.send(number, b"early")
        head = await peer.until(h2.events.ResponseReceived, number=number)
        fields = dict(head.headers)  # type: ignore[attr-defined]
        assert (fields[b":status"], fields[b"x-app"]) == (b"200", b"1")
        assert not {b"connection", b"upgrade"} & set(fields)
        server.tick(server.now + TIMEOUTS.body + 1)  # a pipe has no deadline of a body
        data = await peer.until(h2.events.DataReceived, number=number)
        assert data.data == b"hello"  # type: ignore[attr-defined]
        if first == "client":
            peer.send(number, b"", end=True)
            data = await peer.until(h2.events.DataReceived, number=number)
            assert data.data == b" and more"  # type: ignore[attr-defined]
        await peer.until(h2.events.StreamEnded, number=number)
        await eventually(lambda: pool.in_flight == 0)
    (head_,) = heads
    assert head_.startswith(b"GET /socket HTTP/1.1\r\nhost: foo\r\n")
    for line in (b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13"):
        assert b"\r\n%b\r\n" % line in head_
    assert b"\r\nsec-websocket-key: " in head_


@pytest.mark.parametrize("way", ["direct", "tunnel"])
@pytest.mark.parametrize(("said", "status"), [(403, 403), (200, 502)])
async def test_an_app_that_switches_no_protocols_is_no_tunnel(said: int, status: int, way: str) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 %d Whatever\r\ncontent-length: 2\r\n\r\nno" % said)
        assert await reader.read() == b""

    async with played(play, way) as (peer, _, pool), asyncio.timeout(20):
        number = open_socket(peer)
        peer.send(number, b"never sent")
        head, body, *_ = await peer.whole(number)
        assert int(head[b":status"]) == status
        assert body == b"no" if status == 403 else b"upstream-invalid" in body
        await eventually(lambda: pool.in_flight == 0)


@pytest.mark.parametrize(
    "fields",
    [
        [*CONNECT, (b":protocol", b"websocket"), (b"content-length", b"5")],
        [*CONNECT, (b":protocol", b"web socket")],
        [*CONNECT, (b":protocol", b"")],
        [(b":method", b"GET"), *CONNECT[1:], (b":protocol", b"websocket")],
    ],
)
async def test_a_malformed_extended_connect_is_refused(fields: h2_peer.Fields) -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("nothing reaches the app")

    async with played(play, "direct") as (peer, *_), asyncio.timeout(20):
        number = peer.wire.get_next_available_stream_id()
        peer.wire.send_headers(number, fields)
        peer.flush()
        head, body, *_ = await peer.whole(number)
        assert head[b":status"] == b"400"
        assert b"request-malformed" in body


@pytest.mark.mesh
@pytest.mark.parametrize("way", ["direct", "tunnel"])
async def test_a_websocket_passes_an_envoy_that_speaks_http2_to_us(way: str, tmp_path: Path) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"app received {message.data}")
        return socket

    kind = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    http2 = {"explicit_http_config": {"http2_protocol_options": {"allow_connect": True}}}
    typed = {"typed_extension_protocol_options": {kind: {"@type": f"type.googleapis.com/{kind}", **http2}}}
    host = {"name": "all", "domains": ["*"], "routes": [route_to("proxy", "all")]}
    async with serving(echo) as app, reaching(app.port, way) as (port, _, pool), asyncio.timeout(30):
        configuration = {
            "admin": {"address": address(ANY_PORT)},
            "static_resources": {
                "listeners": [listener("plain", "INBOUND", connection_manager("plain", "plain", [host]))],
                "clusters": [cluster("proxy", Endpoint("127.0.0.1", port)) | typed],
            },
        }
        async with (
            envoy.running(configuration, tmp_path, "plain", {"PATH": ""}) as running,
            aiohttp.ClientSession() as client,
        ):
            url = f"http://127.0.0.1:{running.listeners['plain'].port}/socket"
            async with client.ws_connect(url) as socket:
                for number in range(3):
                    await socket.send_str(f"{number}")
                    assert await socket.receive_str() == f"app received {number}"
                await socket.close()
                assert socket.close_code == 1000
            await eventually(lambda: pool.in_flight == 0)
