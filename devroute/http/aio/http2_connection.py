"""One HTTP/2 connection, client or server: frames to streams and back, one write a turn, fairness, floods.

Knows nothing of requests: downstream/http2.py and upstream/http2_connection.py do. It never awaits.
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, Final

from h2 import events as h2
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError

from devroute.errors import DevrouteError, UpstreamReset
from devroute.http.aio.connection import FLUSH_BYTES, LINGER_SECONDS, Connection
from devroute.http.aio.http2_stream import Http2Stream
from devroute.http.http2.flood_guard import (
    CONTROL_BURST,
    CONTROL_PER_FRAME,
    CONTROL_PER_SECOND,
    RESET_BURST,
    RESETS_PER_SECOND,
    UNREAD_CONTROL,
)
from devroute.http.http2.headers import Fields
from devroute.http.http2.protocol import Http2Protocol, StrayFrame
from devroute.token_bucket import TokenBucket

#: Bytes that are read and discarded after a GOAWAY for a fault, so that the peer receives it.
MAX_DISCARDED_BYTES: Final = 1024 * 1024


class Http2Connection(Connection):
    """`finished`: streams can neither send nor receive any more, though the transport may still be open.
    `paused_sources`: the streams whose sources are paused."""

    __slots__ = (
        "_blocked", "_control_frames", "_dirty", "_discarded", "_flushing", "_resets",
        "_unread", "finished", "paused_sources", "protocol", "streams",
    )  # fmt: skip

    def __init__(self, protocol: Http2Protocol, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.protocol = protocol
        self.finished = False
        self._discarded = self._unread = 0  # bytes after the end; control frames while the transport is full
        self.streams: dict[int, Http2Stream] = {}
        self.paused_sources: dict[Http2Stream, None] = {}
        self._dirty: dict[Http2Stream, None] = {}  # with something to send, in the order of their turns
        self._blocked: dict[Http2Stream, None] = {}  # with something to send, and no window for it
        self._flushing = False
        now = loop.time()
        self._resets = TokenBucket(RESET_BURST, RESETS_PER_SECOND, now)
        self._control_frames = TokenBucket(CONTROL_BURST, CONTROL_PER_SECOND, now)

    # --- implemented by client and server

    def stream_opened(self, number: int, fields: Fields, *, ended: bool) -> None:
        """The peer opened a stream."""
        raise NotImplementedError

    def settings_changed(self) -> None:
        """The peer's settings have changed."""

    def ping_acknowledged(self, payload: bytes) -> None: ...

    def goaway_received(self, code: int, last: int) -> None:
        """The peer takes no streams above `last`."""

    def stream_closed(self) -> None:
        """A stream was removed."""

    # --- receiving

    def received(self, data: bytes) -> None:
        if self.finished:
            self._discarded += len(data)
            if self._discarded > MAX_DISCARDED_BYTES:
                self.close()
        else:
            try:
                events = self.protocol.receive(data)
            except ProtocolError as error:
                self.fail(f"broke HTTP/2: {error}")
            else:
                self._handle(events)
                self.flush()
                if self.protocol.more and not self.finished and not self.closed:
                    self.pause_reading()
                    self._loop.call_soon(self._receive_more)

    def _receive_more(self) -> None:
        """Handle more of what was read, now that other connections had their turn."""
        if not self.finished and not self.closed:
            self.received(b"")
        if self.finished or not self.protocol.more:
            self.resume_reading()

    def handle_rest(self) -> None:
        """Handle what was read before the connection was lost."""
        with contextlib.suppress(ProtocolError):
            while self.protocol.more and not self.finished:
                self._handle(self.protocol.receive(b""))

    def _handle(self, events: list[h2.Event]) -> None:
        handlers = _HANDLERS
        for event in events:
            handler = handlers.get(type(event))
            if handler is not None:
                handler(self, event)
                if self.finished:
                    return

    def _on_request(self, event: h2.RequestReceived) -> None:
        self._control_frames.earn(CONTROL_PER_FRAME)
        self.stream_opened(event.stream_id, event.headers, ended=event.stream_ended is not None)

    def _on_response(self, event: h2.ResponseReceived) -> None:
        self._control_frames.earn(CONTROL_PER_FRAME)
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.receive_head(event.headers, ended=event.stream_ended is not None)

    def _on_informational(self, event: h2.InformationalResponseReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.receive_informational(event.headers)

    def _on_data(self, event: h2.DataReceived) -> None:
        if event.data:
            self._control_frames.earn(CONTROL_PER_FRAME)
        elif event.stream_ended is None:
            self._on_control_frame(event)
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.receive_data(event.data, event.flow_controlled_length)
        else:
            self.acknowledge(event.stream_id, event.flow_controlled_length)

    def _on_trailers(self, event: h2.TrailersReceived) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.receive_trailers(event.headers)

    def _on_end(self, event: h2.StreamEnded) -> None:
        stream = self.streams.get(event.stream_id)
        if stream is not None:
            stream.receive_end([])

    def _on_reset(self, event: h2.StreamReset) -> None:
        if event.remote_reset:
            self.count_reset()
        stream = self.streams.get(event.stream_id)
        if stream is not None and not self.finished:
            stream.receive_reset(int(event.error_code))

    def _on_window(self, event: h2.WindowUpdated) -> None:
        self._on_control_frame(event)
        if not self._blocked:
            return
        if event.stream_id == 0:
            self._dirty.update(self._blocked)
            self._blocked.clear()
        else:
            stream = self.streams.get(event.stream_id)
            if stream in self._blocked:
                del self._blocked[stream]
                self._dirty[stream] = None

    def _on_settings(self, event: h2.RemoteSettingsChanged) -> None:
        self._on_control_frame(event)
        self._dirty.update(self._blocked)  # their windows may have grown
        self._blocked.clear()
        self.settings_changed()

    def _on_pong(self, event: h2.PingAckReceived) -> None:
        self._on_control_frame(event)
        self.ping_acknowledged(event.ping_data)

    def _on_goaway(self, event: h2.ConnectionTerminated) -> None:
        self.goaway_received(int(event.error_code or 0), event.last_stream_id or 0)

    # --- floods

    def _on_control_frame(self, event: h2.Event) -> None:
        if not self._control_frames.spend(self._loop.time()):
            self.fail("sent a flood of control frames", ErrorCodes.ENHANCE_YOUR_CALM)
        elif self.write_paused:
            self._unread += 1
            if self._unread > UNREAD_CONTROL:
                self.fail("does not read the replies to its control frames", ErrorCodes.ENHANCE_YOUR_CALM)

    def count_reset(self) -> None:
        """The peer took a stream back, or opened one more than it may."""
        if not self._resets.spend(self._loop.time()):
            self.fail("reset too many streams in a short time", ErrorCodes.ENHANCE_YOUR_CALM)

    # --- sending

    def wake(self, stream: Http2Stream) -> None:
        """A stream has something to send: with everything else of this turn, or at once if it is much."""
        if stream in self._blocked:
            stream.pause()
            return
        self._dirty[stream] = None
        if self.write_paused:
            stream.pause()
        elif stream.queued_bytes >= FLUSH_BYTES:
            self.flush()
        else:
            self.flush_soon()

    def acknowledge(self, number: int, size: int) -> None:
        if size and not self.finished:
            self.protocol.acknowledge_received_data(size, number)
            self.flush_soon()

    def flush(self) -> None:
        self._flush_due = False
        if self._flushing or self.finished or self.closed:
            return
        self._flushing = True
        try:
            self._send_turns()
        finally:
            self._flushing = False

    def _send_turns(self) -> None:
        """Each stream with something to send gets a turn, while the transport takes more."""
        dirty = self._dirty
        protocol = self.protocol
        pending = 0
        while dirty and not self.write_paused:
            stream = next(iter(dirty))
            del dirty[stream]
            size = stream.pump(protocol)
            self._control_frames.earn(CONTROL_PER_FRAME)
            pending += size
            if pending >= FLUSH_BYTES:
                pending = 0
                self.transport.write(protocol.data_to_send())
            if stream.finished or not protocol.alive(stream.number):
                continue
            if stream.chunks:
                self._wait(stream)
            elif stream.source_paused and not self.write_paused:
                stream.resume()
        data = protocol.data_to_send()
        if data and not self.finished:
            self.transport.write(data)

    def _wait(self, stream: Http2Stream) -> None:
        """More to send: in the stream's next turn, or once the peer opens its window."""
        if self.protocol.local_flow_control_window(stream.number) > 0:
            self._dirty[stream] = None
        else:
            self._blocked[stream] = None
        stream.pause()

    def pause_writing(self) -> None:
        super().pause_writing()
        for stream in list(self._dirty):
            if stream.chunks:
                stream.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._unread = 0
        self.flush()
        for stream in list(self.paused_sources):
            if self.write_paused:
                return
            if not stream.chunks:
                stream.resume()

    # --- the end

    def remove_stream(self, stream: Http2Stream) -> None:
        number = stream.number
        if self.streams.get(number) is stream:
            del self.streams[number]
            self._dirty.pop(stream, None)
            self._blocked.pop(stream, None)
            self.paused_sources.pop(stream, None)
            self.protocol.forget(number)
            self.stream_closed()

    def fail(self, what: str, code: ErrorCodes | None = None) -> None:
        """End the connection for a fault of the peer. `code` is for a GOAWAY that h2 has not queued
        itself."""
        if self.finished:
            return
        if code is not None:
            self.protocol.close_connection(code)
        data = self.protocol.data_to_send()
        if data and not self.closed:
            self.transport.write(data)
        self.finish(UpstreamReset(f"the other end of the HTTP/2 connection {what}"))
        self._linger()

    def _linger(self) -> None:
        """Close our half, and the connection once the peer has closed its own: a peer that is still sending
        would get a reset instead of the GOAWAY."""
        self.resume_reading()  # asyncio's TLS does not close while reads are paused and its peer has closed
        transport = self.transport
        if self.closed or transport.is_closing() or not transport.can_write_eof():
            self.close()
            return
        transport.write_eof()
        self._loop.call_later(LINGER_SECONDS, transport.abort)

    def finish(self, error: DevrouteError) -> None:
        """End the connection: every stream gets connection_lost(error), once."""
        if self.finished:
            return
        self.finished = True
        streams = list(self.streams.values())
        self.streams.clear()
        self._dirty.clear()
        self._blocked.clear()
        self.paused_sources.clear()
        for stream in streams:
            stream.connection_lost(error)

    def lost(self, error: Exception | None) -> None:
        self.finish(UpstreamReset("the HTTP/2 connection was lost"))

    def eof_received(self) -> bool:
        return False  # closes the transport, then `lost`


_HANDLERS: Final[dict[type[h2.Event], Callable[[Any, Any], None]]] = {
    h2.RequestReceived: Http2Connection._on_request,
    h2.ResponseReceived: Http2Connection._on_response,
    h2.InformationalResponseReceived: Http2Connection._on_informational,
    h2.DataReceived: Http2Connection._on_data,
    h2.TrailersReceived: Http2Connection._on_trailers,
    h2.StreamEnded: Http2Connection._on_end,
    h2.StreamReset: Http2Connection._on_reset,
    h2.WindowUpdated: Http2Connection._on_window,
    h2.RemoteSettingsChanged: Http2Connection._on_settings,
    h2.PingReceived: Http2Connection._on_control_frame,
    h2.PingAckReceived: Http2Connection._on_pong,
    h2.SettingsAcknowledged: Http2Connection._on_control_frame,
    h2.PriorityUpdated: Http2Connection._on_control_frame,
    h2.UnknownFrameReceived: Http2Connection._on_control_frame,
    StrayFrame: Http2Connection._on_control_frame,
    h2.ConnectionTerminated: Http2Connection._on_goaway,
}
