"""A connection's first head: an upgrade to a tunnel, or a request for aiohttp."""

import asyncio
import json
import socket
import ssl
from pathlib import Path

import pytest

from devroute.auth.identity import Identity, PeerCertificate
from devroute.contract.target import Address
from devroute.errors import TokenInvalid
from devroute.policy.policy import Policy
from devroute.proxy.control.api import create_app
from devroute.proxy.control.control import Control
from devroute.proxy.control.http import connections, create_runner
from devroute.proxy.control.listener import ControlListener
from devroute.proxy.control.tunnels import Tunnels
from devroute.routing.registry import Registry
from devroute.tunnel.protocol.websocket import request_upgrade
from tests.support.authority import Authority
from tests.support.eventually import eventually, quiet
from tests.support.loopback import Site, authenticate, site

pytestmark = pytest.mark.asyncio


async def send(where: Site, data: bytes) -> bytes:
    """The server's first response, with the rest of the connection if that is closed after it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", where.port)
    writer.write(data)
    async with asyncio.timeout(20):
        response = await reader.readuntil(b"\r\n\r\n")
        if b"connection: close" in response:
            response += await reader.read()
    writer.close()
    return response


def upgrade(token: str = "alice-token") -> bytes:
    return request_upgrade("localhost", "/tunnel", {"authorization": f"Bearer {token}"}, bytes(16))[0]


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /resolve HTTP/1.1\r\n\r\n",
        b"POST /tunnel HTTP/1.1\r\n\r\n",
        b"GET /tunnels HTTP/1.1\r\n\r\n",
        b"POST /resolve HTTP/1.1\r\ncontent-length: 2\r\n\r\nhi",
    ],
)
async def test_any_other_request_goes_to_aiohttp_with_all_its_bytes(request_: bytes) -> None:
    async with site() as where:
        assert b"x-read: %d\r\n" % len(request_) in await send(where, request_)


async def test_a_request_line_in_pieces_is_recognised() -> None:
    async with site() as where:
        reader, writer = await asyncio.open_connection("127.0.0.1", where.port)
        for piece in (b"GET /tun", b"nels HTTP/1.1\r\n\r\n"):
            writer.write(piece)
            await writer.drain()
        assert b"x-read: 25\r\n" in await reader.readuntil(b"\r\n\r\n")
        writer.close()


async def test_a_valid_upgrade_is_accepted_even_byte_by_byte() -> None:
    async with site() as where:
        reader, writer = await asyncio.open_connection("127.0.0.1", where.port)
        for byte in upgrade():
            writer.write(bytes((byte,)))
            await writer.drain()
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        writer.close()


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (upgrade("wrong"), 401, "token-invalid"),
        (upgrade().replace(b"Bearer", b"Basic"), 401, "token-invalid"),
        (upgrade().replace(b"authorization", b"x"), 401, "token-invalid"),
        (upgrade().replace(b"upgrade: w", b"Origin: https://evil\r\nupgrade: w"), 403, "origin-denied"),
        (upgrade().replace(b"upgrade: websocket", b"x: y"), 400, "tunnel-protocol"),
        (upgrade().replace(b"version: 13", b"version: 7"), 400, "tunnel-protocol"),
        (b"GET /tunnel HTTP/1.1\r\nx: " + b"y" * 17_000, 431, "head-too-large"),
    ],
)
async def test_a_wrong_upgrade_gets_its_error_as_json(request_: bytes, status: int, code: str) -> None:
    async with site() as where:
        head, _, body = (await send(where, request_)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["code"] == code
    assert (b"www-authenticate" in head) is (status == 401)


async def test_a_slow_head_and_a_missing_hello_time_out() -> None:
    async with site(head_seconds=0.05) as where:
        assert b"408" in await send(where, b"GET /tunnel HTTP/1.1\r\n")
    async with site(hello_seconds=0.05) as where:
        reader, writer = await asyncio.open_connection("127.0.0.1", where.port)
        writer.write(upgrade())
        async with asyncio.timeout(20):
            await reader.readuntil(b"\r\n\r\n")
            assert b"no HELLO" in await reader.read()
        writer.close()


async def test_an_upgrade_on_a_used_connection_is_refused_and_the_connection_closed() -> None:
    registry = Registry()

    async def probe(address: Address, service: str) -> None:
        raise AssertionError("nothing is probed here")

    runner = create_runner(create_app(Control(registry, Policy, authenticate, probe, 1.0)))
    await runner.setup()
    tunnels = Tunnels(
        authenticate=authenticate, registry=registry, permit=lambda subject, groups, offer: None
    )
    listener = ControlListener(http=connections(runner), tunnels=tunnels)
    server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async with asyncio.timeout(20):
        writer.write(b"GET /api/status HTTP/1.1\r\nhost: a\r\n\r\n")
        first = await reader.readuntil(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 401 "), "aiohttp got the bytes that were read before"
        writer.write(upgrade())
        second = await reader.read()
    assert b"HTTP/1.1 503 " in second
    assert b'"code": "connection-used"' in second
    assert b"connection: close" in second.lower()
    writer.close()
    server.close()
    await runner.cleanup()


async def test_a_client_of_tls_that_keeps_a_refused_connection_open_does_not_keep_the_port_from_closing(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    pair = authority.server()
    ours = pair.context()
    theirs = ssl.create_default_context(cafile=str(authority.file))
    head_seconds = 0.5
    async with site(tls=ours, head_seconds=head_seconds) as where:
        _, writer = await asyncio.open_connection("localhost", where.port, ssl=theirs)
        writer.transport.pause_reading()
        writer.write(b"GET /tunnel HTTP/1.1\r\n\r\n")  # refused, then too late
        (waiting,) = await eventually(lambda: list(where.listener.waiting))
        await eventually(lambda: waiting.transport.is_closing())
        too_late = asyncio.Event()  # its own deadline began before
        asyncio.get_running_loop().call_later(head_seconds, too_late.set)
        await too_late.wait()
        assert waiting.transport.get_write_buffer_size() >= 0  # fails once it has been closed twice
    writer.transport.abort()


async def test_a_client_of_tls_that_ends_while_its_token_is_verified_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path)
    verified = asyncio.Event()

    async def verify(authorization: str, certificate: PeerCertificate | None) -> Identity:
        await verified.wait()
        raise TokenInvalid("the key is not known to the issuer")

    theirs = ssl.create_default_context(cafile=str(authority.file))
    async with site(tls=authority.server().context(), authenticate=verify) as where:
        _, writer = await asyncio.open_connection("localhost", where.port, ssl=theirs)
        (waiting,) = await eventually(lambda: list(where.listener.waiting))
        writer.write(upgrade())
        await eventually(lambda: not waiting.transport.is_reading(), "the token is being verified")
        with writer.get_extra_info("socket").dup() as half:
            half.shutdown(socket.SHUT_WR)
        await quiet(lambda: list(where.listener.waiting))  # meanwhile the end is read
        verified.set()
        await eventually(lambda: not where.listener.waiting)
    writer.transport.abort()
