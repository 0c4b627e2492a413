"""A Service of Kubernetes, in front of replicas."""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.relay import relay


class Balancer:
    """Each connection goes to the next of `ports`."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.url = ""
        self.open = Counter[int]()  # connections by port
        self._turns = itertools.count()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        port = self.ports[next(self._turns) % len(self.ports)]
        self.open[port] += 1
        try:
            await relay(reader, writer, "127.0.0.1", port)
        except OSError:
            writer.transport.abort()
        finally:
            self.open[port] -= 1


@asynccontextmanager
async def balancer() -> AsyncIterator[tuple[Balancer, str]]:
    service = Balancer()
    async with await asyncio.start_server(service.serve, "127.0.0.1", 0) as server:
        service.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        yield service, service.url
