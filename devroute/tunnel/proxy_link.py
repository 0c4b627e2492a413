"""The proxy's end of a tunnel: an Upstream for each service of a laptop.

It does not trust the agent: response heads are parsed again and bodies are counted.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from devroute.errors import DevrouteError, LaptopOffline, TargetOverloaded, UpstreamInvalid, UpstreamReset
from devroute.http.http1.response import ResponseHeadParser
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead, rule_of
from devroute.tunnel.link import Link
from devroute.tunnel.link_stream import UNBOUNDED, LinkStream
from devroute.tunnel.liveness import PROXY_LIVENESS, Liveness
from devroute.tunnel.protocol.events import Hello, Opened, Renew
from devroute.tunnel.protocol.frames import MAX_SERVICE_BYTES, MAX_STREAM_ID, WINDOW, Flag, Reason
from devroute.tunnel.protocol.session import Role, Session
from devroute.tunnel.protocol.stream import CLOSED, Stream
from devroute.tunnel.protocol.websocket import WebSocket
from devroute.upstream.interface import ResponseSink
from devroute.upstream.quota import Quota

# Looked up once: an enum's member costs as much as a method call.
_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_UPGRADE: Final = Framing.UPGRADE
_FLAG_END: Final = int(Flag.END)
_FLAG_CHUNKED: Final = int(Flag.CHUNKED)
_FLAG_UPGRADE: Final = int(Flag.UPGRADE)
_FLAG_INFORMATIONAL: Final = int(Flag.INFORMATIONAL)


class ProxyStream(LinkStream):
    """One request through the tunnel; implements devroute.upstream.interface.UpstreamStream."""

    __slots__ = ("_method", "_response_parser", "_sink", "_upgradable", "_upgraded", "answered")

    def __init__(self, link: "ProxyLink", head: RequestHead, sink: ResponseSink) -> None:
        super().__init__(link)
        self._response_parser = link.response_parser
        self._method = head.method
        self._upgradable = head.framing is _UPGRADE
        self._sink = sink
        self._consume = sink.on_data
        self._upgraded = False
        self.answered = False  # something of the response has arrived

    # --- the request

    def send_data(self, data: bytes) -> None:
        self.link.send_data(self, data)

    def send_end(self, trailers: Headers) -> None:
        self.link.send_end(self, trailers)

    def cancel(self) -> None:
        self.done = True
        if not self.stream.closed:
            self.link.send_reset(self, "cancelled", "the client has gone away")

    def pause_response(self) -> None:
        self.hold()

    def resume_response(self) -> None:
        self.release()

    # --- the response

    def receive_head(self, raw: bytes, flags: int) -> None:
        if self.done:
            return
        self.answered = True
        try:
            head = self._checked(raw, flags)
        except UpstreamInvalid as error:
            self.reset(error)
            self.broken(error)
            return
        if flags & _FLAG_INFORMATIONAL:
            self._sink.on_informational(head)
            return
        framing = head.framing
        if framing is _LENGTH:
            self.left = head.length
        elif framing is not _NONE:
            self.left = UNBOUNDED
            self._upgraded = framing is _UPGRADE
        self._sink.on_head(head)
        if flags & _FLAG_END:
            self.receive_end([])

    def _checked(self, raw: bytes, flags: int) -> ResponseHead:
        """The parsed head. Raises UpstreamInvalid, also where the frame's flags contradict it."""
        if raw[-4:] != b"\r\n\r\n":
            raise UpstreamInvalid("the laptop's response has no whole head")
        head = self._response_parser.parse(raw, self._method)
        if head.drop:
            head.by_rule = rule_of(raw)
        status = head.status
        if (status == 101) is not bool(flags & _FLAG_UPGRADE) or (
            (status < 200 and status != 101) is not bool(flags & _FLAG_INFORMATIONAL)
        ):
            raise UpstreamInvalid(
                f"the laptop's response has status {status}, which its frame's flags contradict"
            )
        if status == 101 and not self._upgradable:
            # The sidecar would take it for a whole response, and send the next request into the pipe.
            raise UpstreamInvalid("the laptop's response switches protocols (101) without a request for it")
        return head

    def complete(self, trailers: Headers) -> None:
        self.done = True
        self._sink.on_end(trailers)
        if not self._upgraded and not self.stream.closed:
            # The response is complete before its request: the rest will not be sent.
            self.link.send_reset(self, "cancelled", "the response was complete before its request")

    def broken(self, error: DevrouteError) -> None:
        if not self.done:
            self.done = True
            self._sink.on_error(error)

    def wrong_length(self, message: str) -> DevrouteError:
        return UpstreamReset(f"the laptop's response: {message}")

    def receive_reset(self, reason: Reason) -> None:
        self.link.dismiss(self)
        self._end_abruptly(reason.as_error(UpstreamReset))

    def link_lost(self, error: DevrouteError) -> None:
        self._end_abruptly(UpstreamReset(error.message, hint=error.hint))

    def _end_abruptly(self, error: DevrouteError) -> None:
        """Also ends an upgrade of which only the request's half is open: no one would receive it."""
        if self._upgraded and self.done:
            self._upgraded = False
            self._sink.on_error(error)
        else:
            self.broken(error)

    # --- flow control

    def stop_source(self) -> None:
        if not self.done or self._upgraded:
            self._sink.pause_request()

    def start_source(self) -> None:
        if not self.done or self._upgraded:
            self._sink.resume_request()


# Not Final, which compiled code would not read again: tests wait less.
#: Seconds since the last byte from a laptop for which it counts as reachable without a ping.
FRESH_SECONDS = 1.0

#: Seconds without a byte after which it counts as gone, however slow its network is.
GONE_SECONDS = 3.0

#: A PONG counts as lost once it takes so many times as long as the one before.
SLOWER: Final = 3

#: Seconds of silence until a PING is sent while a request waits for its response, and least seconds for the
#: PONG: together less than 2.
QUIET_SECONDS: Final = 0.9
PONG_SECONDS: Final = 1.0

#: Bytes a second of the slowest network that has to keep up: a PING waits behind what is under way.
SLOWEST: Final = 256 * 1024


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

    def open(self, head: RequestHead, sink: ResponseSink) -> ProxyStream:
        link = self._link
        stream = ProxyStream(link, head, sink)
        framing = head.framing
        if framing is _NONE:
            flags = _FLAG_END
        elif framing is _LENGTH:
            flags = 0
        else:
            flags = _FLAG_CHUNKED if framing is _CHUNKED else _FLAG_UPGRADE
        quota = link.quota
        shared = quota is not None and (len(quota.links) > 1 or quota.pools) and quota.full
        if shared or (link.delayed and link.full):
            link.refuse(stream)
            return stream
        try:
            link.open_stream(stream, self._service, head.wire, flags, head.length)
        except ValueError:
            link.refuse(stream)
        return stream

    def reserve(self) -> DevrouteError | None:
        error = self._link.overload()
        if error is None:
            self._link.delayed += 1
        return error

    def unreserve(self) -> None:
        self._link.delayed -= 1

    async def check_reachable(self, seconds: float) -> None:
        """Ping the laptop, unless it was received from just now: one that fell asleep or lost its network
        could not close its link. Raises LaptopOffline.

        If its last round trip was much shorter than `seconds`, no PONG within `seconds` means that it is
        gone; else it is given GONE_SECONDS."""
        heartbeat = self._link.heartbeat
        if heartbeat.idle < FRESH_SECONDS:
            return
        usual = heartbeat.round_trip
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(heartbeat.ping())
        except TimeoutError:
            waited = heartbeat.idle
            if waited > GONE_SECONDS or (usual is not None and usual * SLOWER < seconds):
                raise LaptopOffline(
                    f"the laptop has not responded for {waited:.0f} s",
                    hint="is it asleep, or without a network? It comes back by itself",
                ) from None


class ProxyLink(Link):
    """A laptop's link. `hello(link, body)` is called once, and has to call `send_welcome` or `reject`;
    `renew(link, token)` has to call `send_renewed`. `gone(link)` is called when the link takes no more
    requests: once, or twice if a GOAWAY came before the end."""

    def __init__(
        self,
        websocket: WebSocket,
        loop: asyncio.AbstractEventLoop,
        hello: Callable[["ProxyLink", bytes], None],
        gone: Callable[["ProxyLink"], None],
        renew: Callable[["ProxyLink", bytes], None],
        liveness: Liveness = PROXY_LIVENESS,
    ) -> None:
        super().__init__(Session(Role.PROXY), websocket, loop, liveness)
        self.quota: Quota | None = None  # from its registration on
        self.delayed = 0  # requests that are to be sent later, and count already
        self._silence_check: asyncio.TimerHandle | None = None
        self.response_parser = ResponseHeadParser()
        self._gone = gone
        self._rare[Hello] = lambda event: hello(self, event.body)
        self._rare[Renew] = lambda event: renew(self, event.token)

    def send_welcome(self, body: bytes) -> None:
        self._session.send_welcome(body)
        self.wake()

    def send_renewed(self, body: bytes) -> None:
        self._session.send_renewed(body)
        self.wake()

    def reject(self, error: DevrouteError) -> None:
        """Send the error to the agent as a GOAWAY, and close; open streams end with it."""
        if self.close_error is None:
            self._session.goaway(error.code, error.message, error.hint)
            self.close_with(error)

    def on_goaway(self) -> None:
        self._gone(self)

    def on_closed(self, error: DevrouteError) -> None:
        if self._silence_check is not None:
            self._silence_check.cancel()
        self._gone(self)

    def upstream(self, service: str) -> TunnelUpstream:
        return TunnelUpstream(self, service)

    def on_opened(self, event: Opened) -> None:
        raise AssertionError("a proxy's session does not let the agent open streams")

    def open_stream(self, owner: ProxyStream, service: bytes, wire: bytes, flags: int, length: int) -> None:
        """Start a request. Raises ValueError while the session cannot open a stream."""
        stream = owner.stream = self._session.open(service, wire, flags, length)
        stream.owner = owner
        self.wake()
        if self._silence_check is None:
            self._silence_check = self._loop.call_later(QUIET_SECONDS, self._check_silence)

    def _check_silence(self) -> None:
        """While requests wait for the first sign of a response, ping a laptop that is silent. If it stays
        silent, end these requests; the link itself has until its liveness ends it, as it may come back."""
        self._silence_check = None
        streams = self._session.streams.values()
        owners = [stream.owner for stream in streams]
        waiting = [each for each in owners if isinstance(each, ProxyStream) and not each.answered]
        if self.close_error is not None or not waiting:
            return
        heartbeat = self.heartbeat
        idle = heartbeat.idle
        left = QUIET_SECONDS - idle
        if left <= 0:
            heartbeat.ping()
            queued = self.transport.get_write_buffer_size() + sum(WINDOW - each.credit for each in streams)
            left += pong_seconds(heartbeat.round_trip, queued)
        if left > 0:
            self._silence_check = self._loop.call_later(left, self._check_silence)
            return
        for each in waiting:
            if not each.done:
                self.send_reset(each, "cancelled", "no reply to a ping")
                each.broken(
                    UpstreamReset(
                        f"the laptop has not responded for {idle:.0f} s",
                        hint="is it asleep, or without a network? It comes back by itself",
                    )
                )

    @property
    def in_flight(self) -> int:
        """The number of open streams, and of requests whose contract delays them."""
        return len(self._session.streams) + self.delayed

    @property
    def full(self) -> bool:
        return self.in_flight >= self._session.max_streams

    def overload(self) -> TargetOverloaded | None:
        """The error for one more request, if there are too many."""
        if self.full:
            return TargetOverloaded(f"{self.in_flight} requests are open to this laptop already")
        return self.quota.overloaded() if self.quota is not None and self.quota.full else None

    def refuse(self, owner: ProxyStream) -> None:
        """End a request that cannot have a stream with an error, once open() has returned."""
        session = self._session
        owner.stream = Stream(0, CLOSED, CLOSED)
        error: DevrouteError | None = None if session.leaving else self.overload()
        if session.last_id >= MAX_STREAM_ID and not session.leaving:
            self.drain("ids-used-up", "this link has carried all the requests it can", "dial again")
        self._loop.call_soon(owner.broken, error or LaptopOffline("the laptop is leaving"))
