"""A peer that vanishes, without a FIN or a reset, is detected on every connection that waits for one; a peer
that only does not read is waited for.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from devroute.errors import UpstreamReset
from devroute.http.aio import peer_watch
from devroute.http.aio.connection import Connection
from devroute.http.message import Framing, RequestHead
from devroute.upstream.dialer import Dialer
from devroute.upstream.http1_connection import Http1Connection
from devroute.upstream.http1_pool import Http1Pool
from devroute.upstream.http2_connection import Http2UpstreamConnection
from devroute.upstream.http2_pool import Http2Pool
from devroute.upstream.interface import Upstream, UpstreamStream
from devroute.upstream.tcp import TcpUpstream
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.loopback import App, Client, post, tunnel
from tests.support.remote_host import RemoteHost

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the options are Linux's")

#: Seconds within which a vanished peer has to be an error.
WITHIN = 60
MIB = 1024 * 1024
#: States of a connection (linux/tcp_states.h).
ESTABLISHED, FIN_WAIT_1 = 1, 4
#: More than a connection's buffers hold at both ends, so that the peer's window is closed.
MORE_THAN_BUFFERS = 64 * MIB


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer has vanished after a second."""
    monkeypatch.setattr(peer_watch, "UNACKNOWLEDGED", 1.0)
    monkeypatch.setattr(peer_watch, "LOOK_EVERY", 0.1)


# --- idle connections: TCP keep-alive


def check(connection: Connection) -> None:
    sock = connection.transport.get_extra_info("socket")

    def option(name: str) -> int:
        value: int = sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
        return value

    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert option("TCP_KEEPIDLE") + option("TCP_KEEPINTVL") * option("TCP_KEEPCNT") < WITHIN
    assert option("TCP_USER_TIMEOUT") == 0  # it would end connections whose peer only does not read


@pytest.mark.parametrize(
    "make",
    [
        lambda loop: Http1Connection(Http1Pool(Dialer("127.0.0.1", 1)), loop),
        lambda loop: Http2UpstreamConnection(Http2Pool(Dialer("127.0.0.1", 1)), loop),
    ],
    ids=["HTTP/1.1", "HTTP/2"],
)
async def test_an_idle_upstream_that_vanishes_is_detected(
    make: Callable[[asyncio.AbstractEventLoop], Connection],
) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    _, connection = await loop.create_connection(lambda: make(loop), *server.sockets[0].getsockname())
    check(connection)
    connection.abort()
    server.close()


async def test_a_laptop_and_a_proxy_that_vanish_are_detected() -> None:
    async with tunnel(App()) as (site, agent):
        check(agent)
        (link,) = site.tunnels.links
        check(link)


# --- with data in transit


def test_within_a_minute_and_two_where_its_window_was_closed() -> None:
    seconds = peer_watch.UNACKNOWLEDGED + 2 * peer_watch.LOOK_EVERY
    assert seconds < WITHIN
    assert seconds + 2 * peer_watch.MAX_INTERVAL < 2 * WITHIN


@pytest.mark.parametrize(
    ("state", "repeated", "probes", "unacknowledged", "since_sent", "since_reply", "owed"),
    [
        (ESTABLISHED, 0, 0, 0, 5, 900, False),  # idle, or all acknowledged
        (ESTABLISHED, 0, 0, 3, 5, 900, True),  # sent after the last acknowledgement
        (ESTABLISHED, 4, 0, 3, 900, 5, False),  # each repetition is acknowledged, and nothing is taken
        (FIN_WAIT_1, 4, 0, 1, 900, 900, True),  # the end alone, which counts as no data
        (FIN_WAIT_1, 0, 0, 1, 900, 900, False),  # sent this moment
        (ESTABLISHED, 0, 1, 0, 900, 900, False),  # a probe of this moment
        (ESTABLISHED, 0, 2, 0, 900, 900, True),
    ],
)
def test_what_a_peer_owes(
    state: int,
    repeated: int,
    probes: int,
    unacknowledged: int,
    since_sent: int,
    since_reply: int,
    owed: bool,
) -> None:
    asked = peer_watch.owes(state, repeated, probes, unacknowledged, since_sent, since_reply)
    assert asked is owed


class Watched:
    """As much of a connection as a look needs. `closing`: it has no socket any more."""

    def __init__(self, *, closing: bool) -> None:
        self.transport = self
        self.closing = closing
        self.looks = 0

    @property
    def reads_paused(self) -> bool:
        self.looks += 1
        return not self.closing

    def get_extra_info(self, name: str) -> None: ...


async def test_a_connection_that_cannot_be_asked_leaves_the_others_watched(impatient: None) -> None:
    watch = peer_watch.PeerWatch(asyncio.get_running_loop())
    closing, other = Watched(closing=True), Watched(closing=False)
    watch.add(closing)  # type: ignore[arg-type]
    watch.add(other)  # type: ignore[arg-type]
    await eventually(lambda: other.looks >= 3)
    assert closing.looks == 1
    watch.forget(other)  # type: ignore[arg-type]


class SlowApp(asyncio.Protocol):
    """Reads nothing until `resume`, and responds once it has read the request."""

    def __init__(self, size: int) -> None:
        self.left = size

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        # Python 3.11.2 begins to read after this call, whatever it has paused.
        asyncio.get_running_loop().call_soon(transport.pause_reading)

    def data_received(self, data: bytes) -> None:
        self.left -= len(data)
        if self.left <= 0:
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")


def unread(upstream: Upstream, client: Client, size: int) -> UpstreamStream:
    """Send a whole request that its app does not read."""
    stream = upstream.open(post(size), client)
    stream.send_data(bytes(size))
    stream.send_end([])
    return stream


@pytest.mark.parametrize("size", [MIB, MORE_THAN_BUFFERS])
async def test_an_app_that_a_debugger_has_stopped_may_leave_a_body_unread(impatient: None, size: int) -> None:
    loop = asyncio.get_running_loop()
    apps: list[SlowApp] = []

    def accept() -> SlowApp:
        apps.append(SlowApp(len(post(size).wire) + size))
        return apps[-1]

    server = await loop.create_server(accept, "127.0.0.1", 0)
    async with server:
        pool = Http1Pool(Dialer("127.0.0.1", server.sockets[0].getsockname()[1]))
        client = Client()
        unread(pool, client, size)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.done.wait(), 2 * peer_watch.UNACKNOWLEDGED)
        apps[0].transport.resume_reading()
        await asyncio.wait_for(client.done.wait(), PATIENCE_S)
        assert (client.error, client.heads[0].status) == (None, 200)
        await pool.close()


#: Accepts connections at a port, in another namespace, sends what it is to send, and reads nothing.
DEAF = """
import socket, sys
server = socket.create_server((sys.argv[1], 7000))
print("listens", flush=True)
kept = []
while True:
    kept.append(server.accept()[0])
    kept[-1].sendall(bytes.fromhex(sys.argv[2]))
"""
SETTINGS = bytes.fromhex("000000040000000000")  # of HTTP/2, empty
UPGRADE = RequestHead(b"GET", b"/", Framing.UPGRADE, 0, b"")


@asynccontextmanager
async def deaf_host(remote_host: RemoteHost, sends: bytes) -> AsyncIterator[str]:
    address = remote_host.address
    process = await asyncio.create_subprocess_exec(
        *remote_host.inside, sys.executable, "-c", DEAF, address, sends.hex(), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"listens\n"
        yield address
    finally:
        process.kill()
        await process.wait()


async def test_a_host_that_vanishes_while_its_app_does_not_read_is_detected(
    impatient: None, remote_host: RemoteHost
) -> None:
    async with deaf_host(remote_host, b"") as address:
        pool = Http1Pool(Dialer(address, 7000))
        client = Client()
        unread(pool, client, MORE_THAN_BUFFERS)
        await eventually(lambda: client.paused)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.done.wait(), 2 * peer_watch.UNACKNOWLEDGED)
        remote_host.ip("link", "set", "wifi", "down")
        await asyncio.wait_for(client.done.wait(), PATIENCE_S)
        assert isinstance(client.error, UpstreamReset)
        assert client.error.message == f"{address}:7000 no longer acknowledges what it is sent"
        await pool.close()


@pytest.mark.parametrize("kind", ["HTTP/1.1", "HTTP/2", "TCP", "TCP, its end"])
async def test_a_host_that_vanishes_before_it_acknowledges_a_request_is_detected(
    impatient: None, remote_host: RemoteHost, kind: str
) -> None:
    async with deaf_host(remote_host, SETTINGS if kind == "HTTP/2" else b"") as address:
        dialer, label, client = Dialer(address, 7000), f"{address}:7000", Client()
        upstream: Http1Pool | Http2Pool | TcpUpstream
        if kind.startswith("TCP"):
            upstream = TcpUpstream(label, dialer)
            stream = upstream.open(UPGRADE, client)
            await asyncio.wait_for(client.first.wait(), PATIENCE_S)
            remote_host.ip("link", "set", "wifi", "down")
            if kind == "TCP":
                stream.send_data(b"x")
            else:
                stream.send_end([])
        else:
            upstream = Http2Pool(dialer) if kind == "HTTP/2" else Http1Pool(dialer)
            await upstream.probe()
            stream = upstream.open(post(1), client)
            remote_host.ip("link", "set", "wifi", "down")
            stream.send_data(b"x")
            stream.send_end([])
        await asyncio.wait_for(client.done.wait(), PATIENCE_S)
        assert isinstance(client.error, UpstreamReset)
        what = "its host no" if kind == "HTTP/2" else "no"
        assert client.error.message.replace(":7000: ", ":7000 ") == (
            f"{label} {what} longer acknowledges what it is sent"
        )
        await upstream.close()


async def test_what_is_not_read_here_says_nothing_about_the_peer(
    impatient: None, remote_host: RemoteHost
) -> None:
    """The kernel may refuse acknowledgements while its own buffer is full."""
    async with deaf_host(remote_host, b"") as address:
        pool, client = Http1Pool(Dialer(address, 7000)), Client()
        await pool.probe()
        stream = pool.open(post(1), client)
        stream.pause_response()
        remote_host.ip("link", "set", "wifi", "down")
        stream.send_data(b"x")
        stream.send_end([])
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.done.wait(), 3 * peer_watch.UNACKNOWLEDGED)
        stream.resume_response()
        await asyncio.wait_for(client.done.wait(), PATIENCE_S)
        assert isinstance(client.error, UpstreamReset)
        await pool.close()
