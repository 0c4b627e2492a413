"""The control port's connections until their first head is read: upgrades of GET /tunnel become links, what
sidecars ask goes to ports/connection.py, everything else to aiohttp, which then has the connection for good.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, cast

import structlog

from devroute import descriptors
from devroute.errors import DevrouteError, HeadTooLarge, OriginDenied, RequestTimeout
from devroute.http.error_response import http1_error
from devroute.http.http1.request import check_partial_head
from devroute.proxy.control.control import PORT
from devroute.proxy.control.tunnels import Tunnels
from devroute.proxy.ports.connection import Port
from devroute.proxy.ports.heads import path_of
from devroute.proxy.ports.limits import HEAD_SECONDS, MAX_HTTP_HEAD
from devroute.proxy.ports.routes import Routes
from devroute.tasks import TaskOwner
from devroute.token_bucket import TokenBucket
from devroute.tunnel.protocol.websocket import HeadLines, accept_upgrade, split_head

#: Bytes of an upgrade's head: a token, and what ingresses add.
MAX_HEAD: Final = 16 * 1024

#: Wrong tokens that are logged at once, and more a second: a flood of them must not fill the disk. The audit
#: trail counts those that it leaves out.
LOGGED_BURST: Final = 100
LOGGED_PER_SECOND: Final = 10

_PATHS: Final = (b"GET /tunnel ", b"GET /tunnel?")
_LONGEST: Final = max(map(len, _PATHS))

log = structlog.stdlib.get_logger("devroute.tunnel")


@dataclass(kw_only=True, eq=False)
class ControlListener:
    """The factory of the port's protocols, and what they share. `http()` makes aiohttp's protocol; `routes`
    are served without it."""

    http: Callable[[], asyncio.BaseProtocol]
    tunnels: Tunnels
    routes: Routes = field(default_factory=lambda: Routes(PORT))
    head_seconds: float = HEAD_SECONDS

    def __post_init__(self) -> None:
        self.port = Port(self.routes, self.http)
        self.waiting: set[FirstHead] = set()
        self.tasks = TaskOwner()
        self.log_allowance = TokenBucket(LOGGED_BURST, LOGGED_PER_SECOND, asyncio.get_running_loop().time())

    def __call__(self) -> "FirstHead":
        return FirstHead(self, asyncio.get_running_loop())

    async def close(self) -> None:
        """Abort the connections whose first head is not complete; close sidecars' ones, and all tunnels."""
        for connection in list(self.waiting):
            connection.transport.abort()
        await self.tasks.close()
        await self.port.close()
        await self.tunnels.close()

    def tick(self, now: float) -> None:
        """Enforce timeouts; to be called about once a second."""
        self.port.tick(now)


class FirstHead(asyncio.Protocol):
    """A new connection, until it is known what it is for."""

    def __init__(self, listener: ControlListener, loop: asyncio.AbstractEventLoop) -> None:
        self._listener = listener
        self._loop = loop
        self._read = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._admission: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connection_made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._listener.waiting.add(self)
        if descriptors.are_scarce():
            self.transport.abort()
            return
        self._deadline = self._loop.call_later(self._listener.head_seconds, self._timed_out)

    def connection_lost(self, exc: Exception | None) -> None:
        self._release()
        if self._admission is not None:
            self._admission.cancel()

    def _release(self) -> None:
        self._listener.waiting.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        read = self._read = self._read + data
        if self._admission is not None:
            return
        for_tunnel = any(read.startswith(path) or path.startswith(read[:_LONGEST]) for path in _PATHS)
        most = MAX_HEAD if for_tunnel else MAX_HTTP_HEAD
        end = read.find(b"\r\n\r\n") + 4
        try:
            if end < 4 or end > most:
                if len(read) > most:
                    raise HeadTooLarge(f"the request's head is longer than {most} bytes")
                if not for_tunnel:
                    check_partial_head(read)
                return
            if not for_tunnel:
                self._pass_on(read, end)
                return
            head = split_head(read[:end])
            response = accept_upgrade(head, self._listener.tunnels.upgrade_fields)
        except DevrouteError as error:
            self._refuse(error)
            return
        self.transport.pause_reading()  # HELLO may have arrived already; it is read once there is a link
        self._read = read[end:]
        self._admission = self._listener.tasks.start(self._admit(head, response))

    async def _admit(self, head: HeadLines, response: bytes) -> None:
        """Upgrade if the token or certificate is valid. Cancelled with the connection, and by the
        deadline."""
        listener = self._listener
        authorization = head.fields.get(b"authorization", b"").decode("latin-1")
        try:
            # Browsers send it with each upgrade, for any site, and a client certificate by themselves.
            if b"origin" in head.fields:
                raise OriginDenied("a browser may not open a tunnel", hint="register with devroute up")
            certificate = self.transport.get_extra_info("peercert")
            identity = await listener.tunnels.authenticate(authorization, certificate)
        except DevrouteError as error:
            if listener.log_allowance.spend(self._loop.time()):
                log.warning("laptop.refused", code=error.code, reason=error.message)
            listener.tunnels.record_refusal(error, None, self.transport)
            self._refuse(error)
            return
        if self.transport.is_closing():
            return
        self.transport.write(response)
        link = listener.tunnels.create_link(identity, self._loop)
        self._hand_over(link, b"")
        self.transport.resume_reading()
        link.feed(self._read)

    def _pass_on(self, read: bytes, end: int) -> None:
        """To a server of HTTP. Raises RequestMalformed: aiohttp is not loaded for what is no request."""
        port = self._listener.port
        if path_of(read) in port.routes:
            self._release()
            port.accept().adopt(self.transport, read)
            return
        check_partial_head(read[:end].lstrip(b"\r\n"))
        self._hand_over(self._listener.http(), read)

    def _hand_over(self, protocol: asyncio.BaseProtocol, read: bytes) -> None:
        self._release()
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if read:
            cast(asyncio.Protocol, protocol).data_received(read)

    def _timed_out(self) -> None:
        if self._admission is not None:
            self._admission.cancel()
        self._refuse(RequestTimeout(f"no request within {self._listener.head_seconds:g} s"))

    def _refuse(self, error: DevrouteError) -> None:
        if self.transport.is_closing():  # refused before, and the client keeps it open
            return
        # asyncio's transport of TLS does not close while its reading is paused and its peer has ended.
        self.transport.resume_reading()
        self.transport.write(http1_error(error, close=True))
        self.transport.close()
