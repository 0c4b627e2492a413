"""Local ports that lead into the mesh, with real sockets."""

import asyncio
import struct

import pytest

from devroute.errors import ServerUnreachable
from tests.agent.reach.mesh import BytesApp, Mesh, get, heads, say

pytestmark = pytest.mark.asyncio


def socks(name: str, port: int) -> bytes:
    raw = name.encode()
    return b"\x05\x01\x00" + b"\x05\x01\x00\x03" + bytes([len(raw)]) + raw + struct.pack("!H", port)


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
        async with asyncio.timeout(10):
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
