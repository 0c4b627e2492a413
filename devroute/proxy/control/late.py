"""aiohttp's protocols at the control port, loaded for the first connection that needs one: people may never
ask, aiohttp is a third of a start, and sidecars are served without it (decisions 67 and 69).
"""

import asyncio
import importlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, cast

import structlog

from devroute.platforms import without_collections
from devroute.tasks import TaskOwner

if TYPE_CHECKING:
    from aiohttp.web import AppRunner

log = structlog.stdlib.get_logger("devroute.control")


class LateHttp:
    """A factory of protocols. The first one has the module of this name imported, in a thread; it has to have
    `connections(runner)`, and `make(module)` returns the runner. Those made meanwhile wait for it."""

    def __init__(self, module: str, make: Callable[[ModuleType], "AppRunner"]) -> None:
        self._module = module
        self._make = make
        self._runner: AppRunner | None = None
        self._connections: Callable[[], asyncio.BaseProtocol] | None = None
        self._loading = False
        self._waiting: set[_Waiting] = set()
        self._tasks = TaskOwner()

    def __call__(self) -> asyncio.BaseProtocol:
        if self._connections is not None:
            return self._connections()
        if not self._loading:
            self._loading = True
            self._tasks.start(self._load())
        return _Waiting(self._waiting)

    async def _load(self) -> None:
        try:
            module = await asyncio.to_thread(_import, self._module)
            self._runner = runner = self._make(module)
            await runner.setup()
            self._connections = connections = module.connections(runner)
        except Exception as error:  # the next client has it tried again
            log.error("control.not_loaded", module=self._module, exc_info=error)
            self._loading = False
            self._abort_waiting()
            return
        for each in list(self._waiting):
            each.replace_by(connections())

    def _abort_waiting(self) -> None:
        for each in list(self._waiting):
            each.transport.abort()

    async def close(self) -> None:
        await self._tasks.close()
        self._abort_waiting()
        if self._runner is not None:
            await self._runner.cleanup()


def _import(name: str) -> ModuleType:
    with without_collections():  # which would stop the loop
        return importlib.import_module(name)


class _Waiting(asyncio.Protocol):
    """A connection that is not read until there is a protocol for it."""

    def __init__(self, waiting: "set[_Waiting]") -> None:
        self._waiting = waiting
        self._read = b""
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connection_made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.pause_reading()
        self._waiting.add(self)

    def data_received(self, data: bytes) -> None:
        self._read += data

    def connection_lost(self, exc: Exception | None) -> None:
        self._waiting.discard(self)

    def replace_by(self, protocol: asyncio.BaseProtocol) -> None:
        self._waiting.discard(self)
        if self.transport.is_closing():
            return
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        cast(asyncio.Protocol, protocol).data_received(self._read)
        self.transport.resume_reading()
