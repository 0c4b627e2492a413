"""The control listener and the agent's dial, over real sockets."""

import asyncio
import json
import shutil
import ssl
from pathlib import Path

import pytest

from devroute.contract.target import Address
from devroute.errors import (
    ConnectionUsed,
    DevrouteError,
    NameNotOwned,
    RegistrationDenied,
    ServerUnreachable,
    TargetDenied,
    TokenInvalid,
    UpstreamReset,
)
from devroute.http.error_response import error_body
from devroute.http.message import RequestHead
from devroute.policy.policy import Policy
from devroute.proxy.control.api import Control, create_app
from devroute.proxy.control.http import connections, create_runner
from devroute.proxy.control.listener import ControlListener
from devroute.proxy.control.tunnels import Permit, Tunnels
from devroute.routing.registry import Registry
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import dial
from devroute.tunnel.protocol.handshake import Hello, Offer
from devroute.tunnel.protocol.websocket import WebSocket, accept_upgrade, request_upgrade, split_head
from tests.support.loopback import App, BulkApp, Client, Site, authenticate, connect, get, head, site

pytestmark = pytest.mark.asyncio


async def send(where: Site, data: bytes) -> bytes:
    """What the server says until it closes, or until it has answered once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", where.port)
    writer.write(data)
    async with asyncio.timeout(3):
        answer = await reader.readuntil(b"\r\n\r\n")
        if b"connection: close" in answer:
            answer += await reader.read()
    writer.close()
    return answer


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
async def test_everything_but_the_tunnel_is_for_aiohttp_with_all_its_bytes(request_: bytes) -> None:
    async with site() as where:
        assert b"x-read: %d\r\n" % len(request_) in await send(where, request_)


async def test_a_first_line_in_pieces_is_not_mistaken() -> None:
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
    async with site(head_seconds=0.05, hello_seconds=0.05) as where:
        assert b"408" in await send(where, b"GET /tunnel HTTP/1.1\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", where.port)
        writer.write(upgrade())
        async with asyncio.timeout(3):
            await reader.readuntil(b"\r\n\r\n")
            assert b"no HELLO" in await reader.read()
        writer.close()


# --- registration ------------------------------------------------------------------------------------------


async def turned_away(where: Site, link: AgentLink) -> str:
    async with asyncio.timeout(3):
        await link.close_reason
    assert link.goaway is not None
    return link.goaway.code


async def test_a_name_that_is_not_owned_is_turned_away() -> None:
    async with site() as where:
        link = await connect(where, {"foo": App()}, name="bob")
        assert await turned_away(where, link) == NameNotOwned.code
        assert link.welcome.cancelled()
        assert where.registry.listing() == []


@pytest.fixture
def revocable() -> tuple[set[str], Permit]:
    """Subjects without a right, to be changed by a test, and the policy that says so."""
    refused: set[str] = set()

    def permit(subject: str, groups: frozenset[str], offer: Offer) -> None:
        if subject in refused:
            raise RegistrationDenied(f"'{subject}' may not register '{offer.service}'", hint="ask for it")

    return refused, permit


async def test_a_registration_that_policy_does_not_permit_is_turned_away(
    revocable: tuple[set[str], Permit],
) -> None:
    refused, permit = revocable
    refused.add("alice")
    async with site(permit=permit) as where:
        link = await connect(where, {"foo": App()})
        assert await turned_away(where, link) == "not-permitted"
        assert where.registry.listing() == []


async def test_a_right_that_is_taken_away_hides_the_laptop_and_lets_requests_under_way_end(
    revocable: tuple[set[str], Permit],
) -> None:
    refused, permit = revocable
    app, client = App(), Client()
    async with site(permit=permit) as where:
        link, other = (
            await connect(where, {"foo": app}),
            await connect(where, {"foo": App()}, token="bob-token"),
        )
        await link.welcome
        await other.welcome
        where.upstream().open(get(), client)
        await app.opened.wait()
        refused.add("alice")
        where.tunnels.review_policy()
        assert [each["name"] for each in where.registry.listing()] == ["bob"]
        (stream,) = app.streams
        stream.sink.on_head(head(200, 2))
        stream.sink.on_data(b"ok")
        stream.sink.on_end([])
        async with asyncio.timeout(3):
            await client.done.wait()
        assert (client.error, bytes(client.body)) == (None, b"ok")
        assert await turned_away(where, link) == "not-permitted"
        assert link.goaway is not None
        assert link.goaway.hint == "ask for it"
        assert not other.close_reason.done()


@pytest.mark.parametrize("says_goodbye", [False, True])
async def test_a_request_of_a_laptop_without_its_right_does_not_go_on_for_ever(
    revocable: tuple[set[str], Permit], says_goodbye: bool
) -> None:
    refused, permit = revocable
    app, client = App(), Client()
    async with site(permit=permit, revoked_seconds=0.05) as where:
        link = await connect(where, {"foo": app})
        await link.welcome
        where.upstream().open(get(), client)
        await app.opened.wait()
        refused.add("alice")
        where.tunnels.review_policy()
        if says_goodbye:
            link.drain("leaving", "and staying nevertheless")
        assert await turned_away(where, link) == "not-permitted"
        async with asyncio.timeout(3):
            await client.done.wait()
        assert client.error is not None


async def test_a_registered_address_needs_permission() -> None:
    def permit(subject: str, groups: frozenset[str], offer: Offer) -> None:
        raise TargetDenied(f"{offer.direct} is not permitted for {offer.service}")

    def make(websocket: WebSocket, loop: asyncio.AbstractEventLoop) -> AgentLink:
        link = AgentLink(websocket, loop, {}, lambda finished: None)
        offer = Offer(service="foo", direct=Address("127.0.0.1", 8001))
        link.send_hello(Hello(agent="test", services=(offer,)).encode())
        return link

    async with site(permit=permit) as where:
        link = await dial(where.url, "alice-token", make)
        link.wake()
        assert await turned_away(where, link) == "target-denied"


async def test_a_newer_link_takes_the_name_and_the_older_s_streams_end() -> None:
    app = App()
    async with site() as where:
        old = await connect(where, {"foo": app})
        await old.welcome
        client = Client()
        where.upstream().open(get(), client)
        await app.opened.wait()
        new = await connect(where, {"foo": App()})
        await new.welcome
        assert await turned_away(where, old) == "link-replaced"
        await client.done.wait()
        assert isinstance(client.error, UpstreamReset)
        await app.streams[0].cancelled.wait()
        assert len(where.registry.listing()) == 1
        new.close_with(DevrouteError("over"))


async def test_closing_the_listener_ends_links_and_waits_for_them() -> None:
    async with site() as where:
        link = await connect(where, {"foo": App()})
        await link.welcome
        client = Client()
        where.upstream().open(get(), client)
    assert isinstance(client.error, UpstreamReset)
    assert await turned_away(where, link) == "draining"


# --- dialling ----------------------------------------------------------------------------------------------


def no_link(websocket: WebSocket, loop: asyncio.AbstractEventLoop) -> AgentLink:
    raise AssertionError("no upgrade was expected")


async def test_a_bad_token_is_an_error_of_its_own() -> None:
    async with site() as where:
        with pytest.raises(TokenInvalid, match="not known"):
            await dial(where.url, "wrong", no_link)
        with pytest.raises(TokenInvalid, match="characters"):
            await dial(where.url, "line\nbreak", no_link)


async def test_a_server_that_is_not_there_says_so(unused_tcp_port: int) -> None:
    with pytest.raises(ServerUnreachable, match="refused"):
        await dial(f"http://127.0.0.1:{unused_tcp_port}", "t", no_link)
    with pytest.raises(ServerUnreachable, match="does not resolve"):
        await dial("http://no-such-host.invalid", "t", no_link)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
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
async def test_a_server_that_is_something_else_says_so(
    answer: bytes, error: type[DevrouteError], text: str
) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(error, match=text):
            await dial(f"http://127.0.0.1:{port}", "t", no_link)


async def test_a_used_connection_of_an_ingress_is_dialled_past() -> None:
    """An ingress with one pooled connection: the first upgrade meets it, the next one a fresh one."""
    used = error_body(ConnectionUsed("used"))
    answers = [b"HTTP/1.1 503 Used\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(used), used)]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop() if answers else accept_upgrade(split_head(request)))

    def make(websocket: WebSocket, loop: asyncio.AbstractEventLoop) -> AgentLink:
        return AgentLink(websocket, loop, {}, lambda finished: None)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        link = await dial(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "t", make)
        assert not answers
        link.close_with(DevrouteError("over"))
        await link.disconnected


async def test_a_server_that_never_answers_is_given_up() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ServerUnreachable, match=r"did not respond within 0\.1 s"):
            await dial(f"http://127.0.0.1:{port}", "t", no_link, seconds=0.1)


async def test_plain_http_on_a_tls_url_says_so() -> None:
    async with site() as where:
        with pytest.raises(ServerUnreachable, match="TLS failed"):
            await dial(where.url.replace("http:", "https:"), "t", no_link)


async def test_a_request_s_head_is_what_the_relay_made() -> None:
    head = RequestHead(b"GET", b"/", get().framing, 0, b"GET / HTTP/1.1\r\nX-Odd-Case: \xe9\r\n\r\n")
    app = App()
    async with site() as where:
        link = await connect(where, {"foo": app})
        await link.welcome
        where.upstream().open(head, Client())
        await app.opened.wait()
        assert app.streams[0].head == head
        link.close_with(DevrouteError("over"))


# --- what stands around it --------------------------------------------------------------------------------


async def test_an_upgrade_on_a_connection_that_aiohttp_has_is_closed_for_another_attempt() -> None:
    registry = Registry()

    async def probe(address: Address, service: str) -> None:
        raise AssertionError("nothing is probed here")

    runner = create_runner(create_app(Control(registry, Policy, authenticate, probe, 1.0)))
    await runner.setup()
    tunnels = Tunnels(
        authenticate=authenticate,
        registry=registry,
        server_version="test",
        permit=lambda subject, groups, offer: None,
    )
    listener = ControlListener(http=connections(runner), authenticate=authenticate, tunnels=tunnels)
    server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    async with asyncio.timeout(3):
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


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificate with openssl")
async def test_a_tunnel_over_tls_trusts_the_right_certificate_only(tmp_path: Path) -> None:
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
        async with asyncio.timeout(10):
            await client.done.wait()
        assert client.size == 20_000_000
        assert client.error is None
        link.close_with(DevrouteError("over"))
        await link.disconnected
