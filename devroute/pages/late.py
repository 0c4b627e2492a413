"""A server of aiohttp's that is loaded when its first client connects: it may never be asked, and aiohttp
takes 13 MiB, and longer to import than anything else of `devroute up`. That client waits for it, and so do
those that connect meanwhile.
"""

import asyncio
import contextlib
import importlib
import socket
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from devroute.platforms import freeze_heap
from devroute.tasks import TaskOwner

if TYPE_CHECKING:
    from aiohttp.web import AppRunner

_IP = (socket.AF_INET, socket.AF_INET6)


class LateServer:
    """Serves on `listening`, a socket that listens and does not block, with the application that
    `make(module)` returns once the module of this name is imported; it is set up here. Owns socket and
    application."""

    def __init__(
        self, listening: socket.socket, module: str, make: Callable[[ModuleType], "AppRunner"]
    ) -> None:
        self._listening = listening
        self._module = module
        self._make = make
        self._runner: AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._tasks = TaskOwner()

    def start(self) -> None:
        """Wait for the first client, and serve it."""
        self._tasks.start(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        first: socket.socket | None = None
        with contextlib.suppress(OSError):  # out of descriptors: a server tries again
            first, _ = await loop.sock_accept(self._listening)
        try:
            module = await asyncio.to_thread(importlib.import_module, self._module)
            self._runner = runner = self._make(module)
            await runner.setup()
            server = runner.server
            assert server is not None
            if first is not None:
                accepted, first = first, None
                await loop.connect_accepted_socket(server, accepted)
        finally:
            if first is not None:
                first.close()
        create = loop.create_server if self._listening.family in _IP else loop.create_unix_server
        self._server = await create(server, sock=self._listening)
        freeze_heap()

    async def close(self) -> None:
        await self._tasks.close()
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()
        self._listening.close()
