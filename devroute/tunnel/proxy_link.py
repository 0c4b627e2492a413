"""The proxy's end of a tunnel: an Upstream for each service of a laptop.

It trusts nothing that the agent says: heads are parsed again and bodies are counted.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from devroute.errors import (
    BY_CODE,
    DevrouteError,
    LaptopOffline,
    TargetOverloaded,
    UpstreamInvalid,
    UpstreamReset,
)
from devroute.http.http1.request import Answers
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.tunnel.link import PATIENT, Link, Liveness
from devroute.tunnel.link_stream import UNBOUNDED, StreamEnd
from devroute.tunnel.protocol.events import Hello, Opened, Renew
from devroute.tunnel.protocol.frames import MAX_SERVICE_BYTES, Flag, Reason
from devroute.tunnel.protocol.session import Role, Session
from devroute.tunnel.protocol.stream import CLOSED, Stream
from devroute.tunnel.protocol.websocket import WebSocket
from devroute.upstream.interface import ResponseSink
from devroute.upstream.quota import Share

# Looked up once: an enum's member costs as much as a method call.
_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_UPGRADE: Final = Framing.UPGRADE
_FLAG_END: Final = int(Flag.END)
_FLAG_CHUNKED: Final = int(Flag.CHUNKED)
_FLAG_UPGRADE: Final = int(Flag.UPGRADE)
_FLAG_INFORMATIONAL: Final = int(Flag.INFORMATIONAL)


class TunnelStream(StreamEnd):
    """One request through the tunnel; implements devroute.upstream.UpstreamStream."""

    __slots__ = ("_answers", "_method", "_sink", "_upgradable", "_upgraded")

    def __init__(self, link: "ProxyLink", head: RequestHead, sink: ResponseSink) -> None:
        super().__init__(link)
        self._answers = link.answers
        self._method = head.method
        self._upgradable = head.framing is _UPGRADE
        self._sink = sink
        self._consume = sink.on_data
        self._upgraded = False

    # --- the request

    def send_data(self, data: bytes) -> None:
        link = self.link
        link.sent(self, len(data), link.session.send_data(self.stream, data))

    def send_end(self, trailers: Headers) -> None:
        link = self.link
        link.session.send_end(self.stream, trailers)
        link.dismiss(self)
        link.wake()

    def cancel(self) -> None:
        self.done = True
        if not self.stream.closed:
            self._withdraw("nobody waits for the answer any more")

    def _withdraw(self, why: str) -> None:
        link = self.link
        link.session.reset(self.stream, "cancelled", why)
        link.dismiss(self)
        link.wake()

    def pause_response(self) -> None:
        self.hold()

    def resume_response(self) -> None:
        self.release()

    # --- the response

    def receive_head(self, raw: bytes, flags: int) -> None:
        if self.done:
            return
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
        """The head, if it is what its flags say."""
        if raw[-4:] != b"\r\n\r\n":
            raise UpstreamInvalid("the laptop's answer has no whole head")
        head = self._answers.judge(raw, self._method)
        status = head.status
        if (status == 101) is not bool(flags & _FLAG_UPGRADE) or (
            (status < 200 and status != 101) is not bool(flags & _FLAG_INFORMATIONAL)
        ):
            raise UpstreamInvalid(f"the laptop's answer says {status}, and its frame says otherwise")
        if status == 101 and not self._upgradable:
            # The sidecar would take it for a whole answer, and send the next request into the pipe.
            raise UpstreamInvalid("the laptop's answer switches protocols (101), but nobody asked for it")
        return head

    def complete(self, trailers: Headers) -> None:
        self.done = True
        self._sink.on_end(trailers)
        if not self._upgraded and not self.stream.closed:
            # The answer came before the end of its request: nobody will send the rest.
            self._withdraw("the answer was complete before its request")

    def broken(self, error: DevrouteError) -> None:
        if not self.done:
            self.done = True
            self._sink.on_error(error)

    def wrong_length(self, message: str) -> DevrouteError:
        return UpstreamReset(f"the laptop's answer: {message}")

    def receive_reset(self, reason: Reason) -> None:
        self.link.dismiss(self)
        self._end_abruptly(reason.as_error(UpstreamReset, BY_CODE))

    def link_lost(self, error: DevrouteError) -> None:
        self._end_abruptly(UpstreamReset(error.message, hint=error.hint))

    def _end_abruptly(self, error: DevrouteError) -> None:
        """An upgrade of which only our half was open ends too: its client would send to nobody."""
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


#: A laptop that was heard of so few seconds ago is taken to be there.
FRESH_SECONDS: Final = 1.0

#: After so many seconds without an answer it is taken to be gone, however slow its network is.
GONE_SECONDS: Final = 3.0

#: A round trip may take so many times as long as the last one before we think of it as lost.
SLOWER: Final = 3


class TunnelUpstream:
    """One service of one laptop; implements devroute.upstream.Upstream."""

    __slots__ = ("_link", "_service")

    def __init__(self, link: "ProxyLink", service: str) -> None:
        self._link = link
        self._service = service.encode()[:MAX_SERVICE_BYTES]

    def open(self, head: RequestHead, sink: ResponseSink) -> TunnelStream:
        link = self._link
        end = TunnelStream(link, head, sink)
        framing = head.framing
        if framing is _NONE:
            flags = _FLAG_END
        elif framing is _LENGTH:
            flags = 0
        else:
            flags = _FLAG_CHUNKED if framing is _CHUNKED else _FLAG_UPGRADE
        share = link.share
        if share is not None and (len(share.links) > 1 or share.pools) and share.full:
            link.refuse(end)
            return end
        try:
            stream = end.stream = link.session.open(self._service, head.wire, flags, head.length)
        except ValueError:
            link.refuse(end)
            return end
        stream.owner = end
        link.wake()
        return end

    async def reachable(self, seconds: float) -> None:
        """Make sure that the laptop is still there, if nothing was heard of it just now: one that fell asleep
        or lost its network has had no time to say so. Raises LaptopOffline.

        A laptop that is known to answer faster than in `seconds` is gone without an answer in time; another
        one, only after GONE_SECONDS."""
        link = self._link
        if link.silent < FRESH_SECONDS:
            return
        known = link.round_trip
        try:
            async with asyncio.timeout(seconds):
                await asyncio.shield(link.ask())
        except TimeoutError:
            waited = link.silent
            if waited > GONE_SECONDS or (known is not None and known * SLOWER < seconds):
                raise LaptopOffline(
                    f"the laptop has made no sign for {waited:.0f} s",
                    hint="is it asleep, or without a network? It comes back by itself",
                ) from None


class ProxyLink(Link):
    """A laptop's link. `hello(link, body)` is called once, and has to answer with the session's send_welcome
    or with `turn_away`; `renew(link, token)` has to answer with send_renewed. `gone(link)` is called, once or
    twice, when it takes no more requests."""

    def __init__(
        self,
        websocket: WebSocket,
        loop: asyncio.AbstractEventLoop,
        hello: Callable[["ProxyLink", bytes], None],
        gone: Callable[["ProxyLink"], None],
        renew: Callable[["ProxyLink", bytes], None],
        liveness: Liveness = PATIENT,
    ) -> None:
        super().__init__(Session(Role.PROXY), websocket, loop, liveness)
        self.share: Share | None = None  # from its registration on
        self.answers = Answers()
        self._gone = gone
        self._rare[Hello] = lambda event: hello(self, event.body)
        self._rare[Renew] = lambda event: renew(self, event.token)

    def turn_away(self, error: DevrouteError) -> None:
        """Tell the agent why, and close; its open streams end."""
        if self.over is None:
            self.session.goaway(error.code, error.message, error.hint)
            self.end(error)

    def leaving(self, reason: Reason) -> None:
        self._gone(self)

    def ended(self, error: DevrouteError) -> None:
        self._gone(self)

    def upstream(self, service: str) -> TunnelUpstream:
        return TunnelUpstream(self, service)

    def opened(self, event: Opened) -> None:
        raise AssertionError("a proxy's session lets nobody open streams")

    def refuse(self, end: TunnelStream) -> None:
        """A request that cannot have a stream: say why, once open() has returned."""
        session = self.session
        end.stream = Stream(0, CLOSED, CLOSED)
        error: DevrouteError
        if session.full and not session.leaving:
            error = TargetOverloaded(f"{len(session.streams)} requests are open to this laptop already")
        elif (share := self.share) is not None and share.full and not session.leaving:
            error = share.overloaded()
        else:
            error = LaptopOffline("the laptop is leaving")
        if session.ids_used_up and not session.leaving:
            self.leave("ids-used-up", "this link has carried all the requests it can", "dial anew")
        self._loop.call_soon(end.broken, error)
