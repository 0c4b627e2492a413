"""The control port over TLS, for laptops. Owns its sockets and the change to renewed certificates: a new
listener takes over the same sockets, so that no connection is refused and open tunnels go on.

Sidecars use the plain port, since the mesh encrypts their traffic; proxy/control/sidecars.py serves them
there only.
"""

import asyncio
import ssl
import time
from asyncio import sslproto
from collections.abc import Callable
from typing import Any, Final

import structlog

from devroute import descriptors
from devroute.auth.tls import ServerFiles
from devroute.errors import ConfigInvalid
from devroute.platforms import stop_listening
from devroute.tasks import TaskOwner

#: Seconds for a handshake, and for the peer's close_notify at the end.
HANDSHAKE_SECONDS: Final = 10.0
SHUTDOWN_SECONDS: Final = 5.0
#: Bytes of asyncio's receive buffer for each TLS connection, a record's worth (RFC 8446 §5.1): with its own
#: 256 KiB an idle tunnel costs 282 KiB, with this 38 KiB.
RECEIVE_BYTES: Final = 16 * 1024

log = structlog.stdlib.get_logger("devroute.tls")


class TlsListener:
    """`problem`: why changed files could not be loaded, else None."""

    def __init__(self, files: ServerFiles, protocol_factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self.problem: str | None = None
        self._confirmed = time.monotonic()
        self._files = files
        self._factory = protocol_factory
        self._stamp: object = None
        self._servers: list[asyncio.Server] = []
        self._tasks = TaskOwner()

    async def start(self, host: str, port: int, interval: float) -> int:
        """Listen, and check the files for changes every `interval` seconds. Returns the port. Raises
        ConfigInvalid."""
        sslproto.SSLProtocol.max_size = RECEIVE_BYTES  # there is no parameter for it
        self._stamp = self._files.stamp()
        context = self._files.context()
        try:
            self._servers = [await self._listen(context, host=host, port=port)]
        except OSError as error:
            raise ConfigInvalid(
                f"cannot listen on {host}:{port}: {error.strerror}", hint="is another proxy running?"
            ) from None
        self._tasks.start(self._watch(interval))
        return int(self._servers[0].sockets[0].getsockname()[1])

    @property
    def age_s(self) -> int:
        """Seconds since the files were last seen to contain what is in use."""
        return round(time.monotonic() - self._confirmed)

    async def close(self) -> None:
        """Accept no more connections; the open ones stay open."""
        await self._tasks.close()
        for server in self._servers:
            await stop_listening(server)

    async def _watch(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                stamp = self._files.stamp()
                if stamp != self._stamp:
                    context = self._files.context()
                    await self._replace(context)
                    self._stamp = stamp
                    log.info("tls.loaded", certificate=str(self._files.certificate))
                self.problem = None
                self._confirmed = time.monotonic()
            except (ConfigInvalid, OSError) as error:
                problem = error.message if isinstance(error, ConfigInvalid) else str(error)
                if problem != self.problem:
                    log.error("tls.rejected", problem=problem)
                self.problem = problem

    async def _replace(self, context: ssl.SSLContext) -> None:
        """Start a listener on duplicates of the same sockets, then close the old one: the kernel's queue of
        connections belongs to the sockets. Where that fails the old one stays. Raises OSError."""
        old, new = self._servers, list[asyncio.Server]()
        try:
            for each in [socket for server in old for socket in server.sockets]:
                new.append(await self._listen(context, sock=each.dup()))
        except OSError:
            old, new = new, old
            raise
        finally:
            self._servers = new
            for server in old:
                await stop_listening(server)

    async def _listen(self, context: ssl.SSLContext, **where: Any) -> asyncio.Server:
        return await asyncio.get_running_loop().create_server(
            self._factory,
            **where,
            backlog=descriptors.backlog(),
            ssl=context,
            ssl_handshake_timeout=HANDSHAKE_SECONDS,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS,
        )
