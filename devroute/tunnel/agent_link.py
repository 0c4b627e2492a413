"""The agent's end of a tunnel: each stream of the proxy is a request for one of the laptop's services, each
an Upstream. Where the proxy has the feature `reach`, services of the mesh are Upstreams, too.
"""

import asyncio
from collections.abc import Mapping

from devroute.errors import DevrouteError, ServerUnreachable, ServiceNotServed, TargetOverloaded
from devroute.http.message import RequestHead
from devroute.tunnel.exchange_link import ExchangeLink, open_flags
from devroute.tunnel.liveness import AGENT_LIVENESS, Liveness
from devroute.tunnel.opened_stream import OpenedStream
from devroute.tunnel.protocol.events import Opened, RenewedFrame, WelcomeFrame
from devroute.tunnel.protocol.frames import MAX_SERVICE_BYTES
from devroute.tunnel.protocol.session import Role, Session
from devroute.tunnel.protocol.websocket import WebSocket
from devroute.tunnel.served_stream import Observe, OpenRequest, ServedStream
from devroute.upstream.interface import ResponseSink, Upstream


class MeshUpstream:
    """What a laptop reaches in the mesh over one link, as `c.shop:80` or `tcp://orders-db:5432`; implements
    devroute.upstream.interface.Upstream. The link's `reach` has to be true."""

    __slots__ = ("_link", "_service")

    def __init__(self, link: "AgentLink", service: str) -> None:
        self._link = link
        self._service = service.encode()[:MAX_SERVICE_BYTES]

    def open(self, head: RequestHead, sink: ResponseSink) -> OpenedStream:
        link = self._link
        stream = OpenedStream(link, head, sink)
        try:
            link.open_stream(stream, self._service, head.wire, open_flags(head.framing), head.length)
        except ValueError:
            link.refuse_with(stream, link.reach_refusal())
        return stream


class AgentLink(ExchangeLink):
    """`welcome` gets the body of the proxy's WELCOME, and is cancelled if the link ends before it.
    `close_reason` gets the error that ended the link."""

    def __init__(
        self,
        websocket: WebSocket,
        loop: asyncio.AbstractEventLoop,
        services: Mapping[str, Upstream],
        observe: Observe,
        liveness: Liveness = AGENT_LIVENESS,
    ) -> None:
        super().__init__(Session(Role.AGENT), websocket, loop, liveness, "mesh", observe)
        self.welcome: asyncio.Future[bytes] = loop.create_future()
        self.close_reason: asyncio.Future[DevrouteError] = loop.create_future()
        self._rare[WelcomeFrame] = self._on_welcome
        self._rare[RenewedFrame] = self._on_renewed
        self._renewed: asyncio.Future[bytes] | None = None
        self._services = {name.encode(): upstream for name, upstream in services.items()}

    @property
    def in_flight(self) -> int:
        """The number of open requests for the laptop's services."""
        return self._session.accepted

    def open_requests(self, least_age: float, most: int) -> list[OpenRequest]:
        """Those that have been open for `least_age` seconds, at most so many, the oldest first."""
        found: list[OpenRequest] = []
        for stream in self._session.streams.values():  # in the order in which they were opened
            owner = stream.owner
            if isinstance(owner, ServedStream) and owner.age >= 0:
                if owner.age < least_age or len(found) == most:
                    break
                found.append(owner.as_open())
        return found

    def send_hello(self, body: bytes) -> None:
        """Register; before the connection is made, which sends it."""
        self._session.send_hello(body)

    def _on_welcome(self, event: WelcomeFrame) -> None:
        if not self.welcome.done():  # cancelled, if the task that awaited it was
            self.welcome.set_result(event.body)

    @property
    def renewing(self) -> bool:
        """Whether a RENEW has not been answered yet."""
        return self._session.renewing

    def renew(self, token: str) -> asyncio.Future[bytes]:
        """Send a newer token. The future gets the body of RENEWED, and is cancelled if the link ends before.
        Raises ValueError while `renewing`, and before the welcome."""
        self._session.send_renew(token.encode("latin-1"))
        self.wake()
        renewed = self._renewed = self._loop.create_future()
        return renewed

    def _on_renewed(self, event: RenewedFrame) -> None:
        if self._renewed is not None and not self._renewed.done():
            self._renewed.set_result(event.body)

    def on_closed(self, error: DevrouteError) -> None:
        if self._renewed is not None:
            self._renewed.cancel()
        self.welcome.cancel()
        if not self.close_reason.done():
            self.close_reason.set_result(error)

    def on_opened(self, event: Opened) -> None:
        if self.close_error is not None:
            return
        upstream = self._services.get(event.service)
        if upstream is not None:
            self.serve(event, upstream)
            return
        own = sorted(name.decode() for name in self._services)
        served = ", ".join(name for name in own if not name.startswith("@"))
        name = event.service.decode("utf-8", "replace")
        message = f"this laptop does not serve '{name}'"
        self.refuse_opened(event, ServiceNotServed(message, hint=f"it serves {served}"))

    # --- requests of the laptop

    def enable_reach(self) -> None:
        """The proxy's WELCOME has the feature `reach`, for which the HELLO has asked."""
        self._session.enable_reach()

    def reach_refusal(self) -> DevrouteError:
        """Why no stream can be opened."""
        if self.close_error is None and not self._session.leaving:
            return TargetOverloaded(f"{self._session.opened} requests of this laptop are open already")
        return ServerUnreachable("the link to the server has ended", hint="it is dialled again; try again")
