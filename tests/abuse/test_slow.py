"""Peers that stall in the middle of a message, and compression, which the tunnel must not negotiate."""

import asyncio

import pytest

from devroute.tunnel.protocol.websocket import request_upgrade
from tests.conformance.port import TIMEOUTS, Port, data_port
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.loopback import site

REQUEST = b'%b HTTP/1.1\r\nhost: foo\r\nx-devroute: {"foo": "alice"}\r\nx-devroute-matched: foo\r\n%b\r\n'


async def ticking(port: Port) -> None:
    """Let the proxy check its timeouts until the exchange has ended."""
    loop = asyncio.get_running_loop()
    await eventually(lambda: port.server.tick(loop.time()) or port.exchanges)


async def test_a_request_body_that_stalls_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TIMEOUTS, "body", 0.05)
    async with data_port() as port:
        client = await port.dial()
        client.writer.write(REQUEST % (b"POST /", b"content-length: 10\r\n") + b"half")
        await eventually(lambda: port.server.in_flight)
        await ticking(port)
        answer = await client.answer()
    assert (answer.status, answer.code) == (408, "request-timeout")
    assert not port.received


async def test_a_response_that_stalls_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")
        await reader.read()
        writer.close()

    monkeypatch.setattr(TIMEOUTS, "idle", 0.05)
    async with data_port(await asyncio.start_server(app, "127.0.0.1", 0)) as port:
        client = await port.dial()
        client.writer.write(REQUEST % (b"GET /", b""))
        await asyncio.wait_for(client.reader.readuntil(b"half"), PATIENCE_S)
        await ticking(port)
        assert await client.rest() == b""
    assert port.exchanges[0].error is not None
    assert port.exchanges[0].error.code == "upstream-timeout"


async def test_the_tunnel_negotiates_no_compression() -> None:
    fields = {
        "authorization": "Bearer alice-token",
        "sec-websocket-extensions": "permessage-deflate; client_max_window_bits",
    }
    async with site() as where:
        reader, writer = await asyncio.open_connection("127.0.0.1", where.port)
        writer.write(request_upgrade("x", "/tunnel", fields, bytes(16))[0])
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"extensions" not in head.lower()
        writer.write(b"\x89\x80\1\2\3\4")  # a ping
        assert await asyncio.wait_for(reader.readexactly(2), PATIENCE_S) == b"\x8a\0"
        writer.write(b"\xc9\x80\1\2\3\4")  # the same with RSV1: "compressed"
        protocol_error = b"\x88\x02" + (1002).to_bytes(2)  # RFC 6455 §7.4.1
        assert await asyncio.wait_for(reader.read(), PATIENCE_S) == protocol_error
        writer.close()
