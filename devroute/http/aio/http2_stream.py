"""One stream of an HTTP/2 connection: what is to be sent, and what arrived and waits for its consumer.

It never buffers more than its window: what arrives is acknowledged when its consumer took it, and its source
is stopped when the peer's window or the connection is full.
"""

from collections import deque
from typing import Final, Protocol

from h2.errors import ErrorCodes

from devroute.errors import DevrouteError
from devroute.http.buffer import Piece, joined
from devroute.http.http2.headers import Fields
from devroute.http.http2.protocol import Wire
from devroute.http.message import Headers

#: Bytes that one stream may send before it is the next one's turn.
TURN_BYTES: Final = 64 * 1024

#: What a head costs of a turn, near enough.
HEAD_BYTES: Final = 64


class Carrier(Protocol):
    """What a stream needs of the connection that carries it (http/aio/http2_connection.py)."""

    wire: Wire
    stopped: "dict[Http2Stream, None]"

    def wake(self, stream: "Http2Stream") -> None:
        """The stream has something to send."""

    def acknowledge(self, number: int, size: int) -> None:
        """So many bytes were consumed: the peer may send as many again."""

    def dismiss(self, stream: "Http2Stream") -> None:
        """The stream is over."""

    def flush_soon(self) -> None: ...


class Http2Stream:
    """`over`: nothing more is sent or passed on. `stopped`: our source was told to send no more.

    Subclasses say where things go: receive_*, consume and complete what the peer sent, stop_source,
    start_source and sent what becomes of ours.
    """

    __slots__ = (
        "_ended",
        "_heads",
        "_held",
        "_held_end",
        "_paused",
        "_received_end",
        "_sent_end",
        "_trailers",
        "connection",
        "number",
        "over",
        "pieces",
        "queued",
        "stopped",
    )

    def __init__(self) -> None:
        self.connection: Carrier | None = None  # until it has one
        self.number = 0
        self.over = False
        self.stopped = False
        self.pieces: deque[bytes | memoryview] = deque()
        self.queued = 0  # bytes in pieces
        self._heads: list[tuple[Headers, bool]] = []
        self._ended = False
        self._trailers: Headers = []
        self._sent_end = False
        self._received_end = False
        self._paused = False
        self._held: deque[tuple[Piece, int]] = deque()
        self._held_end: Headers | None = None

    # --- what the two sides say

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
        """The peer's half is over, and all of it consumed."""
        raise NotImplementedError

    def sent(self) -> None:
        """Our half is over, and all of it written."""
        raise NotImplementedError

    def stop_source(self) -> None:
        raise NotImplementedError

    def start_source(self) -> None:
        raise NotImplementedError

    # --- sending

    def send_head(self, fields: Headers, *, end: bool = False) -> None:
        """`end`: nothing follows, known now. An end that comes within the loop turn rides on it too."""
        self._heads.append((fields, end))
        self._ended = self._ended or end
        self._wake()

    def send(self, data: bytes) -> None:
        if self._ended or self.over:
            return
        self.pieces.append(data)
        self.queued += len(data)
        self._wake()

    def end(self, trailers: Headers) -> None:
        if self._ended or self.over:
            return
        self._ended = True
        self._trailers = trailers
        self._wake()

    def _wake(self) -> None:
        connection = self.connection
        if connection is None:
            if self.pieces:
                self.stop()
        else:
            connection.wake(self)

    def stop(self) -> None:
        if not self.stopped and not self._ended:
            self.stopped = True
            if self.connection is not None:
                self.connection.stopped[self] = None
            self.stop_source()

    def start(self) -> None:
        """All that was sent has left; the source may go on."""
        self.stopped = False
        if self.connection is not None:
            self.connection.stopped.pop(self, None)
        if not self.over and not self._ended:
            self.start_source()

    def pump(self, wire: Wire) -> int:
        """Hand the wire what the windows allow, but no more than one turn. The number of bytes."""
        number = self.number
        if self.over or not (wire.alive(number) or wire.is_new(number)):
            return 0
        cost = 0
        pieces = self.pieces
        for fields, end in self._heads:
            end = end or (self._ended and not pieces and not self._trailers and fields is self._heads[-1][0])
            wire.send_head(number, fields, end=end)
            self._sent_end = self._sent_end or end
            cost += HEAD_BYTES
        self._heads.clear()
        if pieces:
            cost += self._pump_data(wire)
        if self._ended and not pieces and not self._sent_end:
            self._sent_end = True
            if self._trailers:
                wire.send_head(number, self._trailers, end=True)
            else:
                wire.end_stream(number)
            cost += HEAD_BYTES
        if self._sent_end:
            self.sent()
        return cost

    def _pump_data(self, wire: Wire) -> int:
        number = self.number
        pieces = self.pieces
        largest = wire.max_outbound_frame_size
        room = min(TURN_BYTES, wire.local_flow_control_window(number))
        total = 0
        while pieces and room > 0:
            most = min(room, largest)
            piece = pieces.popleft()
            if len(piece) > most:
                view = memoryview(piece)
                pieces.appendleft(view[most:])
                piece = view[:most]
            elif pieces and len(piece) + len(pieces[0]) <= most:
                several = [piece]
                size = len(piece)
                while pieces and size + len(pieces[0]) <= most:
                    size += len(pieces[0])
                    several.append(pieces.popleft())
                piece = b"".join(several)
            last = self._ended and not pieces and not self._trailers
            wire.send_piece(number, piece, end=last)
            self._sent_end = last
            room -= len(piece)
            total += len(piece)
        self.queued -= total
        return total

    # --- receiving

    def receive_data(self, data: bytes, size: int) -> None:
        """`size`: with its padding, as flow control counts."""
        if self._paused and not self.over:
            self._keep(data, size)
            return
        if data and not self.over:
            self.consume(data)
        if self.connection is not None:
            self.connection.acknowledge(self.number, size)

    def _keep(self, data: bytes, size: int) -> None:
        """Small pieces are joined (http/buffer.py)."""
        held = self._held
        if held and (both := joined(held[-1][0], data)) is not None:
            held[-1] = (both, held[-1][1] + size)
        else:
            held.append((data, size))

    def receive_end(self, trailers: Headers) -> None:
        if self._received_end:
            return
        self._received_end = True
        if self._held:
            self._held_end = trailers
        elif not self.over:
            self.complete(trailers)

    def hold(self) -> None:
        """Pass nothing on until `release`; the peer's window runs out by itself."""
        self._paused = True

    def release(self) -> None:
        self._paused = False
        held = self._held
        while held and not self._paused:
            data, size = held.popleft()
            self.receive_data(bytes(data), size)
        if self._held_end is not None and not held and not self.over:
            trailers, self._held_end = self._held_end, None
            self.complete(trailers)

    def discard_queued(self) -> None:
        self.pieces.clear()
        self.queued = 0

    def discard(self) -> None:
        """The peer reads nothing more: what would have been sent is thrown away."""
        self._ended = True
        self.discard_queued()

    def restart(self, pieces: list[bytes], trailers: Headers | None) -> None:
        """As if nothing had been sent, for another connection. `trailers`: the end was there already."""
        self.connection = None
        self.over = False
        self.pieces.extend(pieces)
        self.queued = sum(map(len, pieces))
        self._ended = trailers is not None
        self._trailers = trailers or []
        self._sent_end = False

    @property
    def all_received(self) -> bool:
        """Whether the peer's half is here whole, consumed or not."""
        return self._received_end

    # --- the end

    def reset(self, code: ErrorCodes) -> None:
        """End both halves now, if they have not ended."""
        connection = self.connection
        if connection is not None and connection.wire.alive(self.number):
            connection.wire.reset_stream(self.number, code)
            connection.flush_soon()
        self.leave()

    def leave(self) -> None:
        """Nothing more is sent or passed on."""
        self.over = True
        self.pieces.clear()
        self._heads.clear()
        connection = self.connection
        if connection is not None:
            connection.dismiss(self)
            for _, size in self._held:
                connection.acknowledge(self.number, size)
        self._held.clear()
