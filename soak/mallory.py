"""A hostile agent with a valid token: it breaks the protocol in its responses, floods the proxy, and dials
again. Its own clients may receive anything; no other client may be affected."""

import asyncio
import contextlib
import json
import random

import aiohttp

from devroute.errors import DevrouteError
from devroute.http.message import RequestHead
from devroute.mesh.istio.sidecar import Endpoint
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import dial
from devroute.tunnel.protocol import handshake
from devroute.tunnel.protocol.frames import CREDIT, HEADER, WINDOW, Flag, FrameType
from devroute.tunnel.protocol.websocket import WebSocket
from devroute.upstream.interface import ResponseSink, UpstreamStream

from .apps import POISON
from .ledger import Ledger

NAME = "mallory"
#: Seconds that a client waits for a response of mallory.
CALLER_S = 3.0

OK = b"HTTP/1.1 200 OK\r\nx-nonce: " + POISON.encode() + b"\r\n"
BODY = POISON.encode()
SWITCHING = b"HTTP/1.1 101 x\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"
POISONED = OK + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return HEADER.pack(kind, flags, stream, len(payload)) + payload


def _whole(stream: int) -> list[bytes]:
    head = OK + b"content-length: 6\r\n\r\n"
    return [frame(FrameType.HEAD, stream, head), frame(FrameType.DATA, stream, BODY, Flag.END)]


def mischief(stream: int) -> list[bytes]:
    """Hostile frames in response to a request on `stream`."""
    head, data = FrameType.HEAD, FrameType.DATA
    chunked = OK + b"transfer-encoding: chunked\r\n\r\n"
    return random.choice(
        (
            _whole(stream),
            _whole(stream) * 2,
            [frame(head, stream, POISONED)],
            [frame(head, stream, POISONED + b"\r\n\r\n")],
            [frame(head, stream, OK + b"content-length: 3\r\n\r\n"), frame(data, stream, BODY, Flag.END)],
            [frame(head, stream, OK + b"content-length: 30\r\n\r\n"), frame(data, stream, BODY, Flag.END)],
            [
                frame(
                    head, stream, b"HTTP/1.1 101 x\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", Flag.UPGRADE
                )
            ],
            [frame(head, stream, b"HTTP/1.1 103 x\r\n\r\n", Flag.INFORMATIONAL)] * 300,
            [frame(head, stream, b"not HTTP\r\n\r\n")],
            [frame(data, stream, BODY)],
            [frame(head, stream + 1000, OK + b"\r\n")],
            [frame(head, stream, chunked), *[frame(data, stream, bytes(WINDOW // 2))] * 5],
            [
                frame(head, stream, chunked),
                *[frame(data, stream, b"x")] * 30_000,
                frame(FrameType.END, stream),
            ],
            [frame(head, stream, chunked), frame(FrameType.TRAILERS, stream, b"content-length: 3\r\n")],
            [frame(FrameType.RESET, stream, b"no-such-code\n" + BODY + b"\n")],
            [frame(FrameType.CREDIT, stream, CREDIT.pack(2**32 - 1))],
            [frame(FrameType.PING, payload=b"x")] * 30_000,
            [frame(99, stream)],
            [frame(FrameType.OPEN, stream, b"x")],
            [],
        )
    )


class _Upstream:
    """Writes frames on the connection that the link's session would not send."""

    def __init__(self) -> None:
        self.link: AgentLink | None = None
        self.websocket: WebSocket

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        link = self.link
        if link is not None and not link.transport.is_closing():
            stream = sink.stream.id  # type: ignore[attr-defined]  # it is a ServedStream
            pieces = mischief(stream)
            asyncio.get_running_loop().call_soon(lambda: _send(link, self.websocket, pieces))
        return _Deaf()


def _send(link: AgentLink, websocket: WebSocket, pieces: list[bytes]) -> None:
    if pieces and not link.transport.is_closing():
        link.transport.write(websocket.encode(pieces))


class _Deaf:
    def send_data(self, data: bytes) -> None: ...
    def send_end(self, trailers: object) -> None: ...
    def cancel(self) -> None: ...
    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...


async def live(ledger: Ledger, server: str, secret: str) -> None:
    while True:
        upstream = _Upstream()

        def make(
            websocket: WebSocket, loop: asyncio.AbstractEventLoop, upstream: _Upstream = upstream
        ) -> AgentLink:
            link = AgentLink(websocket, loop, {"foo": upstream}, lambda finished: None)
            upstream.websocket = websocket
            message = handshake.Hello(agent="mallory", services=(handshake.Offer(service="foo"),))
            link.send_hello(message.encode())
            return link

        try:
            link = await dial(server, secret, make)
        except DevrouteError as error:
            ledger.expect(False, "mallory's tunnel is taken", lambda error=error: error.message)  # type: ignore[misc]
            await asyncio.sleep(1)
            continue
        upstream.link = link
        await asyncio.shield(link.disconnected)
        ledger.fine("(mallory's tunnels cut off)")
        await asyncio.sleep(0.1)


async def call(ledger: Ledger, session: aiohttp.ClientSession, entry: Endpoint) -> None:
    """Its clients: they accept any response, and send requests until the end."""
    url = f"http://{entry.host}:{entry.port}/mallory"
    headers = {"x-devroute": json.dumps({"foo": NAME}), "host": "foo"}
    while True:
        what = "cut off"
        with contextlib.suppress(aiohttp.ClientError, ConnectionError, TimeoutError):
            async with (
                asyncio.timeout(CALLER_S),
                session.post(url, headers=headers, data=b"x" * 10) as response,
            ):
                what = "cut off in its response"
                await response.read()
                what = response.headers.get("x-devroute-result", "no result")
        ledger.fine(f"(mallory's callers: {what})")
        await asyncio.sleep(random.uniform(0, 0.2))
