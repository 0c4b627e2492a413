"""One stream of an HTTP/2 connection: what is queued for sending, and what was received for a paused
consumer.

It never buffers more than its window: received data are acknowledged once the consumer has taken them, and
the source of sent data is paused while the peer's window or the connection is full.
"""

from collections import deque
from typing import Final, Protocol

from h2.errors import ErrorCodes

from devroute.errors import DevrouteError
from devroute.http.buffer import Chunk, join_chunks
from devroute.http.http2.headers import Fields
from devroute.http.http2.protocol import Http2Protocol
from devroute.http.message import Headers

#: Bytes that one stream sends before the next one has its turn.
TURN_BYTES: Final = 64 * 1024

#: Bytes of a turn that a head counts for, roughly.
HEAD_BYTES: Final = 64


class Carrier(Protocol):
    """What a stream needs of its connection (http/aio/http2_connection.py)."""

    protocol: Http2Protocol
    paused_sources: "dict[Http2Stream, None]"

    def wake(self, stream: "Http2Stream") -> None:
        """The stream has something to send."""

    def acknowledge(self, number: int, size: int) -> None:
        """`size` bytes were consumed, and the peer may send as many again."""

    def remove_stream(self, stream: "Http2Stream") -> None:
        """The stream is closed."""

    def flush_soon(self) -> None: ...


class Http2Stream:
    """`finished`: nothing more is sent or delivered. `source_paused`: pause_source() was called last.

    Subclasses implement both directions: receive_*, consume and complete for the peer's half; pause_source,
    resume_source and sent for ours.
    """

    __slots__ = (
        "_buffered",
        "_buffered_end",
        "_ended",
        "_heads",
        "_paused",
        "_received_end",
        "_sent_end",
        "_trailers",
        "chunks",
        "connection",
        "finished",
        "number",
        "queued_bytes",
        "source_paused",
    )

    def __init__(self) -> None:
        self.connection: Carrier | None = None  # until it has one
        self.number = 0
        self.finished = False
        self.source_paused = False
        self.chunks: deque[bytes | memoryview] = deque()
        self.queued_bytes = 0  # bytes in chunks
        self._heads: list[tuple[Headers, bool]] = []
        self._ended = False
        self._trailers: Headers = []
        self._sent_end = False
        self._received_end = False
        self._paused = False
        self._buffered: deque[tuple[Chunk, int]] = deque()
        self._buffered_end: Headers | None = None

    # --- implemented by subclasses

    def receive_head(self, fields: Fields, *, ended: bool) -> None:
        raise NotImplementedError

    def receive_informational(self, fields: Fields) -> None:
        raise NotImplementedError

    def receive_trailers(self, fields: Fields) -> None:
        raise NotImplementedError

    def receive_reset(self, code: int) -> None:
        """The peer ended both halves."""
        raise NotImplementedError

    def connection_lost(self, error: DevrouteError) -> None:
        raise NotImplementedError

    def consume(self, data: bytes) -> None:
        raise NotImplementedError

    def complete(self, trailers: Headers) -> None:
        """The peer's half has ended, and all of it was consumed."""
        raise NotImplementedError

    def sent(self) -> None:
        """Our half has ended, and all of it was written."""
        raise NotImplementedError

    def pause_source(self) -> None:
        raise NotImplementedError

    def resume_source(self) -> None:
        raise NotImplementedError

    # --- sending

    def send_head(self, fields: Headers, *, end: bool = False) -> None:
        """`end`: nothing follows. An end() within the same turn of the loop is sent on the head too."""
        self._heads.append((fields, end))
        self._ended = self._ended or end
        self._wake()

    def send(self, data: bytes) -> None:
        if self._ended or self.finished:
            return
        self.chunks.append(data)
        self.queued_bytes += len(data)
        self._wake()

    def end(self, trailers: Headers) -> None:
        if self._ended or self.finished:
            return
        self._ended = True
        self._trailers = trailers
        self._wake()

    def _wake(self) -> None:
        connection = self.connection
        if connection is None:
            if self.chunks:
                self.pause()
        else:
            connection.wake(self)

    def pause(self) -> None:
        """Pause the source, unless it is paused or has ended."""
        if not self.source_paused and not self._ended:
            self.source_paused = True
            if self.connection is not None:
                self.connection.paused_sources[self] = None
            self.pause_source()

    def resume(self) -> None:
        """All that was queued is sent: resume the source."""
        self.source_paused = False
        if self.connection is not None:
            self.connection.paused_sources.pop(self, None)
        if not self.finished and not self._ended:
            self.resume_source()

    def pump(self, protocol: Http2Protocol) -> int:
        """Send what the windows allow, at most one turn's worth. The number of bytes."""
        number = self.number
        if self.finished or not (protocol.alive(number) or protocol.is_new(number)):
            return 0
        cost = 0
        chunks = self.chunks
        for fields, end in self._heads:
            end = end or (self._ended and not chunks and not self._trailers and fields is self._heads[-1][0])
            protocol.send_head(number, fields, end=end)
            self._sent_end = self._sent_end or end
            cost += HEAD_BYTES
        self._heads.clear()
        if chunks:
            cost += self._pump_data(protocol)
        if self._ended and not chunks and not self._sent_end:
            self._sent_end = True
            if self._trailers:
                protocol.send_head(number, self._trailers, end=True)
            else:
                protocol.end_stream(number)
            cost += HEAD_BYTES
        if self._sent_end:
            self.sent()
        return cost

    def _pump_data(self, protocol: Http2Protocol) -> int:
        number = self.number
        chunks = self.chunks
        largest = protocol.max_outbound_frame_size
        room = min(TURN_BYTES, protocol.local_flow_control_window(number))
        total = 0
        while chunks and room > 0:
            most = min(room, largest)
            piece = chunks.popleft()
            if len(piece) > most:
                view = memoryview(piece)
                chunks.appendleft(view[most:])
                piece = view[:most]
            elif chunks and len(piece) + len(chunks[0]) <= most:
                several = [piece]
                size = len(piece)
                while chunks and size + len(chunks[0]) <= most:
                    size += len(chunks[0])
                    several.append(chunks.popleft())
                piece = b"".join(several)
            last = self._ended and not chunks and not self._trailers
            protocol.send_piece(number, piece, end=last)
            self._sent_end = last
            room -= len(piece)
            total += len(piece)
        self.queued_bytes -= total
        return total

    # --- receiving

    def receive_data(self, data: bytes, size: int) -> None:
        """`size` includes the padding, as flow control counts it."""
        if self._paused and not self.finished:
            self._buffer(data, size)
            return
        if data and not self.finished:
            self.consume(data)
        if self.connection is not None:
            self.connection.acknowledge(self.number, size)

    def _buffer(self, data: bytes, size: int) -> None:
        """As http/buffer.py's append_chunk, with the size that flow control counts."""
        buffered = self._buffered
        if buffered and (both := join_chunks(buffered[-1][0], data)) is not None:
            buffered[-1] = (both, buffered[-1][1] + size)
        else:
            buffered.append((data, size))

    def receive_end(self, trailers: Headers) -> None:
        if self._received_end:
            return
        self._received_end = True
        if self._buffered:
            self._buffered_end = trailers
        elif not self.finished:
            self.complete(trailers)

    def pause_delivery(self) -> None:
        """Deliver nothing until resume_delivery; the peer's window then runs out."""
        self._paused = True

    def resume_delivery(self) -> None:
        self._paused = False
        buffered = self._buffered
        while buffered and not self._paused:
            data, size = buffered.popleft()
            self.receive_data(bytes(data), size)
        if self._buffered_end is not None and not buffered and not self.finished:
            trailers, self._buffered_end = self._buffered_end, None
            self.complete(trailers)

    def discard_queued(self) -> None:
        self.chunks.clear()
        self.queued_bytes = 0

    def discard(self) -> None:
        """The peer reads nothing more: discard what is queued."""
        self._ended = True
        self.discard_queued()

    def restart(self, chunks: list[bytes], trailers: Headers | None) -> None:
        """Prepare for another connection, as if nothing had been sent. `trailers` if the end was sent."""
        self.connection = None
        self.finished = False
        self.chunks.extend(chunks)
        self.queued_bytes = sum(map(len, chunks))
        self._ended = trailers is not None
        self._trailers = trailers or []
        self._sent_end = False

    @property
    def all_received(self) -> bool:
        """Whether the peer's half was received completely, consumed or not."""
        return self._received_end

    # --- the end

    def reset(self, code: ErrorCodes) -> None:
        """Reset the stream if it has not ended."""
        connection = self.connection
        if connection is not None and connection.protocol.alive(self.number):
            connection.protocol.reset_stream(self.number, code)
            connection.flush_soon()
        self.close()

    def close(self) -> None:
        """Send and deliver nothing more."""
        self.finished = True
        self.chunks.clear()
        self._heads.clear()
        connection = self.connection
        if connection is not None:
            connection.remove_stream(self)
            for _, size in self._buffered:
                connection.acknowledge(self.number, size)
        self._buffered.clear()
