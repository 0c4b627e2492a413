"""Apps that speak TLS on the laptop, with real servers: reached, or recognised and named."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import grpc
import h2.config
import h2.connection
import h2.events
import pytest
from grpc import aio

from devroute.agent.app_advice import speaks_tls
from devroute.contract.service_spec import ServiceSpec
from devroute.errors import AppUnreachable, DevrouteError, TargetUnreachable, UpstreamInvalid
from devroute.http.message import Framing, RequestHead
from devroute.upstream import local_app
from devroute.upstream.dialer import Dialer
from devroute.upstream.interface import Upstream, UpstreamStream
from tests.agent.test_app import app, fetch, online, settings, up
from tests.support.agent_output import Said
from tests.support.authority import Authority, Pair
from tests.support.eventually import PATIENCE_S, eventually, quiet
from tests.support.grpc_app import App
from tests.support.loopback import Client, get, response_to, site
from tests.support.shell import devroute, listening

pytestmark = pytest.mark.asyncio


@pytest.fixture(scope="module")
def untrusted(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A certificate that no one trusts, as a self-signed one."""
    return Authority(tmp_path_factory.mktemp("authority")).server()


def grpc_request() -> RequestHead:
    fields = b"content-type: application/grpc\r\nte: trailers\r\ncontent-length: 7\r\n"
    wire = b"POST /t/Unary HTTP/1.1\r\nhost: foo\r\n" + fields + b"\r\n"
    return RequestHead(b"POST", b"/t/Unary", Framing.LENGTH, 7, wire)


@asynccontextmanager
async def tls_app(pair: Pair, alpn: str | None = "http/1.1") -> AsyncIterator[int]:
    """The port of an app that responds with the server name that it was asked for."""
    context = pair.context()
    if alpn is not None:
        context.set_alpn_protocols([alpn])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret")

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context) as server:
        yield server.sockets[0].getsockname()[1]


async def request(spec: str, head: RequestHead | None = None) -> Client:
    upstream = local_app.local_app(ServiceSpec.parse(spec))
    client = await response_to(upstream, head or get(), b"\0\0\0\0\2hi")
    await upstream.close()
    return client


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
@pytest.mark.parametrize("alpn", ["http/1.1", None])
async def test_a_self_signed_app_on_loopback_is_reached(untrusted: Pair, host: str, alpn: str | None) -> None:
    async with (
        site() as where,
        tls_app(untrusted, alpn) as port,
        up(settings(where.url, f"foo=https://{host}:{port}")) as task,
    ):
        await online(where, task)
        for _ in range(3):
            assert (await fetch(where)).body == b"secret"
        (listed,) = where.registry.listing()
        assert listed["services"][0]["scheme"] == "http"  # type: ignore[index]  # for proxies of any version


async def test_a_certificate_is_verified_on_another_machine(
    untrusted: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_app, "is_loopback", lambda host: False)
    async with tls_app(untrusted) as port:
        error = (await request(f"foo=https://localhost:{port}")).error
    assert isinstance(error, AppUnreachable)
    assert "certificate that is not trusted" in error.message


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("127.8.0.1", True), ("::1", True), ("10.0.0.1", False), ("app", False)],
)
async def test_loopback_is_this_machine(host: str, here: bool) -> None:
    assert local_app.is_loopback(host) is here


@pytest.mark.parametrize("scheme", ["grpcs", "https"])
async def test_a_grpc_app_with_tls_is_reached(untrusted: Pair, scheme: str) -> None:
    server = aio.server(handlers=[App()])
    credentials = grpc.ssl_server_credentials(
        [(untrusted.key.read_bytes(), untrusted.certificate.read_bytes())]
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        client = await request(f"foo={scheme}://127.0.0.1:{port}", grpc_request())
    finally:
        await server.stop(0)
    assert client.error is None
    assert client.body == b"\0\0\0\0\2hi"


#: An upstream, and its app's thread.
Served = tuple[Upstream, asyncio.Future[None]]


class SlowClient(Client):
    """Takes nothing more after the first data until `go_on`."""

    def __init__(self) -> None:
        super().__init__()
        self.stream: UpstreamStream | None = None
        self.go_on = asyncio.Event()

    def on_data(self, data: bytes) -> None:
        super().on_data(data)
        if self.stream is not None and not self.go_on.is_set():
            self.stream.pause_response()


@contextmanager
def one_client(listener: socket.socket, context: ssl.SSLContext) -> Iterator[ssl.SSLSocket]:
    """Its connection, which is closed without waiting for its close_notify, as Node.js does."""
    raw, _ = listener.accept()
    with context.wrap_socket(raw, server_side=True) as accepted:
        yield accepted
        accepted.setblocking(False)
        with suppress(ssl.SSLWantReadError):
            accepted.unwrap()


@asynccontextmanager
async def served(scheme: str, serve: Callable[..., None], *more: object) -> AsyncIterator[Served]:
    """An upstream of this scheme, and when the thread of `serve(listener, *more)` has ended."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE_S)
        upstream = local_app.local_app(
            ServiceSpec.parse(f"foo={scheme}://127.0.0.1:{listener.getsockname()[1]}")
        )
        yield upstream, asyncio.get_running_loop().run_in_executor(None, serve, listener, *more)
        await upstream.close()


def serve_http2_and_close(listener: socket.socket, pair: Pair, pieces: int) -> None:
    """Respond to one request, with frames of one byte, and close."""
    context = pair.context()
    context.set_alpn_protocols(["h2"])
    with one_client(listener, context) as accepted:
        peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        peer.initiate_connection()
        accepted.sendall(peer.data_to_send())
        number = None
        while number is None:
            for event in peer.receive_data(accepted.recv(65536)):
                if isinstance(event, h2.events.RequestReceived):
                    number = event.stream_id
        peer.send_headers(number, [(":status", "200"), ("content-type", "application/grpc")])
        for _ in range(pieces):
            peer.send_data(number, b"x")
        peer.send_headers(number, [("grpc-status", "0")], end_stream=True)
        accepted.sendall(peer.data_to_send())


async def test_a_response_over_http2_that_ends_with_its_connection_is_whole(untrusted: Pair) -> None:
    client = Client()
    async with served("grpcs", serve_http2_and_close, untrusted, 3000) as (upstream, serving):
        stream = upstream.open(grpc_request(), client)
        stream.send_data(b"\0\0\0\0\2hi")
        stream.send_end([])
        async with asyncio.timeout(PATIENCE_S):
            await serving
            await client.done.wait()
    assert client.error is None
    assert (client.size, client.trailers) == (3000, [(b"grpc-status", b"0")])


def serve_and_close(listener: socket.socket, pair: Pair, response: bytes) -> None:
    """Respond to one request, and close."""
    with one_client(listener, pair.context()) as accepted:
        accepted.recv(65536)
        accepted.sendall(response)


@pytest.mark.parametrize("resumes", [0, 1, 2])
@pytest.mark.parametrize("fields", [b"", b"content-length: 230000\r\n"])
async def test_a_response_that_ends_with_its_connection_is_whole(
    untrusted: Pair, fields: bytes, resumes: int
) -> None:
    """Once the app has closed, asyncio reads into one buffer what it has not read yet. `resumes`: how often
    the client resumes; if twice, it pauses again at once."""
    response = b"HTTP/1.1 200 OK\r\nconnection: close\r\n%s\r\n" % fields + bytes(230_000)
    client = SlowClient()
    async with served("https", serve_and_close, untrusted, response) as (upstream, serving):
        stream = upstream.open(get(), client)
        if resumes:
            client.stream = stream
        async with asyncio.timeout(PATIENCE_S):
            await serving
            await quiet(lambda: client.size)  # meanwhile the end of the connection is read
            if resumes == 2:
                stream.resume_response()
                stream.pause_response()
                await quiet(lambda: client.size)
            if resumes:
                client.go_on.set()
                stream.resume_response()
            await client.done.wait()
    assert client.error is None
    assert client.size == 230_000


async def test_an_app_without_tls_at_an_https_address_is_named() -> None:
    async with listening(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        error = (await request(f"foo=https://127.0.0.1:{port}")).error
    assert isinstance(error, AppUnreachable)
    assert "does not speak TLS" in error.message
    assert "http://" in error.hint


async def test_an_app_that_waits_for_the_rest_of_its_request_does_not_complete_the_handshake() -> None:
    async with app() as port:
        dialer = Dialer(
            "127.0.0.1", port, tls=lambda alpn: ssl.create_default_context(), connect_timeout=0.05
        )
        with pytest.raises(TargetUnreachable, match="did not complete a TLS handshake"):
            await dialer.connect(asyncio.Protocol)


@pytest.mark.parametrize("scheme", ["http", "grpc"])
async def test_the_first_bytes_of_tls_are_recognised(scheme: str) -> None:
    """An alert, as Go and Java send it."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"\x15\x03\x01\x00\x02\x02\x16")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        error = (await request(f"foo={scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}")).error
    assert isinstance(error, UpstreamInvalid)
    assert error.message.endswith("speaks TLS")
    assert f"{scheme}s://" in error.hint


@pytest.mark.parametrize("scheme", ["http", "grpc"])
async def test_the_terminal_names_an_app_with_tls_that_closes_without_a_byte(
    untrusted: Pair, scheme: str, said: Said
) -> None:
    """As OpenSSL does, in Node and Python."""
    async with (
        site() as where,
        tls_app(untrusted) as port,
        up(settings(where.url, f"foo={scheme}://127.0.0.1:{port}")) as task,
    ):
        await online(where, task)
        assert isinstance((await fetch(where)).error, DevrouteError)
        place = f"foo={scheme}s://127.0.0.1:{port}"
        await eventually(lambda: said(f"the app of 'foo' speaks TLS: start devroute up with {place}"))


async def test_a_plain_app_is_not_taken_for_one_with_tls() -> None:
    async with app() as port:
        assert not await speaks_tls("127.0.0.1", port)


async def test_doctor_names_the_right_scheme(untrusted: Pair, tmp_path: Path) -> None:
    async with tls_app(untrusted) as secure, app() as plain:
        for place, right in (
            (f"127.0.0.1:{secure}", f"write foo=https://127.0.0.1:{secure}"),
            (f"https://127.0.0.1:{plain}", f"write foo=http://127.0.0.1:{plain}"),
            (f"https://127.0.0.1:{secure}", "listens, with TLS"),
        ):
            _, out, _ = await devroute(
                tmp_path,
                "doctor",
                "--service",
                f"foo={place}",
                DEVROUTE_SERVER="http://127.0.0.1:1",
                DEVROUTE_TOKEN="x",
            )
            assert right in out
