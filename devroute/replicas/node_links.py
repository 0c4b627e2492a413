"""The links between replicas: each dials every other one, and offers it the laptops whose links end here.

Both prove by TLS that they have the key of the certificate in their record. When the link of a replica ends,
its peer port is dialled: if that refuses, the replica has ended, and its laptops are gone before its key in
Redis expires. (Not the data port: there a sidecar accepts connections, whether the replica runs or not.)
"""

import asyncio
import os
import random
import ssl
from collections.abc import Callable, Mapping
from typing import Final, cast

import structlog

from devroute import descriptors
from devroute.errors import ConfigInvalid, DevrouteError, UpstreamReset
from devroute.platforms import stop_listening
from devroute.replicas.certificate import Certificate, trust
from devroute.replicas.local_laptops import LocalLaptops, Questions
from devroute.replicas.node import ASKED, FORWARDED, Node
from devroute.replicas.peers import Answer
from devroute.replicas.record import split_place
from devroute.tasks import TaskOwner
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import dial
from devroute.tunnel.liveness import Liveness
from devroute.tunnel.protocol.websocket import WebSocket, accept_upgrade, split_head
from devroute.tunnel.proxy_link import ProxyLink
from devroute.tunnel.served_stream import Finished
from devroute.upstream.interface import Upstream

#: A replica that is frozen is noticed within seconds; there are few, so pings cost nothing.
LIVENESS: Final = Liveness(ping_after=1.0, dead_after=3.0)
#: Seconds to dial another replica, and for the first bytes of one that has dialled.
DIAL_SECONDS: Final = 2.0
#: Seconds before the second attempt, and the longest before a later one.
FIRST_PAUSE: Final = 0.05
LAST_PAUSE: Final = 2.0
#: Seconds before each attempt to learn that a peer port refuses: a process that is killed closes its sockets
#: one after the other.
PROBE_PAUSES: Final = (0.0, 0.1, 0.3, 1.0, 2.0)
#: Bytes of an upgrade's head; ours have 200.
MAX_HEAD: Final = 4096

log = structlog.stdlib.get_logger("devroute.replicas")


class NodeLinks:
    """`ended(node)` is called when a replica's peer port is found to refuse connections, `linked(node)` when
    one has dialled."""

    def __init__(
        self,
        certificate: Certificate,
        laptops: LocalLaptops,
        answers: Mapping[bytes, Answer],
        ended: Callable[[Node], None],
        linked: Callable[[Node], None],
    ) -> None:
        self._certificate = certificate
        self._services: dict[str, Upstream] = {FORWARDED: laptops, ASKED: Questions(laptops, answers)}
        self._ended = ended
        self._linked = linked
        self._nodes: dict[bytes, Node] = {}  # by certificate
        self._dialling: dict[bytes, asyncio.Task[None]] = {}
        self.links: set[ProxyLink | AgentLink] = set()
        self.tasks = TaskOwner()
        self._context = certificate.server()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.get_running_loop()

    async def listen(self, host: str, port: int) -> int:
        """Returns the port. Raises ConfigInvalid."""
        try:
            server = self._server = await self._loop.create_server(
                lambda: _Accepted(self, self._loop),
                host,
                port,
                ssl=self._context,
                ssl_handshake_timeout=DIAL_SECONDS,
            )
        except OSError as error:
            raise ConfigInvalid(
                f"cannot listen on {host}:{port}: {error.strerror}", hint="is another proxy running?"
            ) from None
        return int(server.sockets[0].getsockname()[1])

    async def stop_listening(self) -> None:
        if self._server is not None:
            await stop_listening(self._server)

    async def close(self) -> None:
        await self.stop_listening()
        await self.tasks.close()
        links = list(self.links)
        for link in links:
            link.close_with(UpstreamReset("the replica is stopping"))
        for link in links:
            await link.disconnected

    # --- the other replicas

    def add(self, node: Node) -> None:
        """Trust a replica, and dial it until it is removed. Raises ValueError for what is no certificate, or
        that of another replica, whose links would count as this one's."""
        certificate = node.record.certificate
        if certificate in self._nodes or certificate == self._certificate.der:
            raise ValueError("the certificate of another replica")
        context = self._certificate.client(certificate)
        trust(self._context, certificate)
        self._nodes[certificate] = node
        self._dialling[certificate] = self.tasks.start(self._keep_dialled(node, context))

    def remove(self, node: Node) -> None:
        certificate = node.record.certificate
        if self._nodes.get(certificate) is node:
            del self._nodes[certificate]
            self._dialling.pop(certificate).cancel()
        link, node.link = node.link, None
        if link is not None:
            link.close_with(UpstreamReset("the replica has ended"))

    async def _keep_dialled(self, node: Node, context: ssl.SSLContext) -> None:
        pause = FIRST_PAUSE
        while True:
            began = self._loop.time()
            try:
                link = await dial(
                    f"https://{node.record.peer}", "", self.make_link, tls=context, seconds=DIAL_SECONDS
                )
            except DevrouteError as error:
                log.debug("replica.not_dialled", replica=node.record.id, reason=error.message)
            else:
                self.links.add(link)
                try:
                    await asyncio.shield(link.disconnected)
                finally:
                    if link.closed:
                        self.links.discard(link)
            if self._loop.time() - began > LAST_PAUSE:
                pause = FIRST_PAUSE
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(2 * pause, LAST_PAUSE)

    def make_link(self, websocket: WebSocket, loop: asyncio.AbstractEventLoop) -> AgentLink:
        link = AgentLink(websocket, loop, self._services, _ignore, LIVENESS)
        link.send_hello(b"{}")
        return link

    # --- the links that others have dialled

    def node_of(self, certificate: bytes | None) -> Node | None:
        return None if certificate is None else self._nodes.get(certificate)

    def accept(self, node: Node, transport: asyncio.Transport, read: bytes) -> None:
        """The connection of another replica has become a link."""
        link = ProxyLink(
            WebSocket(client=False, random=os.urandom),
            self._loop,
            lambda link, body: self._greeted(node, link),
            lambda link: self._gone(node, link),
            lambda link, token: link.send_renewed(b"{}"),
            LIVENESS,
            "replica that has the laptop",
        )
        self.links.add(link)
        transport.set_protocol(link)
        link.connection_made(transport)
        link.feed(read)

    def _greeted(self, node: Node, link: ProxyLink) -> None:
        link.send_welcome(b"{}")
        before, node.link = node.link, link
        if before is not None:
            before.close_with(UpstreamReset("the replica has dialled again"))
        self._linked(node)

    def _gone(self, node: Node, link: ProxyLink) -> None:
        self.links.discard(link)
        if node.link is link:
            node.link = None
            if self.node_of(node.record.certificate) is node:
                self.tasks.start(self._find_out(node))

    async def _find_out(self, node: Node) -> None:
        """Whether a replica whose link has ended has ended itself."""
        host, port = split_place(node.record.peer)
        for pause in PROBE_PAUSES:
            await asyncio.sleep(pause)
            if node.link is not None or self.node_of(node.record.certificate) is not node:
                return
            try:
                async with asyncio.timeout(DIAL_SECONDS):
                    transport, _ = await self._loop.create_connection(asyncio.Protocol, host, port)
            except ConnectionRefusedError:
                self._ended(node)
                return
            except (OSError, TimeoutError):
                continue
            transport.abort()


def _ignore(finished: Finished) -> None:
    """The replica that forwards a request writes its line of the log."""


class _Accepted(asyncio.Protocol):
    """A connection of another replica, until its upgrade is complete. TLS lets in known replicas only, of
    which some may have ended."""

    def __init__(self, links: NodeLinks, loop: asyncio.AbstractEventLoop) -> None:
        self.links = links
        self._loop = loop
        self._read = b""
        self._node: Node | None = None
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._deadline = self._loop.call_later(DIAL_SECONDS, self._transport.abort)
        proved = transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        self._node = self.links.node_of(proved)
        if self._node is None or descriptors.are_scarce():
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing() or self._node is None:
            return
        self._read += data
        end = self._read.find(b"\r\n\r\n") + 4
        if end < 4:
            if len(self._read) > MAX_HEAD:
                self._transport.abort()
            return
        try:
            response = accept_upgrade(split_head(self._read[:end]))
        except DevrouteError:
            self._transport.abort()
            return
        self._deadline.cancel()
        self._transport.write(response)
        self.links.accept(self._node, self._transport, self._read[end:])
