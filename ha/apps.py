"""The apps of the laptops, small enough to run hundreds of them: each responds with its laptop's name and the
request's nonce."""

import asyncio
from functools import partial
from urllib.parse import parse_qs, urlsplit

RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n%b"


class App(asyncio.Protocol):
    """GET /NONCE, or /NONCE?wait=SECONDS, on kept connections; `size`: of bodies that say nothing instead."""

    def __init__(self, name: str, size: int = 0) -> None:
        self._name = name
        self._constant = RESPONSE % (size, b"x" * size) if size else b""
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            head, self._received = self._received[:end], self._received[end + 4 :]
            if self._constant:
                self._send(self._constant)
            else:
                self._respond(head.split(b" ", 2)[1].decode("latin-1"))

    def _respond(self, target: str) -> None:
        url = urlsplit(target)
        body = f"{self._name} {url.path[1:]}".encode()
        response = RESPONSE % (len(body), body)
        if (wait := parse_qs(url.query).get("wait")) is None:
            self._send(response)
        else:  # the agent sends nothing else on this connection meanwhile
            asyncio.get_running_loop().call_later(float(wait[0]), self._send, response)

    def _send(self, response: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(response)


async def serve(name: str, size: int = 0) -> asyncio.Server:
    """On a port of loopback that the kernel chooses."""
    return await asyncio.get_running_loop().create_server(partial(App, name, size), "127.0.0.1", 0)


def port_of(server: asyncio.Server) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port
