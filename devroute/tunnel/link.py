"""One end of a tunnel's connection: its WebSocket, its session, its streams' flow control. No HTTP in here.

Owns reading, writing (once per loop turn), backpressure and the close of a link. It never awaits, and
whatever ends a link ends each of its streams with an error. tunnel/proxy_link.py and tunnel/agent_link.py say
what streams mean.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from devroute.errors import DevrouteError, ProtocolError, UpstreamReset
from devroute.http.aio.connection import FLUSH_BYTES, READ_TURN, Connection, enable_keepalive, write_pieces
from devroute.http.message import Headers
from devroute.tunnel.link_stream import LinkStream
from devroute.tunnel.liveness import Heartbeat, Liveness
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
from devroute.tunnel.protocol.frames import Buffer, Reason
from devroute.tunnel.protocol.session import Session
from devroute.tunnel.protocol.stream import Stream
from devroute.tunnel.protocol.websocket import CloseCode, WebSocket

#: Seconds for the last bytes of a closing link to leave; then it is aborted.
CLOSE_SECONDS: Final = 5.0

#: A source that sends pieces of at least so many bytes is stopped as soon as the connection is full; any
#: other with its next piece.
LARGE_PIECE: Final = 4 * 1024

#: With at most so many open streams, waiting for the loop turn's end costs a poll and saves few writes.
FEW_STREAMS: Final = 2


class Link(Connection):
    """`sources`: owners that send large bodies, least recently active first. `close_error`: why the link
    ended, None while it is open. `goaway`: the reason of the peer's GOAWAY, None without one."""

    def __init__(
        self, session: Session, websocket: WebSocket, loop: asyncio.AbstractEventLoop, liveness: Liveness
    ) -> None:
        super().__init__(loop)
        self.sources: dict[LinkStream, None] = {}
        self.close_error: DevrouteError | None = None
        self.goaway: Reason | None = None
        self.disconnected: asyncio.Future[None] = loop.create_future()
        self.heartbeat = Heartbeat(loop, liveness, self._send_ping, self._dead)
        self._session = session
        self._websocket = websocket
        self._peer_closes = False
        self._abort_timer: asyncio.TimerHandle | None = None
        self._read_pause: asyncio.TimerHandle | None = None  # reads nothing until then
        self._guard = FloodGuard(loop.time())
        self._rare: dict[type[Event], Callable[..., None]] = {
            Ended: lambda event: event.stream.owner.receive_end(event.trailers),
            Reset: lambda event: event.stream.owner.receive_reset(event.reason),
            Writable: lambda event: self._on_writable(event.stream.owner),
            Pong: lambda event: self.heartbeat.pong_received(),
            GoAway: self._received_goaway,
            Broken: lambda event: self.close_with(event.error),
        }

    # --- what the two ends implement

    def on_opened(self, event: Opened) -> None:
        """The peer opened a stream."""
        raise NotImplementedError

    def on_goaway(self) -> None:
        """The peer takes no new streams, and will close when the open ones have ended."""

    def on_closed(self, error: DevrouteError) -> None:
        """The link has ended, and the owners of its streams know."""

    # --- for the owners of streams

    def limit_streams(self, most: int) -> None:
        """Have at most so many streams open; those that are open already go on."""
        self._session.max_streams = most

    def send_head(self, stream: Stream, raw: bytes, flags: int) -> None:
        self._session.send_head(stream, raw, flags)
        self.wake()

    def send_data(self, owner: LinkStream, data: bytes) -> None:
        """Send a piece of the body, or keep it until there is credit; stops the owner's source if need be."""
        has_credit = self._session.send_data(owner.stream, data)
        sources = self.sources
        if len(data) >= LARGE_PIECE:
            sources.pop(owner, None)
            sources[owner] = None
        self.wake()
        if (self.write_paused or not has_credit) and not owner.stopped:
            sources[owner] = None
            owner.stop()

    def send_end(self, owner: LinkStream, trailers: Headers) -> None:
        self._session.send_end(owner.stream, trailers)
        self.dismiss(owner)
        owner.settle()
        self.wake()

    def send_reset(self, owner: LinkStream, code: str, message: str, hint: str = "") -> None:
        """End both halves of the stream; nothing happens if they have ended."""
        self._session.reset(owner.stream, code, message, hint)
        self.dismiss(owner)
        self.wake()

    def grant(self, stream: Stream, size: int) -> None:
        """The stream's consumer took `size` bytes. The CREDIT leaves with the next `wake`; `feed` calls
        it."""
        self._session.grant(stream, size)

    def release_window(self, stream: Stream) -> None:
        self._session.release_window(stream)

    def dismiss(self, owner: LinkStream) -> None:
        """This owner sends nothing more."""
        if self.sources:
            self.sources.pop(owner, None)

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        enable_keepalive(transport)
        self.heartbeat.start()
        if self._session.has_output:
            self.wake()

    def buffer_updated(self, nbytes: int) -> None:
        turn = READ_TURN
        turn.begin(self._loop)
        try:
            self.feed(turn.view[:nbytes], turn.whole)
        finally:
            turn.finish()

    def feed(self, data: Buffer, whole: bytearray | None = None) -> None:
        """Handle bytes from the peer; `data` may be reused once this returns. `whole` as of WebSocket."""
        heartbeat = self.heartbeat
        heartbeat.last_received = self._loop.time()
        heartbeat.ping_outstanding = False
        session, websocket = self._session, self._websocket
        for piece in websocket.receive(data, whole):
            events = session.receive(piece)
            if len(events) * TINY_BYTES > len(piece):
                self.slow_down(len(events))
            for event in events:
                if isinstance(event, Data):
                    event.stream.owner.receive_data(event.data, event.end)
                elif isinstance(event, Head):
                    event.stream.owner.receive_head(event.raw, event.flags)
                elif isinstance(event, Opened):
                    self.on_opened(event)
                else:
                    self._rare[type(event)](event)
        if websocket.replies:
            self._reply()
        if session.control_frames or session.resets or websocket.control_frames:
            self._check_flood()
        if websocket.closed is not None:
            error = websocket.error or UpstreamReset("the other end closed the tunnel")
            self.close_with(error, send_close=False)
        elif session.has_output:
            self.wake()
        elif session.leaving:
            self._close_if_drained()

    def _reply(self) -> None:
        replies = self._websocket.replies
        if not self.write_paused or self._websocket.closed is not None:
            self.transport.write(b"".join(replies))
            replies.clear()

    def lost(self, error: Exception | None) -> None:
        if error is not None and self.close_error is None:
            self.receive_rest()
        self._finish(self.close_error or UpstreamReset("the tunnel's connection was lost"))
        if self._abort_timer is not None:
            self._abort_timer.cancel()
        if not self.disconnected.done():  # cancelled, if the task that awaited it was
            self.disconnected.set_result(None)

    def pause_writing(self) -> None:
        super().pause_writing()
        for owner in list(self.sources):
            if not owner.stopped:
                owner.stop()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reply()
        self.flush()
        for owner in list(self.sources):
            if self.write_paused:
                return
            self._start_source(owner)

    # --- floods

    def _check_flood(self) -> None:
        """Close the link if its peer sends more control frames or resets than it may."""
        session, websocket = self._session, self._websocket
        control_frames = session.control_frames + websocket.control_frames
        now = self.heartbeat.last_received
        flood = self._guard.check(now, control_frames, session.resets, session.streams_so_far)
        session.control_frames = session.resets = websocket.control_frames = 0
        if flood is not None:
            session.goaway(flood.code, flood.message, flood.hint)
            self.close_with(flood)

    def slow_down(self, tiny: int) -> None:
        """Count so many tiny frames more. Read nothing for a while if there were too many."""
        seconds = self._guard.pause(self.heartbeat.last_received, tiny)
        if seconds and self._read_pause is None and not self.transport.is_closing():
            self.transport.pause_reading()
            self._read_pause = self._loop.call_later(seconds, self._read_again)

    def _read_again(self) -> None:
        self._read_pause = None
        if not self.transport.is_closing():
            self.transport.resume_reading()

    # --- writing

    def wake(self) -> None:
        """Send what the session has: with everything else of this loop turn, or at once if it is much."""
        session = self._session
        if session.pending >= FLUSH_BYTES:
            self.flush()
        elif not self._flush_due:
            self._flush_due = True
            if READ_TURN.reading and len(session.streams) <= FEW_STREAMS:
                READ_TURN.dirty.append(self)
            else:
                self._loop.call_soon(self.flush)

    def flush(self) -> None:
        self._flush_due = False
        # While writing is paused, frames wait in the session; few and small ones, since sources are stopped.
        if not self.write_paused and not self.closed:
            self._write_frames()
        if self._session.leaving:
            self._close_if_drained()

    def _write_frames(self) -> None:
        session = self._session
        if session.has_output and not self.transport.is_closing():
            if session.pending >= FLUSH_BYTES:
                write_pieces(self.transport, self._websocket.frame(session.data_to_send()))
            else:
                self.transport.write(self._websocket.encode(session.data_to_send()))

    def _on_writable(self, owner: LinkStream) -> None:
        self._start_source(owner)
        owner.settle()

    def _start_source(self, owner: LinkStream) -> None:
        stream = owner.stream
        if owner.stopped and not self.write_paused and stream.credit > 0 and stream.backlog is None:
            owner.stopped = False
            owner.start_source()

    # --- liveness

    def _send_ping(self) -> None:
        self._session.ping()
        self.wake()

    def _dead(self, message: str) -> None:
        error = self.close_error = UpstreamReset(message)
        self.transport.abort()
        self._finish(error)

    @property
    def usable(self) -> bool:
        """Whether it has not ended."""
        return self.close_error is None

    @property
    def left(self) -> bool:
        """Whether the peer has announced that it ends."""
        return self.goaway is not None and self.goaway.code == "leaving"

    # --- the end

    def _received_goaway(self, event: GoAway) -> None:
        self.goaway = event.reason
        self.on_goaway()

    def drain(self, code: str, message: str, hint: str = "") -> None:
        """Send GOAWAY, take no new streams, and close when the open ones have ended."""
        if self.close_error is None:
            self._session.goaway(code, message, hint)
            self.wake()

    def leave(self, code: str, message: str) -> None:
        """Send GOAWAY and have the peer close, for one that has another link: what it opens until it has read
        this is served, too."""
        self._peer_closes = True
        self.drain(code, message)

    def _close_if_drained(self) -> None:
        keeps_open = self._peer_closes or self.write_paused or self._session.streams
        if self.close_error is None and not keeps_open:
            self.close_with(UpstreamReset("the tunnel was closed cleanly"))

    def close_with(self, error: DevrouteError, *, send_close: bool = True) -> None:
        """End the open streams with `error`, send what the session has and a close frame, and close."""
        if self.close_error is not None:
            return
        self.close_error = error
        self._finish(error)
        if not self.transport.is_closing():
            self._write_frames()
            if send_close:
                violated = isinstance(error, ProtocolError)
                code = CloseCode.PROTOCOL_ERROR if violated else CloseCode.GOING_AWAY
                self.transport.write(self._websocket.close(code))
            self.transport.close()
            self._abort_timer = self._loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def _finish(self, error: DevrouteError) -> None:
        """Stop the timers and end every stream; once."""
        self.heartbeat.stop()
        if self._read_pause is not None:
            self._read_pause.cancel()
            self._read_pause = None
        if self._session.finished:
            return
        self.close_error = error
        self.sources.clear()
        for stream in self._session.finish():
            stream.owner.lose_link(error)
        self.on_closed(error)
