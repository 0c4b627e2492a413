"""One request after the other on each connection: python -m ha.closed_loop HOST PORT CONNECTIONS SECONDS
NAME=VALUE... Prints {"requests", "seconds", "p50", "wrong"} as JSON; p50 in seconds.
"""

import asyncio
import json
import sys
import time

from ha.ledger import quantile


class Client(asyncio.Protocol):
    """Expects a response with content-length to the same request again and again."""

    def __init__(self, request: bytes, until: float) -> None:
        self.took: list[float] = []
        self.wrong = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._until = until
        self._received = b""
        self._sent = 0.0
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
        if len(body) < length:
            return
        now = time.perf_counter()
        self.took.append(now - self._sent)
        self.wrong += not head.startswith(b"HTTP/1.1 200")
        self._received = b""
        if now < self._until:
            self._send()
        else:
            assert self._transport is not None
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.wrong += time.perf_counter() < self._until
        if not self.done.done():
            self.done.set_result(None)


async def run(host: str, port: int, connections: int, seconds: float, fields: list[str]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, _, value in (each.partition("=") for each in fields))
    request = f"GET / HTTP/1.1\r\nhost: foo\r\n{lines}\r\n".encode()
    began = time.perf_counter()
    loop = asyncio.get_running_loop()
    clients = [Client(request, began + seconds) for _ in range(connections)]
    for each in clients:
        await loop.create_connection(lambda each=each: each, host, port)  # type: ignore[misc]
    await asyncio.gather(*(each.done for each in clients))
    took = [value for each in clients for value in each.took]
    found = {
        "requests": len(took),
        "seconds": time.perf_counter() - began,
        "p50": quantile(took, 0.5),
        "wrong": sum(each.wrong for each in clients),
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5:]))
