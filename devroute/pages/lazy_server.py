"""Servers of aiohttp that are loaded when their first client connects: people may never ask, and the import
of aiohttp takes 13 MiB and a third of a start (decisions 67 and 69).
"""

import asyncio
import socket
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, cast

from devroute.platforms import stop_listening
from devroute.tasks import TaskOwner, import_in_thread

if TYPE_CHECKING:
    from aiohttp.web import AppRunner

_IP = (socket.AF_INET, socket.AF_INET6)

#: What makes the protocol of a connection.
Factory = Callable[[], asyncio.BaseProtocol]


def _those_of(module: ModuleType, runner: "AppRunner") -> Factory:
    server = runner.server
    assert server is not None
    return server


class LazyProtocols:
    """A factory of protocols. The first connection has the module of this name imported, in a thread;
    `make(module)` returns the runner of its application, which is set up here, and
    `protocols(module, runner)` what makes its protocols. Connections made meanwhile wait for it. Where the
    import fails they are reset, and the next one has it tried again."""

    def __init__(
        self,
        module: str,
        make: Callable[[ModuleType], "AppRunner"],
        protocols: Callable[[ModuleType, "AppRunner"], Factory] = _those_of,
    ) -> None:
        self._module = module
        self._make = make
        self._find_protocols = protocols
        self._runner: AppRunner | None = None
        self._protocols: Factory | None = None
        self._loading = False
        self._waiting: set[_Waiting] = set()
        self._tasks = TaskOwner()

    def __call__(self) -> asyncio.BaseProtocol:
        return _Waiting(self) if self._protocols is None else self._protocols()

    def connected(self, connection: "_Waiting") -> None:
        """Serve it, at once or when there is a protocol for it."""
        if self._protocols is not None:
            connection.replace_by(self._protocols())
            return
        connection.transport.pause_reading()
        self._waiting.add(connection)
        if not self._loading:
            self._loading = True
            self._tasks.start(self._load())

    def disconnected(self, connection: "_Waiting") -> None:
        self._waiting.discard(connection)

    async def _load(self) -> None:
        try:
            module = await import_in_thread(self._module)
            runner = self._make(module)
            await runner.setup()
            self._protocols = protocols = self._find_protocols(module, runner)
            self._runner = runner
        except Exception as error:  # noqa: BLE001  # an import may raise anything
            report = {"message": f"{self._module} cannot be loaded", "exception": error}
            asyncio.get_running_loop().call_exception_handler(report)
            self._loading = False
            self._abort_waiting()
            return
        waiting, self._waiting = self._waiting, set()
        for each in waiting:
            each.replace_by(protocols())

    def _abort_waiting(self) -> None:
        for each in list(self._waiting):
            each.transport.abort()

    async def close(self) -> None:
        await self._tasks.close()
        self._abort_waiting()
        if self._runner is not None:
            await self._runner.cleanup()


class _Waiting(asyncio.Protocol):
    """A connection that is not read until there is a protocol for it."""

    def __init__(self, lazy: LazyProtocols) -> None:
        self._lazy = lazy
        self._read = b""
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connection_made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._lazy.connected(self)

    def data_received(self, data: bytes) -> None:
        self._read += data
        # Again, see http/aio/paused_connection.py.
        self.transport.resume_reading()
        self.transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lazy.disconnected(self)

    def replace_by(self, protocol: asyncio.BaseProtocol) -> None:
        if self.transport.is_closing():
            return
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        self.transport.resume_reading()  # before the data, at which the protocol may pause it
        if self._read:
            cast(asyncio.Protocol, protocol).data_received(self._read)


class LazyServer:
    """Serves `listening`, a socket that listens and does not block, by LazyProtocols of this module. Owns
    both."""

    def __init__(
        self, listening: socket.socket, module: str, make: Callable[[ModuleType], "AppRunner"]
    ) -> None:
        self._listening = listening
        self._protocols = LazyProtocols(module, make)
        self._server: asyncio.Server | None = None
        self._tasks = TaskOwner()

    def start(self) -> None:
        """Wait for clients."""
        self._tasks.start(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        create = loop.create_server if self._listening.family in _IP else loop.create_unix_server
        self._server = await create(self._protocols, sock=self._listening)

    async def close(self) -> None:
        await self._tasks.close()
        if self._server is not None:
            await stop_listening(self._server)
        await self._protocols.close()
        self._listening.close()
