"""The proxy's end of a tunnel: an Upstream for each service of a laptop."""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Final

from devroute.errors import (
    DevrouteError,
    LaptopOffline,
    ProtocolError,
    TargetOverloaded,
    TunnelFlooded,
    UpstreamReset,
)
from devroute.http.message import RequestHead
from devroute.tunnel.exchange_link import ExchangeLink, open_flags
from devroute.tunnel.liveness import PROXY_LIVENESS, Liveness
from devroute.tunnel.opened_stream import OpenedStream, SampledStream
from devroute.tunnel.protocol.events import HelloFrame, Opened, RenewFrame
from devroute.tunnel.protocol.frames import MAX_SERVICE_BYTES, MAX_STREAMS, Reason
from devroute.tunnel.protocol.session import Role, Session
from devroute.tunnel.protocol.websocket import WebSocket
from devroute.tunnel.protocol.windows import LINK_RESPONSES, LINK_UNREAD, PROCESS_RESPONSES, WindowBudget
from devroute.tunnel.served_stream import Finished, Observe
from devroute.upstream.interface import ResponseSink, Upstream
from devroute.upstream.quota import Quota

#: The Upstream of what a laptop wants to reach, as `c.shop:80`; one that refuses all where it may not.
Egress = Callable[[bytes], Upstream]


# Not Final, which compiled code would not read again: tests wait less.
#: Seconds since the last byte from a laptop for which it counts as reachable without a ping.
FRESH_SECONDS = 1.0

#: Seconds without a byte after which it counts as gone, however slow its network is.
GONE_SECONDS = 3.0

#: A PONG counts as lost once it takes so many times as long as the one before.
SLOWER: Final = 3

#: Seconds without a byte until a PING is sent while a request waits for its response, and least seconds for
#: the PONG: together less than 2.
IDLE_SECONDS: Final = 0.9
PONG_SECONDS: Final = 1.0

#: Seconds by which a timer may be late before this process counts as having stood still itself.
LATE_SECONDS: Final = 0.1

#: Bytes a second of the slowest network that has to keep up: a PING waits behind what is under way.
SLOWEST: Final = 256 * 1024


_RESPONSES: Final = WindowBudget(PROCESS_RESPONSES)

#: What may be wrong with a laptop.
_ASLEEP: Final = "is it asleep, or without a network? It comes back by itself"


def pong_seconds(usual: float | None, queued: int) -> float:
    """How long a PONG may take: `usual` is the round trip before, `queued` the bytes under way."""
    least = PONG_SECONDS if usual is None else max(PONG_SECONDS, usual * SLOWER)
    return least + queued / SLOWEST


class TunnelUpstream:
    """One service of one laptop; implements devroute.upstream.interface.ProbedUpstream."""

    __slots__ = ("_link", "_service")

    def __init__(self, link: "ProxyLink", service: str) -> None:
        self._link = link
        self._service = service.encode()[:MAX_SERVICE_BYTES]

    def open(self, head: RequestHead, sink: ResponseSink) -> OpenedStream:
        link = self._link
        span = head.span
        stream = OpenedStream(link, head, sink) if span is None else SampledStream(link, head, sink, span)
        quota = link.quota
        refused = quota is not None and (len(quota.links) > 1 or quota.pools) and not quota.admit()
        if refused or (link.delayed and link.full) or (link.write_paused and link.unread > LINK_UNREAD):
            link.refuse(stream)
            return stream
        try:
            link.open_stream(stream, self._service, head.wire, open_flags(head.framing), head.length)
        except ValueError:
            link.refuse(stream)
            return stream
        if span is not None:
            span.opened = monotonic()
        return stream

    def reserve(self) -> DevrouteError | None:
        error = self._link.overload()
        if error is None:
            self._link.delayed += 1
        return error

    def unreserve(self) -> None:
        self._link.delayed -= 1

    @property
    def responded_just_now(self) -> bool:
        return self._link.heartbeat.idle < FRESH_SECONDS

    async def check_reachable(self, seconds: float) -> None:
        """Ping the laptop, unless it was received from just now: one that fell asleep or lost its network
        could not close its link. Raises LaptopOffline.

        If its last round trip was much shorter than `seconds`, no PONG within `seconds` means that it is
        gone; else it is given GONE_SECONDS."""
        if self.responded_just_now:
            return
        heartbeat = self._link.heartbeat
        usual = heartbeat.round_trip
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(heartbeat.ping())
        except TimeoutError:
            waited = heartbeat.idle
            if waited > GONE_SECONDS or (usual is not None and usual * SLOWER < seconds):
                message = f"the laptop has not responded for {waited:.0f} s"
                raise LaptopOffline(message, hint=_ASLEEP) from None


class ProxyLink(ExchangeLink):
    """A laptop's link. `hello(link, body)` is called once, and has to call `send_welcome` or `reject`;
    `renew(link, token)` has to call `send_renewed`. `gone(link)` is called when the link takes no more
    requests: once, or twice if a GOAWAY came before the end. `peer`: what errors call the other end."""

    def __init__(
        self,
        websocket: WebSocket,
        loop: asyncio.AbstractEventLoop,
        hello: Callable[["ProxyLink", bytes], None],
        gone: Callable[["ProxyLink"], None],
        renew: Callable[["ProxyLink", bytes], None],
        liveness: Liveness = PROXY_LIVENESS,
        peer: str = "laptop",
    ) -> None:
        super().__init__(Session(Role.PROXY), websocket, loop, liveness, "laptop", _unobserved)
        self.quota: Quota | None = None  # from its registration on
        self.waiting_responses = WindowBudget(LINK_RESPONSES, _RESPONSES)
        self._peer = peer
        self.delayed = 0  # requests that are to be sent later, and count already
        self._idle_check: asyncio.TimerHandle | None = None
        self._extended_for = 0.0  # `pinged_at` of the last PING that was given more time, as a check was late
        self._egress: Egress | None = None
        self._opened_unread = 0  # streams that the agent has opened since it stopped to read
        self._renewed_unread = False  # a RENEWED has not left
        self._gone = gone
        self._rare[HelloFrame] = lambda event: hello(self, event.body)
        self._renew = renew
        self._rare[RenewFrame] = self._on_renew

    def send_welcome(self, body: bytes) -> None:
        self._session.send_welcome(body)
        self.wake()

    def enable_reach(self, egress: Egress, observe: Observe) -> None:
        """Let the agent open streams, too, before `send_welcome`; `observe` gets each that has finished."""
        self._egress = egress
        self.observe = observe
        self._session.enable_reach()

    def send_renewed(self, body: bytes) -> None:
        self._session.send_renewed(body)
        self._renewed_unread = self.write_paused
        self.wake()

    def _on_renew(self, event: RenewFrame) -> None:
        if self._renewed_unread:
            error = ProtocolError("RENEW before the RENEWED that replies to the last one has left")
            self._loop.call_soon(self.reject, error)
        else:
            self._renew(self, event.token)

    def reject(self, error: DevrouteError) -> None:
        """Send the error to the agent as a GOAWAY, and close; open streams end with it."""
        if self.close_error is None:
            self._session.goaway(error.code, error.message, error.hint)
            self.close_with(error)

    def on_goaway(self) -> None:
        self._gone(self)

    def on_closed(self, error: DevrouteError) -> None:
        if self._idle_check is not None:
            self._idle_check.cancel()
        self._gone(self)

    def upstream(self, service: str) -> TunnelUpstream:
        return TunnelUpstream(self, service)

    def on_opened(self, event: Opened) -> None:
        if self.close_error is not None or self._egress is None:
            return
        if self.write_paused:
            self._count_opened_unread()
        self.serve(event, self._egress(event.service))

    def _count_opened_unread(self) -> None:
        """To an agent that keeps to the protocol a stream is open until it has read its end, and it has at
        most MAX_STREAMS open."""
        self._opened_unread += 1
        if self._opened_unread == MAX_STREAMS + 1:
            flood = TunnelFlooded("a flood of streams whose ends are not read")
            self._loop.call_soon(self.reject, flood)  # once each stream of this read has its owner

    def resume_writing(self) -> None:
        self._opened_unread = 0
        self._renewed_unread = False
        super().resume_writing()

    def reset_code(self, reason: Reason) -> str:
        """Audit trail and metrics have no code of an agent's choice."""
        return "cancelled"

    def open_stream(self, owner: OpenedStream, service: bytes, wire: bytes, flags: int, length: int) -> None:
        """Start a request. Raises ValueError while the session cannot open a stream."""
        super().open_stream(owner, service, wire, flags, length)
        if self._idle_check is None:
            self._idle_check = self._loop.call_later(IDLE_SECONDS, self._check_idle)

    def _check_idle(self) -> None:
        """While requests wait for the first byte of a response, ping a laptop whose link is idle. If it stays
        idle, end these requests; the link itself has until its liveness ends it, as it may come back."""
        check, self._idle_check = self._idle_check, None
        streams = self._session.streams.values()
        owners = [stream.owner for stream in streams]
        waiting = [each for each in owners if isinstance(each, OpenedStream) and not each.answered]
        if self.close_error is not None or not waiting:
            return
        heartbeat = self.heartbeat
        idle = heartbeat.idle
        left = IDLE_SECONDS - idle
        if left <= 0:
            heartbeat.ping()
            queued = self.transport.get_write_buffer_size() + sum(
                each.peer_window - each.credit for each in streams
            )
            now, pinged_at = self._loop.time(), heartbeat.pinged_at
            since = max(pinged_at, heartbeat.last_received + IDLE_SECONDS)
            left = since + pong_seconds(heartbeat.round_trip, queued) - now
            late = check is not None and now - check.when() > LATE_SECONDS
            if left <= 0 and late and self._extended_for != pinged_at:  # a PONG may wait to be read
                self._extended_for = pinged_at
                left = PONG_SECONDS
        if left > 0:
            self._idle_check = self._loop.call_later(left, self._check_idle)
            return
        for each in waiting:
            if not each.done:
                self.send_reset(each, "cancelled", "no reply to a ping")
                message = f"the {self._peer} has not responded for {idle:.0f} s"
                each.broken(UpstreamReset(message, hint=_ASLEEP if self._peer == "laptop" else None))

    @property
    def in_flight(self) -> int:
        """The number of open requests to the laptop, and of those that their contract delays."""
        return self._session.opened + self.delayed

    @property
    def reached(self) -> int:
        """The number of open streams that the agent has opened."""
        return self._session.accepted

    @property
    def unread(self) -> int:
        """Bytes that wait because the other end does not read."""
        if not self.write_paused:
            return 0
        return self._session.pending + self.transport.get_write_buffer_size()

    @property
    def full(self) -> bool:
        return self.in_flight >= self._session.max_streams

    def overload(self) -> TargetOverloaded | None:
        """The error for one more request, if there are too many."""
        if self.full:
            return TargetOverloaded(f"{self.in_flight} requests are open to this laptop already")
        if self.unread > LINK_UNREAD:
            return TargetOverloaded(f"the {self._peer} does not read: {self.unread} bytes wait for it")
        quota = self.quota
        return None if quota is None or quota.admit() else quota.overloaded()

    def refuse(self, owner: OpenedStream) -> None:
        """End a request that cannot have a stream with an error, once open() has returned."""
        error = None if self._session.leaving else self.overload()
        self.refuse_with(owner, error or LaptopOffline("the laptop is leaving"))


def _unobserved(finished: Finished) -> None:
    """No agent of this link opens streams."""
