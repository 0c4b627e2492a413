"""A proxy's listener and an agent's link on loopback, with hand-written apps and clients at the ends."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from devroute.auth.identity import Authenticate, Identity, PeerCertificate
from devroute.auth.tokens import bearer_token
from devroute.contract.target import Address
from devroute.errors import DevrouteError, TokenInvalid
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.proxy.control.listener import ControlListener
from devroute.proxy.control.tunnels import Permit, Tunnels
from devroute.proxy.ports.limits import HEAD_SECONDS
from devroute.routing.registry import Registry
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import dial
from devroute.tunnel.liveness import AGENT_LIVENESS, PROXY_LIVENESS, Liveness
from devroute.tunnel.protocol import handshake
from devroute.tunnel.protocol.websocket import WebSocket
from devroute.tunnel.served_stream import Finished
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream
from tests.support.eventually import PATIENCE_S
from tests.support.ports import free_port

TOKENS = {"alice-token": "alice", "bob-token": "bob"}


async def authenticate(authorization: str, certificate: PeerCertificate | None) -> Identity:
    secret = bearer_token(authorization)
    if secret not in TOKENS:
        raise TokenInvalid("the token is not known to this server")
    return Identity(TOKENS[secret])


class NoHttp(asyncio.Protocol):
    """Takes the place of aiohttp, with the same response to everything."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.write(b"HTTP/1.1 204 No Content\r\nx-read: %d\r\n\r\n" % len(data))


class Site:
    """The proxy's side: a listener on a port of its own."""

    def __init__(self, listener: ControlListener, registry: Registry, server: asyncio.Server) -> None:
        self.listener = listener
        self.tunnels = listener.tunnels
        self.registry = registry
        self._server = server
        self.port: int = server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    def upstream(self, name: str = "alice", service: str = "foo") -> Upstream:
        upstream = self.registry.lookup(name, service).upstream
        assert upstream is not None
        return upstream

    async def stop(self) -> None:
        self._server.close()
        await self.listener.close()


async def start_site(
    port: int = 0,
    *,
    liveness: Liveness = PROXY_LIVENESS,
    permit: Permit | None = None,
    authenticate: Authenticate = authenticate,
    tls: ssl.SSLContext | None = None,
    head_seconds: float = HEAD_SECONDS,
    **seconds: float,
) -> Site:
    """`port`: 0 for one of its own. Not one that the kernel assigns: that may have been another test's until
    just now, and its agent still dials it."""
    registry = Registry()
    tunnels = Tunnels(
        authenticate=authenticate,
        registry=registry,
        permit=permit or (lambda subject, groups, offer: None),
        liveness=liveness,
        **seconds,
    )
    listener = ControlListener(http=NoHttp, tunnels=tunnels, head_seconds=head_seconds)
    server = await asyncio.get_running_loop().create_server(
        listener, "127.0.0.1", port or free_port(), ssl=tls
    )
    return Site(listener, registry, server)


@asynccontextmanager
async def site(**options: Any) -> AsyncIterator[Site]:
    running = await start_site(**options)
    try:
        yield running
    finally:
        await running.stop()


async def connect(
    where: Site,
    services: Mapping[str, Upstream],
    *,
    token: str = "alice-token",
    name: str | None = None,
    direct: Address | None = None,
    offered: Sequence[str] | None = None,
    observed: list[Finished] | None = None,
    liveness: Liveness = AGENT_LIVENESS,
    tls: ssl.SSLContext | None = None,
    **hello: Any,
) -> AgentLink:
    """A link that has sent HELLO and may not have received its WELCOME yet. `offered`: the names in HELLO, if
    they are not those of `services`; `hello`: other members of it."""

    def make(websocket: WebSocket, loop: asyncio.AbstractEventLoop) -> AgentLink:
        observe = observed.append if observed is not None else (lambda finished: None)
        link = AgentLink(websocket, loop, services, observe, liveness)
        offers = tuple(handshake.Offer(service=service, direct=direct) for service in offered or services)
        link.send_hello(handshake.Hello(agent="test", name=name, services=offers, **hello).encode())
        return link

    return await dial(where.url, token, make, tls=tls)


@asynccontextmanager
async def tunnel(app: Upstream, **options: Any) -> AsyncIterator[tuple[Site, AgentLink]]:
    async with site() as where:
        link = await connect(where, {"foo": app}, **options)
        await link.welcome
        try:
            yield where, link
        finally:
            link.drain("leaving", "the test is over")
            link.close_with(DevrouteError("the test is over"))
            await link.disconnected


# --- apps and clients ---------------------------------------------------------------------------------------


def get(target: bytes = b"/", method: bytes = b"GET") -> RequestHead:
    return RequestHead(
        method, target, Framing.NONE, 0, method + b" " + target + b" HTTP/1.1\r\nhost: foo\r\n\r\n"
    )


def post(length: int) -> RequestHead:
    wire = b"POST / HTTP/1.1\r\nhost: foo\r\ncontent-length: %d\r\n\r\n" % length
    return RequestHead(b"POST", b"/", Framing.LENGTH, length, wire)


def head(status: int, length: int | None = None, method: bytes = b"GET") -> ResponseHead:
    size = b"" if length is None else b"content-length: %d\r\n" % length
    if status == 101:
        size = b"connection: upgrade\r\nupgrade: echo\r\n"
    return parse_response_head(b"HTTP/1.1 %d Whatever\r\n%b\r\n" % (status, size), method)


class Client:
    """A sink that records the response."""

    def __init__(self, *, keep: bool = True) -> None:
        self.heads: list[ResponseHead] = []
        self.hints: list[int] = []
        self.body = bytearray()
        self.size = 0
        self.trailers: Headers | None = None
        self.error: DevrouteError | None = None
        self.paused = False
        self.first = asyncio.Event()
        self.done = asyncio.Event()
        self._keep = keep

    def on_informational(self, head: ResponseHead) -> None:
        self.hints.append(head.status)

    def on_head(self, head: ResponseHead) -> None:
        assert not self.done.is_set()
        self.heads.append(head)
        self.first.set()

    def on_data(self, data: bytes) -> None:
        assert data
        assert not self.done.is_set()
        self.size += len(data)
        if self._keep:
            self.body += data

    def on_end(self, trailers: Headers) -> None:
        assert not self.done.is_set()
        self.trailers = trailers
        self.done.set()

    def on_error(self, error: DevrouteError) -> None:
        self.error = error
        self.first.set()
        self.done.set()

    def pause_request(self) -> None:
        assert not self.paused
        self.paused = True

    def resume_request(self) -> None:
        assert self.paused
        self.paused = False


async def response_to(upstream: Upstream, head: RequestHead, body: bytes = b"") -> Client:
    """The client of one request, once its response is complete or has failed."""
    client = Client()
    stream = upstream.open(head, client)
    if head.framing is not Framing.NONE:
        stream.send_data(body)
        stream.send_end([])
    await asyncio.wait_for(client.done.wait(), PATIENCE_S)
    return client


class AppStream:
    """One request as a hand-written app sees it."""

    def __init__(self, head: RequestHead, sink: ResponseSink) -> None:
        self.head = head
        self.sink = sink
        self.body = bytearray()
        self.ended = head.framing is Framing.NONE
        self.trailers: Headers = []
        self.cancelled = asyncio.Event()
        self.complete = asyncio.Event()
        self.paused = False

    def send_data(self, data: bytes) -> None:
        self.body += data

    def send_end(self, trailers: Headers) -> None:
        self.ended = True
        self.trailers = trailers
        self.complete.set()

    def cancel(self) -> None:
        self.cancelled.set()

    def pause_response(self) -> None:
        self.paused = True

    def resume_response(self) -> None:
        self.paused = False


class App:
    """Records the requests and passes each to `serve`, in the turn after it was opened."""

    def __init__(self, serve: Callable[[AppStream], None] | None = None) -> None:
        self.serve = serve
        self.streams: list[AppStream] = []
        self.opened = asyncio.Event()

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        stream = AppStream(head, sink)
        self.streams.append(stream)
        self.opened.set()
        if self.serve is not None:
            asyncio.get_running_loop().call_soon(self.serve, stream)
        return stream


def answer(body: bytes) -> Callable[[AppStream], None]:
    def serve(stream: AppStream) -> None:
        stream.sink.on_head(head(200, len(body)))
        stream.sink.on_data(body)
        stream.sink.on_end([])

    return serve


class Bulk(AppStream):
    """Sends `size` bytes without delay, in pieces of 64 KiB, and obeys backpressure."""

    PIECE = bytes(64 * 1024)

    def __init__(self, head_: RequestHead, sink: ResponseSink, size: int) -> None:
        super().__init__(head_, sink)
        self.left = size
        self._running = True
        self._loop = asyncio.get_running_loop()
        sink_head = head(200, size)
        self._loop.call_soon(lambda: (self.sink.on_head(sink_head), self._send()))

    def _send(self) -> None:
        if self.cancelled.is_set() or not self.left:
            return
        if self.paused:
            self._running = False
            return
        piece = self.PIECE[: self.left]
        self.left -= len(piece)
        self.sink.on_data(piece)
        if self.left:
            self._loop.call_soon(self._send)
        else:
            self.sink.on_end([])

    def resume_response(self) -> None:
        self.paused = False
        if not self._running:
            self._running = True
            self._loop.call_soon(self._send)


class BulkApp:
    """GET /<n> responds with n bytes."""

    def __init__(self) -> None:
        self.streams: list[Bulk] = []

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        stream = Bulk(head, sink, int(head.target[1:]))
        self.streams.append(stream)
        return stream
