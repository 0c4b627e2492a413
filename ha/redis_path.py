"""The network between the replicas and Redis, which can be cut: what is sent meanwhile arrives afterwards, as
TCP has it, and no connection ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from devroute.tasks import TaskOwner


class RedisPath:
    """`port`: of loopback, for the replicas."""

    def __init__(self, socket: str) -> None:
        self.port = 0
        self._socket = socket
        self._open = asyncio.Event()
        self._open.set()
        self._tasks = TaskOwner()

    def cut(self) -> None:
        self._open.clear()

    def mend(self) -> None:
        self._open.set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["RedisPath"]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            await self._tasks.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._open.wait()
            there, onward = await asyncio.open_unix_connection(self._socket)
        except OSError:  # there is no Redis
            writer.transport.abort()
            return
        ways = self._tasks.start(self._copy(reader, onward)), self._tasks.start(self._copy(there, writer))
        await asyncio.wait(ways)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    await self._open.wait()
                    writer.write(data)
                    await writer.drain()
        finally:
            writer.close()
