"""Local ports that lead into the mesh, with real sockets."""

import asyncio
import struct
from contextlib import suppress

import pytest

from devroute.agent.reach import byte_pipe, proxy_port
from devroute.agent.reach import reach as reach_module
from devroute.agent.reach.browsers import MAX_FIRST_HEAD, BrowserGuard
from devroute.agent.reach.mesh_port import MeshPort
from devroute.agent.reach.outside_mesh import app_outside_mesh
from devroute.errors import ServerUnreachable
from tests.agent.reach.mesh import BytesApp, Mesh, get, heads, say
from tests.support.eventually import eventually
from tests.support.loopback import App, answer

pytestmark = pytest.mark.asyncio


def socks(name: str, port: int) -> bytes:
    raw = name.encode()
    return b"\x05\x01\x00" + b"\x05\x01\x00\x03" + bytes([len(raw)]) + raw + struct.pack("!H", port)


#: What a page could have a form send.
SMUGGLED = b"POST / HTTP/1.1\r\nhost: c\r\ncontent-length: 28\r\n\r\nCONNECT c.shop:80 HTTP/1.1\r\n\r\n"
SUCCEEDED = b"\x05\x00" + b"\x05\x00\x00\x01" + bytes(6)


async def test_a_forward_sends_the_mesh_s_name_as_host_and_passes_the_response_on() -> None:
    mesh = Mesh()
    async with mesh.reached("c.shop:80") as reach:
        port = reach.local[0].port
        response = await say(port, get(f"127.0.0.1:{port}"), end=False)
    assert response.startswith(b"HTTP/1.1 200 ")
    assert response.endswith(b"tea")
    assert b"x-devroute" not in response
    (head,) = heads(mesh.c)
    assert head.lower().count(b"\r\nhost: ") == 1
    assert b"\r\nhost: c.shop\r\n" in head


async def test_bytes_pass_in_both_directions_and_each_half_ends_for_itself() -> None:
    db = BytesApp(b"ready ")
    mesh = Mesh({"tcp://orders-db:5432": db})
    async with mesh.reached("tcp://orders-db:5432") as reach:
        assert await say(reach.local[0].port, b"select 1") == b"ready SELECT 1"
    assert b"\r\nhost: orders-db:5432\r\n" in db.streams[0].head.wire


async def test_a_connection_that_is_not_permitted_is_closed_and_the_terminal_says_why() -> None:
    mesh = Mesh()
    async with mesh.reached("tcp://orders-db:5432") as reach:
        with pytest.raises(ConnectionResetError):
            await say(reach.local[0].port, b"select 1")
    assert [(to, error.code) for to, error in mesh.failures] == [("tcp://orders-db:5432", "target-denied")]


@pytest.mark.parametrize(
    "opening",
    [
        get("c.shop", target="http://c.shop/tea"),
        b"CONNECT c.shop:80 HTTP/1.1\r\nhost: c.shop:80\r\n\r\n" + get("c.shop", target="/tea"),
        socks("c.shop", 80) + get("c.shop", target="/tea"),
    ],
    ids=["absolute form", "CONNECT", "SOCKS"],
)
async def test_each_form_of_proxy_takes_http_to_the_service(opening: bytes) -> None:
    mesh = Mesh()
    async with mesh.reached(proxy=True) as reach:
        assert reach.proxy_port is not None
        response = await say(reach.proxy_port, opening, end=False)
    assert response.endswith(b"tea")
    (head,) = heads(mesh.c)
    assert head.startswith(b"GET /tea HTTP/1.1\r\nhost: c.shop\r\n")


async def test_what_is_no_http_goes_as_bytes_after_socks_and_connect() -> None:
    mesh = Mesh({"tcp://orders-db:5432": BytesApp()})
    async with mesh.reached(proxy=True) as reach:
        assert reach.proxy_port is not None
        by_socks = await say(reach.proxy_port, socks("orders-db", 5432) + b"select 1")
        by_connect = await say(
            reach.proxy_port, b"CONNECT orders-db:5432 HTTP/1.1\r\n\r\n" + b"\x16\x03\x01 tls"
        )
    assert by_socks == SUCCEEDED + b"SELECT 1"
    assert by_connect == b"HTTP/1.1 200 Connected\r\n\r\n\x16\x03\x01 TLS"


async def test_a_server_that_speaks_first_is_connected() -> None:
    mesh = Mesh({"tcp://mail:25": BytesApp(b"220 mail")})
    async with mesh.reached(proxy=True) as reach:
        assert reach.proxy_port is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", reach.proxy_port)
        writer.write(socks("mail", 25))
        async with asyncio.timeout(20):
            assert await reader.readexactly(len(SUCCEEDED) + 8) == SUCCEEDED + b"220 mail"
        writer.close()


async def test_a_listed_port_of_bytes_is_connected_before_socks_says_so() -> None:
    mesh = Mesh()
    async with mesh.reached("tcp://orders-db:5432", proxy=True) as reach:
        assert reach.proxy_port is not None
        assert await say(reach.proxy_port, socks("orders-db", 5432)) == b"\x05\x00\x05\x02\x00\x01" + bytes(6)


async def test_an_offline_laptop_says_so_in_each_form() -> None:
    mesh = Mesh()
    mesh.offline = ServerUnreachable("this laptop is offline")
    async with mesh.reached(proxy=True) as reach:
        assert reach.proxy_port is not None
        by_socks = await say(reach.proxy_port, socks("c.shop", 80))
        by_connect = await say(reach.proxy_port, b"CONNECT c.shop:80 HTTP/1.1\r\n\r\n")
    assert by_socks[2:4] == b"\x05\x03"
    assert by_connect.startswith(b"HTTP/1.1 502 ")
    assert b'"code": "server-unreachable"' in by_connect or b'"code":"server-unreachable"' in by_connect


# --- what is not served -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        ("c",),
        ("[::1]:{port}",),
        ("localhost:{port}",),
        ("127.0.0.1:{port}", "origin: http://localhost:3000"),
        ("127.0.0.1:{port}", "origin: https://qa.example", "sec-fetch-site: cross-site"),
        ("127.0.0.1:{port}", "sec-fetch-site: none"),
        ("127.0.0.1:{port}", "origin: https://evil.example", "x-request-id: 6f1f-11"),
    ],
)
async def test_a_forward_serves_programs_and_pages_of_this_machine_and_of_the_mesh(
    fields: tuple[str, ...],
) -> None:
    mesh = Mesh()
    mesh.contracts.begin(get("b", 'x-devroute: {"c": "bob"}', "x-request-id: 6f1f-11"))
    async with mesh.reached("c.shop:80") as reach:
        port = reach.local[0].port
        host, *lines = (each.format(port=port) for each in fields)
        assert (await say(port, get(host, *lines), end=False)).startswith(b"HTTP/1.1 200 ")


#: Whose requests no forward passes on.
FOREIGN = [
    ("evil.example",),
    ("c.shop",),
    ("c.shop.evil.example",),
    ("127.0.0.1:{port}", "origin: https://evil.example"),
    ("127.0.0.1:{port}", "origin: null"),
    ("127.0.0.1:{port}", "Origin: https://qa.example.evil.example"),
    ("127.0.0.1:{port}", "sec-fetch-site: cross-site"),
    ("127.0.0.1:{port}", "origin: https://evil.example", "x-request-id: another"),
]


@pytest.mark.parametrize("fields", FOREIGN)
async def test_a_page_of_a_web_site_cannot_send_requests_into_the_mesh(fields: tuple[str, ...]) -> None:
    mesh = Mesh()
    mesh.contracts.begin(get("b", 'x-devroute: {"c": "bob"}', "x-request-id: 6f1f-11"))
    async with mesh.reached("c.shop:80") as reach:
        port = reach.local[0].port
        host, *lines = (each.format(port=port) for each in fields)
        response = await say(port, get(host, *lines), end=False)
    assert response.startswith(b"HTTP/1.1 403 ")
    assert b"reach-page-denied" in response
    assert [name for name, _ in mesh.failures] == ["c.shop:80"]
    assert b"access-control" not in response.lower()
    assert not mesh.c.streams


@pytest.mark.parametrize(
    "request_of_a_page",
    [
        *(get(host, *lines) for host, *lines in FOREIGN if host != "c.shop"),
        b"POST / HTTP/1.1\r\nHost: evil.example\r\nContent-Length: 10\r\n\r\nFLUSHALL\r\n",
        b"OPTIONS /x HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.example\r\n\r\n",
        get("evil.example", target="/" + "x" * MAX_FIRST_HEAD),
        *(
            method + b" / HTTP/1.1\r\nHost: evil.example:5432\r\nOrigin: http://evil.example:5432\r\n\r\n"
            for method in (b"PROPFIND", b"FOO", b"QUERY", b"patch", b"*1", b"X" * MAX_FIRST_HEAD)
        ),
    ],
    ids=range(len(FOREIGN) + 8),
)
async def test_a_page_of_a_web_site_cannot_send_bytes_into_the_mesh(request_of_a_page: bytes) -> None:
    mesh = Mesh({"tcp://d.shop:1": (app := BytesApp())})
    guard = BrowserGuard(MeshPort("d.shop", 1, tcp=True), list, mesh.contracts.find)
    first, rest = request_of_a_page[:20], request_of_a_page[20:]
    assert not any(guard.is_admitted(first[:size]) for size in range(1, 20))
    async with mesh.reached("tcp://d.shop:1") as reach:
        with suppress(ConnectionError):  # it may be closed before all was sent
            response = await say(reach.local[0].port, first, rest, end=False)
            assert response.startswith(b"HTTP/1.1 403 ")
            assert b"reach-page-denied" in response
    assert [error.code for _, error in mesh.failures] == ["reach-page-denied"]
    assert not any(stream.body for stream in app.streams)


@pytest.mark.parametrize(
    "sent",
    [
        get("127.0.0.1:9"),
        get("d"),
        get("localhost:9", "origin: http://localhost:3000"),
        b"GET key\r\n",
        b"POST",
        b"GET / HTTP/1.0\r\n\r\n",
        b"GET /\r\n",
        b"\x16\x03\x01host: evil.example",
        b"\r\nGET / HTTP/1.1\r\nhost: evil.example\r\n\r\n",
        b"x",
        b"PING\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"83 <34>1 2003-10-11T22:14:15.003Z",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
async def test_a_port_for_bytes_passes_on_what_programs_send(sent: bytes) -> None:
    mesh = Mesh({"tcp://d.shop:1": BytesApp()})
    async with mesh.reached("tcp://d.shop:1") as reach:
        assert await say(reach.local[0].port, sent) == sent.upper()
    assert not mesh.failures


@pytest.mark.parametrize(
    "first",
    [
        b"\0\0\0\x08\x04\xd2\x16\x2f",  # PostgreSQL
        b"AMQP\0",
        b"``\xb0",  # Bolt
        b"0\x0c\x02",  # LDAP
        b"003egit-upload-pack /a\0",
        b"83 <34>1 2",  # syslog
        b"PING\r\n",
        b"PRI * HTTP/2",
    ],
)
async def test_the_first_bytes_of_other_protocols_do_not_wait(first: bytes) -> None:
    assert BrowserGuard(MeshPort("d.shop", 1, tcp=True), list, lambda _: None).is_admitted(first)


async def test_a_word_without_a_line_feed_is_passed_on_before_its_client_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(byte_pipe, "BEGINNING_S", 0.01)
    mesh = Mesh({"tcp://d.shop:1": BytesApp()})
    async with mesh.reached("tcp://d.shop:1") as reach:
        reader, writer = await asyncio.open_connection("127.0.0.1", reach.local[0].port)
        writer.write(b"ruok")
        assert await asyncio.wait_for(reader.readexactly(4), 5) == b"RUOK"
        writer.write(b"PROPFIND")
        assert await asyncio.wait_for(reader.readexactly(8), 5) == b"PROPFIND"
        writer.close()


async def test_a_long_word_without_a_line_feed_is_refused_and_does_not_wait_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(byte_pipe, "BEGINNING_S", 0.01)
    mesh = Mesh({"tcp://d.shop:1": BytesApp()})
    async with mesh.reached("tcp://d.shop:1") as reach:
        response = await say(reach.local[0].port, b"a" * 1025, end=False)
    assert b"reach-page-denied" in response
    assert b"the first 1025 bytes" in response
    assert [error.code for _, error in mesh.failures] == ["reach-page-denied"]


@pytest.mark.parametrize(
    ("opening", "code"),
    [
        (get("127.0.0.1:1080"), b"request-malformed"),
        (get("c.shop", "origin: https://evil.example"), b"request-malformed"),
        (get("c.shop", "upgrade: websocket"), b"request-malformed"),
        (SMUGGLED, b"request-malformed"),
        (get("c.shop", target="https://c.shop/"), b"not-supported"),
        (get("github.com", target="http://github.com/"), b"reach-outside"),
        (get("10.0.0.1", target="http://10.0.0.1/"), b"reach-outside"),
        (get("d.shop", target="http://d.shop/"), b"target-denied"),
        (b"CONNECT github.com:443 HTTP/1.1\r\n\r\n", b"reach-outside"),
        (b"CONNECT c.shop HTTP/1.1\r\n\r\n", b"request-malformed"),
        (b"CONNECT tcp://c.shop:80 HTTP/1.1\r\n\r\n", b"reach-outside"),
        (b"CONNECT http://c.shop:80 HTTP/1.1\r\n\r\n", b"reach-outside"),
        (b"CONNECT a:b@c.shop:80 HTTP/1.1\r\n\r\n", b"reach-outside"),
        (b"CONNECT /" + b"x" * 9000, b"head-too-large"),
    ],
    ids=range(14),
)  # fmt: skip
async def test_the_proxy_port_refuses_what_is_not_for_the_mesh(opening: bytes, code: bytes) -> None:
    mesh = Mesh()
    async with mesh.reached(proxy=True) as reach:
        assert reach.proxy_port is not None
        response = await say(reach.proxy_port, opening, end=False)
    assert response.count(b"HTTP/1.1 ") == 1
    assert code in response
    assert len(mesh.failures) <= 1
    assert not mesh.c.streams


@pytest.mark.parametrize(
    ("opening", "response"),
    [
        (socks("github.com", 443), b"\x05\x00\x05\x02"),
        (b"\x05\x01\x00\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x50", b"\x05\x00\x05\x02"),
        (b"\x05\x01\x00\x05\x01\x00\x04" + bytes(15) + b"\x01\x00\x50", b"\x05\x00\x05\x02"),
        (b"\x05\x01\x00\x05\x02\x00\x03\x01c\x00\x50", b"\x05\x00\x05\x07"),
        (b"\x05\x01\x02", b"\x05\xff"),
        (b"\x04\x01\x00\x50\x0a\x00\x00\x01\x00", b""),
        (b"\x16\x03\x01\x02\x00", b""),
    ],
    ids=["outside", "IPv4", "IPv6", "BIND", "no method", "SOCKS 4", "TLS"],
)
async def test_socks_says_what_it_does_not_serve(opening: bytes, response: bytes) -> None:
    mesh = Mesh()
    async with mesh.reached(proxy=True) as reach:
        assert reach.proxy_port is not None
        assert (await say(reach.proxy_port, opening, end=False))[:4] == response
    assert len(mesh.failures) == (response != b"\x05\xff")


async def test_a_client_may_send_byte_by_byte() -> None:
    mesh = Mesh()
    async with mesh.reached(proxy=True) as reach:
        assert reach.proxy_port is not None
        opening = socks("c.shop", 80) + get("c.shop")
        response = await say(
            reach.proxy_port, *(opening[at : at + 1] for at in range(len(opening))), end=False
        )
    assert response.endswith(b"tea")


async def test_connections_of_the_proxy_port_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_port, "MAX_CONNECTIONS", 1)
    mesh = Mesh({"tcp://d:1": BytesApp(b"hello")})
    async with mesh.reached(proxy=True) as reach:
        assert reach.proxy_port is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", reach.proxy_port)
        writer.write(socks("d", 1) + b"\0")
        await reader.readexactly(len(SUCCEEDED) + 5)
        refused = b""
        with suppress(ConnectionResetError):
            refused = await say(reach.proxy_port, b"\x05\x01\x00", end=False)
        assert refused == b""
        writer.close()


async def test_a_client_that_does_not_say_where_to_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_port, "HEAD_SECONDS", -1.0)
    async with Mesh().reached(proxy=True) as reach:
        assert reach.proxy_port is not None
        assert await say(reach.proxy_port, b"\x05", end=False) == b""


async def test_destinations_of_the_proxy_port_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach_module, "MAX_DESTINATIONS", 1)
    mesh = Mesh({"d:80": App(answer(b"milk"))})
    async with mesh.reached(proxy=True) as reach:
        assert reach.proxy_port is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", reach.proxy_port)
        writer.write(socks("c.shop", 80) + get("c.shop").replace(b"connection: close\r\n", b""))
        await reader.readuntil(b"tea")
        refused = await say(reach.proxy_port, socks("d", 80) + get("d"), end=False)
        writer.close()
        await writer.wait_closed()
        await eventually(lambda: not reach.connections)
        admitted = await say(reach.proxy_port, socks("d", 80) + get("d"), end=False)
    assert refused == b"\x05\x00\x05\x01\x00\x01" + bytes(6)
    assert admitted.endswith(b"milk")


# --- past the mesh ------------------------------------------------------------------------------------------


async def test_names_outside_go_past_the_mesh_if_that_is_wanted() -> None:
    mesh = Mesh()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = await reader.read(100)
        if got.startswith(b"GET"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\nhere")
        else:
            writer.write(got.upper())
        writer.close()

    async with (
        await asyncio.start_server(serve, "127.0.0.1", 0) as server,
        mesh.reached(proxy=True, direct=app_outside_mesh) as reach,
    ):
        assert reach.proxy_port is not None
        port = server.sockets[0].getsockname()[1]
        place = f"127.0.0.1:{port}"
        http = await say(reach.proxy_port, get(place, target=f"http://{place}/"), end=False)
        raw = await say(reach.proxy_port, f"CONNECT {place} HTTP/1.1\r\n\r\nbytes".encode())
        server.close()
        gone = await say(reach.proxy_port, b"CONNECT 127.0.0.1:1 HTTP/1.1\r\n\r\n")
    assert http.endswith(b"here")
    assert raw.endswith(b"\r\n\r\nBYTES")
    assert gone.startswith(b"HTTP/1.1 502 ")
    assert not mesh.c.streams


async def test_past_the_mesh_a_server_s_first_bytes_follow_the_reply_of_the_proxy_port() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail")
        writer.close()

    async with (
        await asyncio.start_server(greet, "127.0.0.1", 0) as server,
        Mesh().reached(proxy=True, direct=app_outside_mesh) as reach,
    ):
        assert reach.proxy_port is not None
        port = server.sockets[0].getsockname()[1]
        opening = f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\n\r\n".encode()
        assert await say(reach.proxy_port, opening) == b"HTTP/1.1 200 Connected\r\n\r\n220 mail"
