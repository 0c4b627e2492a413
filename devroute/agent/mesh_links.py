"""The laptop's way into the mesh: each service there is an Upstream, whose requests leave by whichever link
is up (tunnel/PROTOCOL.md, "Reach").

    mesh = LinkKeeper(..., reach=True).mesh
    mesh.upstream("c.shop:80").open(head, sink)      # HTTP, as with any Upstream
    mesh.upstream("tcp://orders-db:5432").open(tcp_request("orders-db:5432"), sink)

For TCP, `sink.on_head` gets a 101 once the proxy has connected; from then on data are bytes in both
directions, and `send_end` and `on_end` close one of them. Errors arrive at `sink.on_error`, with the proxy's
reason.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

from devroute.errors import NotSupported, ServerUnreachable
from devroute.http.message import Framing, RequestHead
from devroute.tunnel.agent_link import AgentLink, MeshUpstream
from devroute.upstream.deferred import DeferredStream
from devroute.upstream.interface import ResponseSink, UpstreamStream
from devroute.upstream.quota import RefusedStream

#: Seconds for which a request waits for a link: one that was lost is back within a second, mostly.
WAIT_SECONDS: Final = 2.0
#: Requests that wait at once: each may hold 64 KiB of its body.
MAX_WAITING: Final = 256

_OFFLINE: Final = "this laptop has no link to the server, by which it reaches the mesh"


def tcp_request(place: str) -> RequestHead:
    """The head that opens a TCP connection to `orders-db:5432`. Raises ValueError for what is no name and
    port."""
    name = place.encode("ascii")
    if not name.replace(b".", b"").replace(b"-", b"").replace(b":", b"").isalnum():
        raise ValueError(f"{place!r} is not NAME:PORT")
    wire = b"GET / HTTP/1.1\r\nhost: %b\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n" % name
    return RequestHead(b"GET", b"/", Framing.UPGRADE, 0, wire)


class MeshLinks:
    """`links`: the open ones, the newest last; some may only finish their requests."""

    def __init__(self, links: Callable[[], Sequence[AgentLink]]) -> None:
        self._links = links
        self._waiting: dict[_WaitingStream, asyncio.TimerHandle] = {}
        self._loop = asyncio.get_running_loop()

    def upstream(self, service: str) -> "ReachUpstream":
        return ReachUpstream(self, service)

    def usable(self) -> AgentLink | None:
        """The newest link by which the mesh can be reached."""
        for link in reversed(self._links()):
            if link.reach and link.close_error is None and link.goaway is None:
                return link
        return None

    @property
    def server_is_older(self) -> bool:
        """Whether the laptop is online at a server that has no way into the mesh for it."""
        return self.usable() is None and any(
            link.welcome.done() and not link.welcome.cancelled() and link.goaway is None
            for link in self._links()
        )

    def linked(self) -> None:
        """Another link was welcomed: send what waits for one."""
        if self.usable() is None:
            return
        waiting, self._waiting = self._waiting, {}
        for stream, deadline in waiting.items():
            deadline.cancel()
            stream.send(self)

    def wait(self, head: RequestHead, sink: ResponseSink, service: str) -> UpstreamStream:
        """A request that is sent once there is a link; without one in time it fails."""
        if self.server_is_older:
            return RefusedStream(sink, not_supported())
        if len(self._waiting) >= MAX_WAITING:
            return RefusedStream(sink, ServerUnreachable(_OFFLINE))
        stream = _WaitingStream(head, sink, service)
        self._waiting[stream] = self._loop.call_later(WAIT_SECONDS, self._give_up, stream)
        return stream

    def _give_up(self, stream: "_WaitingStream") -> None:
        del self._waiting[stream]
        hint = "devroute up connects again by itself; its page shows why it is offline"
        stream.fail(not_supported() if self.server_is_older else ServerUnreachable(_OFFLINE, hint=hint))


class ReachUpstream:
    """One service of the mesh; implements devroute.upstream.interface.Upstream."""

    __slots__ = ("_mesh", "_service")

    def __init__(self, mesh: MeshLinks, service: str) -> None:
        self._mesh = mesh
        self._service = service

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        link = self._mesh.usable()
        if link is None:
            return self._mesh.wait(head, sink, self._service)
        return MeshUpstream(link, self._service).open(head, sink)


class _WaitingStream(DeferredStream):
    """A request that waits for a link."""

    def __init__(self, head: RequestHead, sink: ResponseSink, service: str) -> None:
        super().__init__(head, sink)
        self._service = service

    def send(self, mesh: MeshLinks) -> None:
        self.begin(mesh.upstream(self._service))


def not_supported() -> NotSupported:
    return NotSupported(
        "the server does not let laptops reach services of the mesh: it is older, or has no way there",
        hint="ask the platform team for an upgrade, and for mesh_egress",
    )
