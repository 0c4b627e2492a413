"""A link whose streams are HTTP exchanges: what the proxy's end and the agent's have in common. Either opens
streams for requests (tunnel/opened_stream.py), and serves those that the other end opens
(tunnel/served_stream.py), each with an Upstream.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from devroute.errors import DevrouteError, RequestMalformed
from devroute.http.http1.response import ResponseHeadParser
from devroute.http.message import Framing, RequestHead, ResponseHead
from devroute.tunnel.link import Link
from devroute.tunnel.link_stream import UNBOUNDED
from devroute.tunnel.liveness import Liveness
from devroute.tunnel.opened_stream import OpenedStream
from devroute.tunnel.protocol.events import Opened
from devroute.tunnel.protocol.frames import Flag, Reason
from devroute.tunnel.protocol.session import Session
from devroute.tunnel.protocol.stream import NO_STREAM
from devroute.tunnel.protocol.websocket import WebSocket
from devroute.tunnel.protocol.windows import LINK_GROWTH, PROCESS_GROWTH, WindowBudget
from devroute.tunnel.served_stream import Observe, RefusedRequest, ServedStream
from devroute.upstream.interface import Upstream

# Looked up once: an enum's member costs as much as a method call.
_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_UPGRADE: Final = Framing.UPGRADE
_FLAG_END: Final = int(Flag.END)
_FLAG_CHUNKED: Final = int(Flag.CHUNKED)
_FLAG_UPGRADE: Final = int(Flag.UPGRADE)

_VERSION: Final = b"HTTP/1.1\r\n"
_CR: Final = 0x0D  # as a number: to look for bytes in bytes costs ten times as much

_PROCESS_BUDGET: Final = WindowBudget(PROCESS_GROWTH)


def _never() -> bool:
    return False


def open_flags(framing: Framing) -> int:
    """The flags of the OPEN of a request with this framing."""
    if framing is _NONE:
        return _FLAG_END
    if framing is _LENGTH:
        return 0
    return _FLAG_CHUNKED if framing is _CHUNKED else _FLAG_UPGRADE


def _request_line(wire: bytes) -> list[bytes]:
    """What is between the spaces of a head's first line; of a valid one method, target, and what begins with
    the version."""
    parts = wire.split(b" ", 2)
    if len(parts) == 3 and parts[2].startswith(_VERSION) and _CR not in parts[1] and _CR not in parts[0]:
        return parts  # without looking for the line's end, at a third of the cost
    return wire[: wire.find(b"\r\n")].split(b" ")


class ExchangeLink(Link):
    """`responder`: what errors call the other end, where that responds. `observe` gets each finished exchange
    that this end has served, except successes that `counted()` says it has counted. `repeated_head`: the last
    one that an app has repeated, without a gRPC status, and `repeated_raw` what is sent for it. `waiting`: of
    the bodies of requests that it serves, and `waiting_responses` of those that it gets; None where each may
    have its stream's window waiting."""

    def __init__(
        self,
        session: Session,
        websocket: WebSocket,
        loop: asyncio.AbstractEventLoop,
        liveness: Liveness,
        responder: str,
        observe: Observe,
    ) -> None:
        super().__init__(session, websocket, loop, liveness)
        self.time = loop.time
        self.responder = responder
        self.observe = observe
        self.counted: Callable[[], bool] = _never
        self.response_parser = ResponseHeadParser()
        self.repeated_head: ResponseHead | None = None
        self.repeated_raw = b""
        self.waiting: WindowBudget | None = None
        self.waiting_responses: WindowBudget | None = None

    @property
    def reach(self) -> bool:
        """Whether the agent may open streams."""
        return self._session.reach

    @property
    def windows(self) -> WindowBudget | None:
        """What the windows of this link may grow by; None unless the other end knows windows that grow."""
        return self._session.windows

    def enable_windows(self) -> None:
        """The other end knows windows that grow."""
        self._session.windows = WindowBudget(LINK_GROWTH, _PROCESS_BUDGET)

    # --- requests to the other end

    def open_stream(self, owner: OpenedStream, service: bytes, wire: bytes, flags: int, length: int) -> None:
        """Start a request. Raises ValueError while the session cannot open a stream."""
        stream = owner.stream = self._session.open(service, wire, flags, length)
        stream.owner = owner
        self.wake()

    def refuse_with(self, owner: OpenedStream, error: DevrouteError) -> None:
        """End a request that cannot have a stream with an error, once open() has returned."""
        session = self._session
        owner.stream = NO_STREAM
        if session.last_id >= session.max_id and not session.leaving:
            self.drain("ids-used-up", "this link has carried all the requests it can", "dial again")
        self._loop.call_soon(owner.broken, error)

    # --- requests from it

    def reset_code(self, reason: Reason) -> str:
        """What is reported of a request that the other end has reset."""
        return reason.code

    def serve(self, event: Opened, upstream: Upstream) -> None:
        """Pass a request that the other end has opened to `upstream`."""
        stream, flags, length, wire = event.stream, event.flags, event.length, event.wire
        start = _request_line(wire)
        if len(start) != 3:
            self.refuse_opened(event, RequestMalformed("the request line is not 'METHOD target HTTP/1.1'"))
            return
        if flags & (_FLAG_CHUNKED | _FLAG_UPGRADE):
            framing, left = (_UPGRADE if flags & _FLAG_UPGRADE else _CHUNKED), UNBOUNDED
        elif flags & _FLAG_END and not length:
            framing, left = _NONE, 0
        else:
            framing, left = _LENGTH, length
        owner = ServedStream(self, event.service, RequestHead(start[0], start[1], framing, length, wire))
        owner.stream = stream
        owner.left = left
        owner.done = framing is _NONE
        stream.owner = owner
        owner.start(upstream)
        if flags & _FLAG_END and framing is not _NONE:  # an empty body still has an end
            owner.receive_end([])

    def refuse_opened(self, event: Opened, error: DevrouteError) -> None:
        """Reset a stream that the other end has just opened."""
        event.stream.owner = RefusedRequest(self)
        self._session.reset(event.stream, error.code, error.message, error.hint)
        self.wake()
