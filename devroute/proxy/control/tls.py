"""The control port once more, over TLS, for laptops. Owns its sockets, and the change to newer certificates:
a new listener takes over the same socket, so that nobody is refused, and tunnels that are up go on.

Sidecars use the plain port, since the mesh encrypts what they send; so this one answers laptops only
(proxy/control/api.py tells them apart).
"""

import asyncio
import contextlib
import ssl
from asyncio import sslproto
from collections.abc import Callable
from typing import Any, Final

import structlog

from devroute.auth.tls import ServerFiles
from devroute.errors import ConfigInvalid

#: Seconds for a handshake, and for the peer's word at the end of a connection.
HANDSHAKE_SECONDS: Final = 10.0
SHUTDOWN_SECONDS: Final = 5.0
BACKLOG: Final = 1024
#: Bytes of asyncio's receive buffer for each TLS connection, a record's worth (RFC 8446 §5.1): with its own
#: 256 KiB an idle tunnel costs 282 KiB, with this 38 KiB.
RECEIVE_BYTES: Final = 16 * 1024

log = structlog.stdlib.get_logger("devroute.tls")


class TlsListener:
    """`problem` says why newer files are not in force."""

    def __init__(self, files: ServerFiles, protocol_factory: Callable[[], asyncio.BaseProtocol]) -> None:
        self.problem: str | None = None
        self._files = files
        self._factory = protocol_factory
        self._stamp: object = None
        self._servers: list[asyncio.Server] = []
        self._watch: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int, interval: float) -> int:
        """Listen, and look at the files each `interval` seconds. Returns the port. Raises ConfigInvalid."""
        sslproto.SSLProtocol.max_size = RECEIVE_BYTES  # an attribute of its class for want of a parameter
        self._stamp = self._files.stamp()
        context = self._files.context()
        loop = asyncio.get_running_loop()
        try:
            self._servers = [
                await loop.create_server(self._factory, host, port, backlog=BACKLOG, **_tls(context))
            ]
        except OSError as error:
            raise ConfigInvalid(
                f"cannot listen on {host}:{port}: {error.strerror}", hint="is another proxy running?"
            ) from None
        self._watch = loop.create_task(self._look(interval))
        return int(self._servers[0].sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Take no new connections; those that are up are their protocols' affair."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        for server in self._servers:
            server.close()

    async def _look(self, interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                stamp = self._files.stamp()
                if stamp != self._stamp:
                    context = self._files.context()
                    await self._change(context)
                    self._stamp = stamp
                    log.info("tls.loaded", certificate=str(self._files.certificate))
                self.problem = None
            except (ConfigInvalid, OSError) as error:
                problem = error.message if isinstance(error, ConfigInvalid) else str(error)
                if problem != self.problem:
                    log.error("tls.rejected", problem=problem)
                self.problem = problem

    async def _change(self, context: ssl.SSLContext) -> None:
        """Another listener on the same sockets, then the old one goes: the kernel's queue of connections is
        that of the sockets."""
        loop = asyncio.get_running_loop()
        old, self._servers = self._servers, []
        for server in old:
            for each in server.sockets:
                self._servers.append(
                    await loop.create_server(self._factory, sock=each.dup(), backlog=BACKLOG, **_tls(context))
                )
            server.close()


def _tls(context: ssl.SSLContext) -> dict[str, Any]:
    return {
        "ssl": context,
        "ssl_handshake_timeout": HANDSHAKE_SECONDS,
        "ssl_shutdown_timeout": SHUTDOWN_SECONDS,
    }
