"""The agent's dial, over real sockets: what it gets, and what each failure says."""

import asyncio
import shutil
import ssl
from pathlib import Path

import pytest

from devroute.errors import (
    ConnectionUsed,
    DevrouteError,
    ServerUnreachable,
    TokenInvalid,
)
from devroute.http.error_response import error_body
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import dial
from devroute.tunnel.protocol.websocket import WebSocket, accept_upgrade, split_head
from tests.support.loopback import BulkApp, Client, connect, get, site

pytestmark = pytest.mark.asyncio


def no_link(websocket: WebSocket, loop: asyncio.AbstractEventLoop) -> AgentLink:
    raise AssertionError("no upgrade was expected")


async def test_a_token_that_is_refused_raises_token_invalid() -> None:
    async with site() as where:
        with pytest.raises(TokenInvalid, match="not known"):
            await dial(where.url, "wrong", no_link)
        with pytest.raises(TokenInvalid, match="characters"):
            await dial(where.url, "line\nbreak", no_link)


async def test_a_server_that_cannot_be_reached_is_named_with_the_reason(unused_tcp_port: int) -> None:
    with pytest.raises(ServerUnreachable, match="refused"):
        await dial(f"http://127.0.0.1:{unused_tcp_port}", "t", no_link)
    with pytest.raises(ServerUnreachable, match="does not resolve"):
        await dial("http://no-such-host.invalid", "t", no_link)


@pytest.mark.parametrize(
    ("response", "error", "text"),
    [
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\nno", ServerUnreachable, "404"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", TokenInvalid, "403"),
        (
            b"HTTP/1.1 302 Found\r\nlocation: https://login\r\ncontent-length: 0\r\n\r\n",
            ServerUnreachable,
            "https://login",
        ),
        (b"SSH-2.0-OpenSSH\r\n\r\n", ServerUnreachable, "not speak HTTP"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", ServerUnreachable, "does not match"),
        (b"", ServerUnreachable, "closed the connection"),
        (b"x" * 70_000, ServerUnreachable, "not speak HTTP"),
    ],
)
async def test_a_server_that_opens_no_tunnel_is_reported_with_its_response(
    response: bytes, error: type[DevrouteError], text: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(error, match=text):
            await dial(f"http://127.0.0.1:{port}", "t", no_link)


async def test_dial_tries_again_past_a_used_connection_of_an_ingress() -> None:
    """An ingress with one pooled connection: the first upgrade meets it, the next one a fresh one."""
    used = error_body(ConnectionUsed("used"))
    responses = [
        b"HTTP/1.1 503 Used\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(used), used)
    ]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        writer.write(responses.pop() if responses else accept_upgrade(split_head(request)))

    def make(websocket: WebSocket, loop: asyncio.AbstractEventLoop) -> AgentLink:
        return AgentLink(websocket, loop, {}, lambda finished: None)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        link = await dial(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "t", make)
        assert not responses
        link.close_with(DevrouteError("over"))
        await link.disconnected


async def test_a_server_that_never_responds_is_given_up() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ServerUnreachable, match=r"did not respond within 0\.1 s"):
            await dial(f"http://127.0.0.1:{port}", "t", no_link, seconds=0.1)


async def test_a_tls_url_of_a_plain_http_server_is_reported_as_failed_tls() -> None:
    async with site() as where:
        with pytest.raises(ServerUnreachable, match="TLS failed"):
            await dial(where.url.replace("http:", "https:"), "t", no_link)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_a_tunnel_over_tls_is_made_only_if_the_certificate_is_trusted(tmp_path: Path) -> None:
    making = await asyncio.create_subprocess_exec(
        *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"),
        cwd=tmp_path,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert await making.wait() == 0
    ours = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    async with site(tls=ours) as where:
        url = f"wss://localhost:{where.port}"
        with pytest.raises(ServerUnreachable, match="certificate is not trusted"):
            await dial(url, "alice-token", no_link)
        where.url = url
        link = await connect(
            where, {"foo": BulkApp()}, tls=ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        )
        await link.welcome
        client = Client(keep=False)
        where.upstream().open(get(b"/20000000"), client)
        async with asyncio.timeout(20):
            await client.done.wait()
        assert client.size == 20_000_000
        assert client.error is None
        link.close_with(DevrouteError("over"))
        await link.disconnected
