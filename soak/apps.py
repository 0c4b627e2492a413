"""The apps behind sidecar and laptops. A response names its app and its request, so that a mix-up shows."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import WSMsgType, web

from devroute.mesh import testbed
from devroute.mesh.istio.sidecar import Endpoint

#: A text that must reach no client but the poisoned app's own.
POISON = "POISON"

#: Pieces of a slow response.
SLOW_PIECES = 5


def body_of(nonce: str, who: str, size: int) -> bytes:
    """A body of which each part names its request and its app."""
    unit = f"{nonce}/{who};".encode()
    return (unit * (size // len(unit) + 1))[:size]


@asynccontextmanager
async def honest(who: str) -> AsyncIterator[Endpoint]:
    """An app that responds to /NONCE?size=N: at once or slowly, to any method, or as a WebSocket."""

    async def answer(request: web.Request) -> web.StreamResponse:
        nonce = request.path[1:]
        headers = {"x-nonce": nonce, "x-who": who}
        if request.headers.get("upgrade") == "websocket":
            return await chat(request, nonce)
        if request.can_read_body:
            sent = await request.read()
            headers["x-body"] = "whole" if sent == body_of(nonce, "client", len(sent)) else "wrong"
        body = body_of(nonce, who, int(request.query.get("size", "0")))
        if "slow" not in request.query:
            return web.Response(body=body, headers=headers)
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        step = len(body) // SLOW_PIECES + 1
        for at in range(0, len(body), step):
            await response.write(body[at : at + step])
            await asyncio.sleep(random.uniform(0, 0.1))
        return response

    async def chat(request: web.Request, nonce: str) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(f"{who} {nonce} {message.data}")
        return socket

    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{nonce}", answer)
    async with testbed.app(app) as at:
        yield at


@asynccontextmanager
async def poisonous(who: str) -> AsyncIterator[Endpoint]:
    """An app that sends unrequested responses on its kept connections, between two others."""
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                nonce = head.split(b" ")[1][1:].partition(b"?")[0].decode()
                writer.write(response(nonce, who))
                if random.random() < 0.5:
                    await asyncio.sleep(random.choice((0, 0, 0.001, 0.01)))
                    writer.write(response(POISON, who))
        writers.discard(writer)
        writer.close()

    def response(nonce: str, name: str) -> bytes:
        body = body_of(nonce, name, 64)
        head = f"HTTP/1.1 200 OK\r\nx-nonce: {nonce}\r\nx-who: {name}\r\ncontent-length: {len(body)}\r\n\r\n"
        return head.encode() + body

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield Endpoint(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
