"""The sending half of a session: calls in, frames out, within the peer's credit. Pure: no clock, no socket.

The methods raise ValueError on misuse, which is a defect of this side. For a stream that the peer has reset
they do nothing, since its source may not know yet.
"""

from collections import deque
from typing import Final

from devroute.http.message import Headers
from devroute.tunnel.protocol import frames
from devroute.tunnel.protocol.frames import CREDITS_PER_WINDOW, HEADER, WINDOW, Flag, FrameType
from devroute.tunnel.protocol.stream import BODY, CLOSED, FORBIDDEN, HEADLESS, NEXT, Stream
from devroute.tunnel.protocol.windows import MAX_WINDOW, WindowBudget

# Plain integers: an enum's member costs 0.15 µs to look up, and a request has some ten of them.
_OPEN: Final = int(FrameType.OPEN)
_HEAD: Final = int(FrameType.HEAD)
_DATA: Final = int(FrameType.DATA)
_END: Final = int(Flag.END)
_DATA_WITH_END: Final = bytes((_DATA, _END))
_HEADER_SIZE: Final = HEADER.size
_OPEN_PREFIX_SIZE: Final = frames.OPEN_PREFIX.size
_SPENT: Final = int(Flag.SPENT)
_DOUBLED: Final = int(Flag.DOUBLED)

_pack: Final = HEADER.pack
_pack_open: Final = frames.OPEN_HEADER.pack


class Sender:
    """`streams` are the open ones by id; at most `max_streams` are this side's own, and `accepted` the number
    of the peer's. This side's ids go from `first_id` to `max_id`, and `last_id` is the newest one's.
    `pending` is the number of bytes that data_to_send would return."""

    def __init__(self, max_streams: int, max_id: int) -> None:
        self.streams: dict[int, Stream] = {}
        self.pending = 0
        self.greeted = False
        self.leaving = False
        self.finished = False
        self.renewing = False  # a RENEW has not been answered by RENEWED
        self.max_streams = max_streams
        self.accepted = 0
        self.windows: WindowBudget | None = None  # once the peer knows windows that grow
        self.first_id = 1
        self.max_id = max_id
        self.last_id = 0
        self._out: list[bytes] = []
        self._pong: bytes | None = None

    @property
    def opened(self) -> int:
        """The number of open streams that this side has opened."""
        return len(self.streams) - self.accepted

    def _is_own(self, number: int) -> bool:
        """Whether the stream of this id is one that this side has opened, or may open."""
        return self.first_id <= number <= self.max_id

    def data_to_send(self) -> list[bytes]:
        """Everything since the last call, to be joined and sent; empty if there is nothing."""
        if self._pong is not None:
            pong, self._pong = self._pong, None
            self._frame(FrameType.PONG, 0, 0, pong)
        out, self._out = self._out, []
        self.pending = 0
        return out

    @property
    def has_output(self) -> bool:
        return bool(self._out) or self._pong is not None

    def _frame(self, kind: int, flags: int, number: int, payload: bytes) -> None:
        size = len(payload)
        self._out.append(_pack(kind, flags, number, size))
        if size:
            self._out.append(payload)
        self.pending += _HEADER_SIZE + size

    def send_hello(self, body: bytes) -> None:
        self._frame(FrameType.HELLO, 0, 0, body)

    def send_renew(self, token: bytes) -> None:
        """Raises ValueError while `renewing`, and before the greeting."""
        if self.renewing or not self.greeted:
            raise ValueError("a token cannot be renewed now")
        self.renewing = True
        self._frame(FrameType.RENEW, 0, 0, token)

    def send_renewed(self, body: bytes) -> None:
        """Respond to a RenewFrame."""
        self.renewing = False
        self._frame(FrameType.RENEWED, 0, 0, body)

    def open(self, service: bytes, wire: bytes, flags: int, length: int) -> Stream:
        """Start a request; with END in `flags` it has no body. `service`: 1 to 255 bytes. Raises ValueError
        while no stream can be opened."""
        streams = self.streams
        number = self.last_id + 1
        if not self.greeted or self.leaving or self.opened >= self.max_streams or number > self.max_id:
            raise ValueError("this session cannot open a stream now")
        self.last_id = number
        named = len(service)
        size = _OPEN_PREFIX_SIZE + named + len(wire)
        stream = Stream(number, HEADLESS, CLOSED if flags & _END else BODY)
        streams[number] = stream
        out = self._out
        stream.last_out = out
        stream.last_header = len(out)
        out += (_pack_open(_OPEN, flags, number, size, length, named), service, wire)
        self.pending += _HEADER_SIZE + size
        return stream

    def send_head(self, stream: Stream, raw: bytes, flags: int = 0) -> None:
        state = NEXT[stream.outbound][(_HEAD << 2) | (flags & 3)]
        if state == FORBIDDEN:
            if stream.closed:
                return
            raise ValueError("a second HEAD on a stream")
        out = self._out
        stream.last_out = out
        stream.last_header = len(out)
        size = len(raw)
        out += (_pack(_HEAD, flags, stream.id, size), raw)
        self.pending += _HEADER_SIZE + size
        if state == CLOSED:
            self._outbound_closed(stream)
        else:
            stream.outbound = state

    def send_data(self, stream: Stream, data: bytes) -> bool:
        """Send what credit allows, and keep the rest. False: send no more until Writable."""
        if stream.outbound != BODY:
            if stream.outbound == CLOSED:
                return True
            raise ValueError("DATA before the HEAD")
        if stream.backlog is not None:
            stream.backlog.append(data)
            return False
        credit = stream.credit
        size = len(data)
        if size <= credit:
            self._data_frame(stream, data, size)
            return credit > size
        if credit:
            self._data_frame(stream, data[:credit], credit)
        stream.backlog = deque((data[credit:],))
        return False

    def _data_frame(self, stream: Stream, data: bytes, size: int) -> None:
        out = self._out
        stream.credit -= size
        stream.last_out = out
        stream.last_header = len(out)
        flags = 0 if stream.credit or self.windows is None else _SPENT
        out += (_pack(_DATA, flags, stream.id, size), data)
        self.pending += _HEADER_SIZE + size

    def send_end(self, stream: Stream, trailers: Headers | None = None) -> None:
        """Close our half, after the data that wait for credit. END becomes a flag of the last frame, but not
        of OPEN: there it says that there is no body, and older agents would send no last chunk."""
        if stream.outbound != BODY:
            if stream.outbound == CLOSED:
                return
            raise ValueError("END before the HEAD")
        if stream.backlog is not None:
            stream.backlog_end = trailers or []
            return
        if trailers:
            self._frame(FrameType.TRAILERS, 0, stream.id, frames.encode_trailers(trailers))
        elif stream.last_out is self._out and (header := self._out[stream.last_header])[0] != _OPEN:
            both = _DATA_WITH_END if header[0] == _DATA else bytes((header[0], header[1] | _END))
            self._out[stream.last_header] = both + header[2:]
        else:
            self._frame(FrameType.END, 0, stream.id, b"")
        self._outbound_closed(stream)

    def _drain(self, stream: Stream) -> bool:
        """Send from the backlog. True: the source may go on."""
        backlog = stream.backlog
        if backlog is None:
            return stream.credit > 0
        while backlog and stream.credit:
            data = backlog.popleft()
            if len(data) > stream.credit:
                backlog.appendleft(data[stream.credit :])
                data = data[: stream.credit]
            self._data_frame(stream, data, len(data))
        if backlog:
            return False
        stream.backlog = None
        if stream.backlog_end is not None:
            trailers, stream.backlog_end = stream.backlog_end, None
            self.send_end(stream, trailers)
            return False
        return stream.credit > 0

    def reset(self, stream: Stream, code: str, message: str, hint: str = "") -> None:
        """End both halves; nothing happens if they have ended."""
        if self.streams.get(stream.id) is not stream:
            return
        self._drop(stream)
        self._frame(FrameType.RESET, 0, stream.id, frames.encode_reason(code, message, hint))

    def _drop(self, stream: Stream) -> None:
        stream.inbound = stream.outbound = CLOSED
        stream.backlog = stream.backlog_end = None
        self._remove(stream.id)

    def _remove(self, number: int) -> None:
        """Both halves of a stream have ended."""
        del self.streams[number]
        if not self._is_own(number):
            self.accepted -= 1

    def grant(self, stream: Stream, size: int) -> None:
        """The consumer took `size` bytes. CREDIT is sent once it amounts to an eighth of the window."""
        if stream.inbound == CLOSED:
            return
        owed = stream.unreturned + size
        if owed >= stream.window // CREDITS_PER_WINDOW:
            flags = _DOUBLED if stream.doubled else 0
            stream.doubled = False
            self._out.append(frames.CREDIT_FRAME.pack(FrameType.CREDIT, flags, stream.id, 4, owed))
            self.pending += frames.CREDIT_FRAME.size
            stream.room += owed
            owed = 0
        stream.unreturned = owed

    def _widen(self, stream: Stream) -> None:
        """The peer has no credit left. If the consumer has taken most of what came, the window is smaller
        than what the network takes in a round trip: double it."""
        window = stream.window
        if stream.uninformed or window >= MAX_WINDOW or self.windows is None:
            return
        unconsumed = window - stream.room - stream.unreturned
        if unconsumed <= window // 2 and self.windows.take(window):
            stream.window = 2 * window
            stream.uninformed = stream.room
            stream.unreturned += window  # goes with the next CREDIT
            stream.doubled = True

    def release_window(self, stream: Stream) -> None:
        """All that came on the stream was consumed, or is not wanted."""
        if stream.window > WINDOW and self.windows is not None:
            self.windows.give_back(stream.window - WINDOW)
            stream.window = WINDOW

    def _outbound_closed(self, stream: Stream) -> None:
        stream.outbound = CLOSED
        if stream.inbound == CLOSED:
            self._remove(stream.id)

    def ping(self, payload: bytes = b"") -> None:
        self._frame(FrameType.PING, 0, 0, payload)

    def goaway(self, code: str, message: str, hint: str = "") -> None:
        """This side opens and accepts no new stream."""
        self.leaving = True
        self._frame(FrameType.GOAWAY, 0, 0, frames.encode_reason(code, message, hint))

    def finish(self) -> list[Stream]:
        """The connection has ended. Returns the streams that were open, now closed on both sides."""
        self.finished = self.leaving = True
        streams = list(self.streams.values())
        for stream in streams:
            self._drop(stream)
        return streams
