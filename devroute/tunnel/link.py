"""The asyncio shell of a tunnel's end: one connection, its WebSocket envelope, its session. No HTTP in here.

Owns reading, writing (once per loop turn), backpressure, liveness and the end of a link. It never awaits, and
it never lets a stream end in silence: whatever ends the link is told to the owner of every stream.
tunnel/proxy_link.py and tunnel/agent_link.py say what streams mean.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from devroute.errors import DevrouteError, ProtocolError, UpstreamReset
from devroute.http.aio.connection import FLUSH_BYTES, TURN, Connection
from devroute.http.message import Headers
from devroute.tunnel.protocol.events import (
    Broken,
    Data,
    Ended,
    Event,
    GoAway,
    Head,
    Opened,
    Pong,
    Reset,
    Writable,
)
from devroute.tunnel.protocol.flood_guard import TINY_BYTES, FloodGuard
from devroute.tunnel.protocol.frames import Reason
from devroute.tunnel.protocol.session import Buffer, Role, Session
from devroute.tunnel.protocol.stream import Stream
from devroute.tunnel.protocol.websocket import CloseCode, WebSocket

#: How long a closing link may take to hand over its last bytes, in seconds.
CLOSE_SECONDS: Final = 5.0

#: Sources of pieces from here on are stopped once the connection is full; others, with their next piece.
LARGE_PIECE: Final = 4 * 1024


#: Up to so many open streams, waiting for the loop turn's end costs more (a poll) than it saves (writes).
FEW_STREAMS: Final = 2


@dataclass(frozen=True, slots=True)
class Liveness:
    """After how many seconds of silence a link asks, and after how many it is dead (DESIGN 4)."""

    ping_after: float = 10.0
    dead_after: float = 15.0


LIVENESS: Final = Liveness()

#: The proxy's end: its agents ask first, and what they ask is a sign. Thousands of idle links cost half.
PATIENT: Final = Liveness(ping_after=12.0)


class Owner(Protocol):
    """Whoever a stream belongs to, as the link sees it."""

    stream: Stream
    stopped: bool

    def receive_head(self, raw: bytes, flags: int) -> None: ...
    def receive_data(self, data: bytes, end: int) -> None: ...
    def receive_end(self, trailers: Headers) -> None: ...
    def receive_reset(self, reason: Reason) -> None: ...
    def link_lost(self, error: DevrouteError) -> None: ...
    def stop_source(self) -> None: ...
    def start_source(self) -> None: ...


class Link(Connection):
    """`full`: the connection takes no more for now. `sources`: owners that send large bodies, the one that
    sent least recently first. `over`: why the link ended, if it has."""

    def __init__(
        self,
        session: Session,
        websocket: WebSocket,
        loop: asyncio.AbstractEventLoop,
        liveness: Liveness = LIVENESS,
    ) -> None:
        super().__init__(loop)
        self.session = session
        self.full = False
        self.sources: dict[Owner, None] = {}
        self.over: DevrouteError | None = None  # why it ended
        self.disconnected: asyncio.Future[None] = loop.create_future()
        self._websocket = websocket
        self._liveness = liveness
        self._heard = loop.time()
        self._asked = False
        self._watch: asyncio.TimerHandle | None = None
        self._answer: asyncio.Future[None] | None = None
        self.asked_at = 0.0
        self.round_trip: float | None = None  # seconds, as the last answer took
        self._rest: asyncio.TimerHandle | None = None  # reads nothing until then
        self._guard = FloodGuard(self._heard, resets=session.role is Role.AGENT)
        self._rare: dict[type[Event], Callable[..., None]] = {
            Ended: lambda event: event.stream.owner.receive_end(event.trailers),
            Reset: lambda event: event.stream.owner.receive_reset(event.reason),
            Writable: lambda event: self._writable(event.stream.owner),
            Pong: lambda event: self._answered(),
            GoAway: self._goaway_received,
            Broken: lambda event: self.end(event.error),
        }

    # --- for the two ends

    def opened(self, event: Opened) -> None:
        """The peer opened a stream."""
        raise NotImplementedError

    def leaving(self, reason: Reason) -> None:
        """The peer will take no new streams, and will close when those that are open have ended."""

    def ended(self, error: DevrouteError) -> None:
        """The link is over; its streams' owners have been told."""

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._heard = self._loop.time()
        self._watch_on()

    def buffer_updated(self, nbytes: int) -> None:
        turn = TURN
        turn.reading = True
        try:
            self.feed(self.get_buffer(-1)[:nbytes])
        finally:
            turn.over()

    def feed(self, data: Buffer) -> None:
        """Bytes from the peer; they are read before this returns."""
        self._heard = self._loop.time()
        self._asked = False
        session = self.session
        websocket = self._websocket
        for piece in websocket.receive(data):
            events = session.receive(piece)
            if len(events) * TINY_BYTES > len(piece):
                self._slow_down(len(events))
            for event in events:
                if type(event) is Data:
                    event[0].owner.receive_data(event[1], event[2])
                elif type(event) is Head:
                    event[0].owner.receive_head(event[1], event[2])
                elif type(event) is Opened:
                    self.opened(event)
                else:
                    self._rare[type(event)](event)
        if websocket.replies:
            self._reply()
        if session.trifles or session.resets or websocket.trifles:
            self._weigh()
        if websocket.closed is not None:
            self.end(websocket.error or self._closed_by_peer(), say=False)
        elif session.has_output:
            self.wake()
        elif session.leaving:
            self._close_if_done()

    def _closed_by_peer(self) -> DevrouteError:
        return UpstreamReset("the other end closed the tunnel")

    def _reply(self) -> None:
        replies = self._websocket.replies
        if not self.full or self._websocket.closed is not None:
            self.transport.write(b"".join(replies))
            replies.clear()

    def eof_received(self) -> bool:
        return False  # closes the transport, then `lost`

    def lost(self, error: Exception | None) -> None:
        self._finish(self.over or UpstreamReset("the tunnel's connection was lost"))
        if not self.disconnected.done():  # whoever waited for it may have been cancelled
            self.disconnected.set_result(None)

    def pause_writing(self) -> None:
        self.full = True
        for owner in list(self.sources):
            if not owner.stopped:
                owner.stopped = True
                owner.stop_source()

    def resume_writing(self) -> None:
        self.full = False
        self._reply()
        self.flush()
        for owner in list(self.sources):
            if self.full:
                return
            self._writable(owner)

    # --- floods

    def _weigh(self) -> None:
        """End a link whose peer sends more of what costs it nothing than it may."""
        session, websocket = self.session, self._websocket
        trifles = session.trifles + websocket.trifles
        flood = self._guard.weigh(self._heard, trifles, session.resets, session.opened)
        session.trifles = session.resets = websocket.trifles = 0
        if flood is not None:
            session.goaway(flood.code, flood.message, flood.hint)
            self.end(flood)

    def _slow_down(self, tiny: int) -> None:
        """Read nothing for a while, once there were too many tiny frames."""
        seconds = self._guard.rest(self._heard, tiny)
        if seconds and self._rest is None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._rest = self._loop.call_later(seconds, self._rested)

    def _rested(self) -> None:
        self._rest = None
        if not self.transport.is_closing():
            self.transport.resume_reading()

    # --- writing

    def wake(self) -> None:
        """Something is to be sent: with everything else of this loop turn, or at once if it is much."""
        session = self.session
        if session.pending >= FLUSH_BYTES:
            self.flush()
        elif not self._flush_due:
            self._flush_due = True
            if TURN.reading and len(session.streams) <= FEW_STREAMS:
                TURN.dirty.append(self)
            else:
                self._loop.call_soon(self.flush)

    def flush(self) -> None:
        self._flush_due = False
        # While the connection is full, frames wait here; none of them is large, since sources are stopped.
        if not self.full and not self.closed:
            self._write_frames()
        if self.session.leaving:
            self._close_if_done()

    def _write_frames(self) -> None:
        session = self.session
        if session.has_output and not self.transport.is_closing():
            pieces = session.data_to_send()
            self.transport.write(self._websocket.encode(pieces))

    def sent(self, owner: Owner, size: int, more: bool) -> None:
        """An owner's source sent a piece; `more`: its credit is not used up. Stops the source if need be."""
        sources = self.sources
        if size >= LARGE_PIECE:
            sources.pop(owner, None)
            sources[owner] = None
        self.wake()
        if (self.full or not more) and not owner.stopped:
            owner.stopped = True
            sources[owner] = None
            owner.stop_source()

    def _writable(self, owner: Owner) -> None:
        stream = owner.stream
        if owner.stopped and not self.full and stream.credit > 0 and stream.backlog is None:
            owner.stopped = False
            owner.start_source()

    def dismiss(self, owner: Owner) -> None:
        """This owner sends nothing more."""
        self.sources.pop(owner, None)

    # --- liveness

    def _watch_on(self) -> None:
        silence = self._liveness.dead_after if self._asked else self._liveness.ping_after
        self._watch = self._loop.call_at(self._heard + silence, self._look)

    def _look(self) -> None:
        silent = self._loop.time() - self._heard
        if silent >= self._liveness.dead_after:
            self.over = UpstreamReset(f"the tunnel has been silent for {silent:.0f} s")
            self.transport.abort()
            self._finish(self.over)
            return
        if silent >= self._liveness.ping_after and not self._asked:
            self._asked = True
            self.ask()
        self._watch_on()

    @property
    def silent(self) -> float:
        """Seconds since the peer's last sign."""
        return self._loop.time() - self._heard

    def ask(self) -> "asyncio.Future[None]":
        """Ask the peer for a sign; done with its answer, which sets `round_trip`, or with the link's end."""
        if self._answer is None or self._answer.done():
            self._answer = self._loop.create_future()
            self.asked_at = self._loop.time()
            self.session.ping()
            self.wake()
        return self._answer

    def _answered(self) -> None:
        if self._answer is not None and not self._answer.done():
            self.round_trip = self._loop.time() - self.asked_at
            self._answer.set_result(None)

    def probe(self, within: float) -> None:
        """Find out at once whether the peer is there: dead unless it makes a sign within so many seconds."""
        if self.over is None:
            self._asked = True
            self._heard = self._loop.time() - self._liveness.dead_after + within
            self.ask()
            if self._watch is not None:
                self._watch.cancel()
            self._watch_on()

    # --- the end

    def leave(self, code: str, message: str, hint: str = "") -> None:
        """Take no new streams, and close when the open ones have ended."""
        if self.over is None:
            self.session.goaway(code, message, hint)
            self.wake()

    def _goaway_received(self, event: GoAway) -> None:
        self.leaving(event.reason)

    def _close_if_done(self) -> None:
        if self.over is None and not self.session.streams and not self.full:
            self.end(UpstreamReset("the tunnel was closed in good order"))

    def end(self, error: DevrouteError, *, say: bool = True) -> None:
        """Close now. What the session has to say is sent, and with `say` a close frame; open streams end."""
        if self.over is not None:
            return
        self.over = error
        self._finish(error)
        if not self.transport.is_closing():
            self._write_frames()
            if say:
                broken = isinstance(error, ProtocolError)
                code = CloseCode.PROTOCOL_ERROR if broken else CloseCode.GOING_AWAY
                self.transport.write(self._websocket.close(code))
            self.transport.close()
            self._watch = self._loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def _finish(self, error: DevrouteError) -> None:
        """Tell everybody, once."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(None)
        if self.session.finished:
            return
        self.over = error
        self.sources.clear()
        for stream in self.session.finish():
            stream.owner.link_lost(error)
        self.ended(error)
