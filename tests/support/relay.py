"""A relay of connections, for tests that put something between two processes, and networks that fail."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from tests.support.ports import free_port

#: A host and a port, or the path of a Unix socket.
Target = tuple[str, int] | str
#: What becomes of the bytes of one read.
Change = Callable[[bytes], Awaitable[bytes]]


async def unchanged(data: bytes) -> bytes:
    return data


async def relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    target: Target,
    change: Change = unchanged,
) -> None:
    """Connect a client to a server, until both directions have ended. Raises OSError if the server cannot be
    reached."""
    if isinstance(target, str):
        there, onward = await asyncio.open_unix_connection(target)
    else:
        there, onward = await asyncio.open_connection(*target)
    await asyncio.gather(_copy(reader, onward, change), _copy(there, writer, change))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Change) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(await change(data))
            await writer.drain()
    writer.close()


@asynccontextmanager
async def distant(target: Target, round_trip: float) -> AsyncIterator[int]:
    """A port that leads to a server over a network with this round trip, in seconds, and no other limit."""
    loop = asyncio.get_running_loop()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, onward = await asyncio.open_connection(*target)
        await asyncio.gather(_copy_late(reader, onward), _copy_late(there, writer))

    async def _copy_late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(262144):
                loop.call_later(round_trip / 2, writer.write, data)
        loop.call_later(round_trip / 2, writer.close)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


class Wire:
    """A port that leads to `targets`, each connection to the next one, as a Service of Kubernetes, unless it
    is cut. `open` counts the connections to each, `accepted` all that there ever were."""

    def __init__(self, host: str, port: int, *targets: Target) -> None:
        self.targets = list(targets)
        self.open = Counter[Target]()
        self.accepted = 0
        self.host, self.port = host, port
        self._flows = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    async def heal(self) -> None:
        """What was held goes on; what was refused is accepted again."""
        self._flows.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, self.host, self.port)

    def silence(self) -> None:
        """No byte arrives any more, and no connection ends: packets are lost."""
        self._flows.clear()

    async def refuse(self) -> None:
        """All connections end, and new ones are refused."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for each in self._connections:
            each.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        target = self.targets[self.accepted % len(self.targets)]
        self.accepted += 1
        self._connections.add(task)
        self.open[target] += 1
        try:
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await relay(reader, writer, target, self._held)
        finally:
            self._connections.discard(task)
            self.open[target] -= 1
            writer.transport.abort()

    async def _held(self, data: bytes) -> bytes:
        await self._flows.wait()
        return data


@asynccontextmanager
async def wire(*targets: Target, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Wire]:
    """`port`: 0 for one of its own, which the kernel gives to no other test."""
    made = Wire(host, port or free_port(), *targets)
    await made.heal()
    try:
        yield made
    finally:
        await made.refuse()
