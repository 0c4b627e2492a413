"""One end of a tunnel: bytes in, events out; calls in, bytes out. Pure: no clock, no socket.

`receive` never raises on what a peer sends: a broken rule becomes the event Broken, and nothing follows.
The other methods raise ValueError on misuse by this side, since that is a defect of ours.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Final, NamedTuple

from devroute.errors import ProtocolError
from devroute.http1 import Headers
from devroute.tunnel import frames
from devroute.tunnel.frames import HEADER, MAX_STREAM_ID, MAX_STREAMS, WINDOW, Flag, FrameType, Reason
from devroute.tunnel.streams import BODY, CLOSED, FORBIDDEN, HEADLESS, NEXT, Stream

Buffer = bytes | bytearray | memoryview


class Role(Enum):
    PROXY = auto()
    AGENT = auto()


# --- events -----------------------------------------------------------------------------------------------


class Hello(NamedTuple):
    """The agent's first frame; nothing may be opened before send_welcome."""

    body: bytes


class Welcome(NamedTuple):
    body: bytes


class Opened(NamedTuple):
    """A request. `length` is its body's where no flag says otherwise."""

    stream: Stream
    service: bytes
    flags: int
    length: int
    wire: bytes


class Head(NamedTuple):
    stream: Stream
    raw: bytes
    flags: int


class Data(NamedTuple):
    """A piece of a body, empty only if `end`. Once consumed, grant(stream, len(data)) is owed."""

    stream: Stream
    data: bytes
    end: int


class Ended(NamedTuple):
    stream: Stream
    trailers: Headers


class Reset(NamedTuple):
    """The peer ended both halves."""

    stream: Stream
    reason: Reason


class Writable(NamedTuple):
    """Credit came for a stream whose send_data had said to stop."""

    stream: Stream


class Pong(NamedTuple):
    payload: bytes


class GoAway(NamedTuple):
    reason: Reason


class Broken(NamedTuple):
    """The peer broke the protocol; a GOAWAY that says so is ready to be sent, and nothing else is read."""

    error: ProtocolError


Event = Hello | Welcome | Opened | Head | Data | Ended | Reset | Writable | Pong | GoAway | Broken

# The rules as arrays over the type's number, for the parse loop. Type 0 fails its limit, whatever its length.
_FLAGS_FORBIDDEN: Final = (255, *(255 & ~int(frames.RULES[kind].flags) for kind in FrameType))
_LIMIT: Final = (-1, *(frames.RULES[kind].limit for kind in FrameType))
_OF_STREAM: Final = (False, *(frames.RULES[kind].of_stream for kind in FrameType))
_LAST_TYPE: Final = int(max(FrameType))
_HEADER_SIZE: Final = HEADER.size
_OPEN_PREFIX_SIZE: Final = frames.OPEN_PREFIX.size
_HALF_WINDOW: Final = WINDOW // 2

# Plain integers, and tuples made without a namedtuple's Python-level __new__: an enum member costs 0.15 µs to
# look up and a named tuple 0.6 µs to make, and a request has some ten of them.
_OPEN: Final = int(FrameType.OPEN)
_HEAD: Final = int(FrameType.HEAD)
_DATA: Final = int(FrameType.DATA)
_END: Final = int(Flag.END)
_DATA_WITH_END: Final = bytes((_DATA, _END))
_event = tuple.__new__

#: Up to here it is cheaper to copy all bytes once and slice them; above, to copy each payload by itself.
_COPY_WHOLE: Final = 32 * 1024

_unpack = HEADER.unpack_from
_pack = HEADER.pack
_pack_open = frames.OPEN_HEADER.pack

_Handler = Callable[[int, int, bytes], None]


class Session:
    """`streams` are the open ones by id; `pending` is the number of bytes that data_to_send would return."""

    def __init__(self, role: Role, *, max_streams: int = MAX_STREAMS) -> None:
        self.role = role
        self.streams: dict[int, Stream] = {}
        self.pending = 0
        self.greeted = False
        self.leaving = False
        self.finished = False
        self._max_streams = max_streams
        self._last_id = 0
        self._out: list[bytes] = []
        self._pong: bytes | None = None
        self._broken = False
        self._events: list[Event] = []
        self._held = bytearray()  # an incomplete frame, never DATA's payload
        self._need = 0  # bytes of _held before parsing on can make sense
        self._left = 0  # payload bytes of a DATA frame still to come
        self._left_stream: Stream | None = None
        self._left_end = 0
        self._handlers = self._before_greeting()

    def _before_greeting(self) -> dict[int, _Handler]:
        if self.role is Role.PROXY:
            return {FrameType.HELLO: self._on_hello, FrameType.GOAWAY: self._on_goaway}
        return {FrameType.WELCOME: self._on_welcome, FrameType.GOAWAY: self._on_goaway}

    def _after_greeting(self) -> dict[int, _Handler]:
        answer: tuple[FrameType, _Handler] = (
            (FrameType.HEAD, self._on_head) if self.role is Role.PROXY else (FrameType.OPEN, self._on_open)
        )
        return dict(
            (
                answer,
                (FrameType.TRAILERS, self._on_trailers),
                (FrameType.END, self._on_end),
                (FrameType.RESET, self._on_reset),
                (FrameType.CREDIT, self._on_credit),
                (FrameType.PING, self._on_ping),
                (FrameType.PONG, self._on_pong),
                (FrameType.GOAWAY, self._on_goaway),
            )
        )

    # --- receiving ----------------------------------------------------------------------------------------

    def receive(self, data: Buffer) -> list[Event]:
        """What these bytes say. Frames may be split anywhere; a body is passed on as far as it is there."""
        events = self._events = []
        if self._broken or self.finished:
            return events
        try:
            self._parse(data)
        except ProtocolError as error:
            self._broken = True
            self.goaway(error.code, error.message, error.hint)
            events.append(Broken(error))
        return events

    def _parse(self, data: Buffer) -> None:
        held = self._held
        if held:
            held += data
            if len(held) < self._need:
                return
            self._held = bytearray()
            data = held
        if type(data) is not bytes:
            data = bytes(data) if len(data) <= _COPY_WHOLE else memoryview(data)
        size = len(data)
        at = self._more_data(data, size) if self._left else 0
        streams = self.streams
        events = self._events
        need = _HEADER_SIZE
        while size - at >= _HEADER_SIZE:
            kind, flags, number, length = _unpack(data, at)
            if (
                kind > _LAST_TYPE
                or flags & _FLAGS_FORBIDDEN[kind]
                or length > _LIMIT[kind]
                or (number != 0) is not _OF_STREAM[kind]
            ):
                frames.check_header(kind, flags, number, length)
            body = at + _HEADER_SIZE
            at_next = body + length
            if kind == _DATA:
                stream = streams.get(number)
                if stream is None:
                    self._must_have_been(number)
                else:
                    if NEXT[stream.inbound][(_DATA << 2) | flags] == FORBIDDEN:
                        raise self._misplaced(_DATA, stream)
                    if length > stream.room:
                        raise ProtocolError(
                            f"DATA of {length} bytes on stream {number} overruns its credit of {stream.room}"
                        )
                    stream.room -= length
                if at_next > size:
                    if stream is not None and body < size:
                        events.append(_event(Data, (stream, bytes(data[body:]), 0)))
                    self._left = at_next - size
                    self._left_stream = stream
                    self._left_end = flags
                    return
                if stream is not None and (length or flags):
                    events.append(_event(Data, (stream, bytes(data[body:at_next]), flags)))
                    if flags:
                        self._inbound_closed(stream)
            else:
                if at_next > size:
                    need = _HEADER_SIZE + length
                    break
                handler = self._handlers.get(kind)
                if handler is None:
                    raise ProtocolError(f"{FrameType(kind).name} is not allowed here")
                handler(flags, number, bytes(data[body:at_next]))
            at = at_next
        if at < size:
            self._held += data[at:]
            self._need = need

    def _more_data(self, data: bytes | memoryview, size: int) -> int:
        """The rest of a DATA frame that an earlier call began; the position after it."""
        stop = min(self._left, size)
        self._left -= stop
        stream = self._left_stream
        if stream is not None and stream.inbound != CLOSED:
            end = 0 if self._left else self._left_end
            if stop:
                self._events.append(Data(stream, bytes(data[:stop]), end))
            if end:
                self._inbound_closed(stream)
        return stop

    def _must_have_been(self, number: int) -> None:
        if number > self._last_id:
            raise ProtocolError(f"a frame for stream {number}, which was never opened")

    @staticmethod
    def _misplaced(kind: int, stream: Stream) -> ProtocolError:
        state = ("before its HEAD", "in its body", "after its end")[stream.inbound]
        return ProtocolError(f"{FrameType(kind).name} on stream {stream.id} {state}")

    def _step(self, kind: int, number: int, flags: int) -> Stream | None:
        """Moves the inbound half. None for a stream that is closed already: that frame crossed our RESET."""
        stream = self.streams.get(number)
        if stream is None:
            self._must_have_been(number)
            return None
        state = NEXT[stream.inbound][(kind << 2) | (flags & 3)]
        if state == FORBIDDEN:
            raise self._misplaced(kind, stream)
        if state == CLOSED:
            self._inbound_closed(stream)
        else:
            stream.inbound = state
        return stream

    def _inbound_closed(self, stream: Stream) -> None:
        stream.inbound = CLOSED
        if stream.outbound == CLOSED:
            del self.streams[stream.id]

    def _outbound_closed(self, stream: Stream) -> None:
        stream.outbound = CLOSED
        if stream.inbound == CLOSED:
            del self.streams[stream.id]

    def _on_hello(self, flags: int, number: int, payload: bytes) -> None:
        self._handlers = {FrameType.GOAWAY: self._on_goaway}  # nothing else until we have answered
        self._events.append(Hello(payload))

    def _on_welcome(self, flags: int, number: int, payload: bytes) -> None:
        self.greeted = True
        self._handlers = self._after_greeting()
        self._events.append(Welcome(payload))

    def _on_open(self, flags: int, number: int, payload: bytes) -> None:
        if number <= self._last_id:
            raise ProtocolError(f"stream {number} was opened before")
        if len(self.streams) >= self._max_streams:
            raise ProtocolError(f"more than {self._max_streams} streams are open")
        length, service, wire = frames.decode_open(payload)
        self._last_id = number
        stream = Stream(number, CLOSED if flags & _END else BODY, HEADLESS)
        self.streams[number] = stream
        self._events.append(_event(Opened, (stream, service, flags, length, wire)))

    def _on_head(self, flags: int, number: int, payload: bytes) -> None:
        stream = self._step(_HEAD, number, flags)
        if stream is not None:
            self._events.append(_event(Head, (stream, payload, flags)))

    def _on_trailers(self, flags: int, number: int, payload: bytes) -> None:
        trailers = frames.decode_trailers(payload)
        stream = self._step(FrameType.TRAILERS, number, flags)
        if stream is not None:
            self._events.append(Ended(stream, trailers))

    def _on_end(self, flags: int, number: int, payload: bytes) -> None:
        stream = self._step(FrameType.END, number, flags)
        if stream is not None:
            self._events.append(Ended(stream, []))

    def _on_reset(self, flags: int, number: int, payload: bytes) -> None:
        reason = frames.decode_reason(payload)
        stream = self.streams.get(number)
        if stream is None:
            self._must_have_been(number)
            return
        self._drop(stream)
        self._events.append(Reset(stream, reason))

    def _on_credit(self, flags: int, number: int, payload: bytes) -> None:
        credit = frames.decode_credit(payload)
        stream = self.streams.get(number)
        if stream is None:
            self._must_have_been(number)
            return
        stopped = stream.backlog is not None or not stream.credit
        stream.credit += credit
        if stream.credit > WINDOW:
            raise ProtocolError(f"CREDIT on stream {number} for bytes that were never sent")
        if stopped and self._drain(stream):
            self._events.append(Writable(stream))

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        self._pong = payload  # only the newest is answered: a flood of them costs no memory

    def _on_pong(self, flags: int, number: int, payload: bytes) -> None:
        self._events.append(Pong(payload))

    def _on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        self.leaving = True
        self._events.append(GoAway(frames.decode_reason(payload)))

    # --- sending ------------------------------------------------------------------------------------------

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

    def send_welcome(self, body: bytes) -> None:
        self.greeted = True
        self._handlers = self._after_greeting()
        self._frame(FrameType.WELCOME, 0, 0, body)

    @property
    def ids_used_up(self) -> bool:
        return self._last_id >= MAX_STREAM_ID

    @property
    def full(self) -> bool:
        return len(self.streams) >= self._max_streams

    def open(self, service: bytes, wire: bytes, flags: int, length: int) -> Stream:
        """Start a request; END in flags: it has no body. `service`: 1 to 255 bytes."""
        streams = self.streams
        number = self._last_id + 1
        if not self.greeted or self.leaving or len(streams) >= self._max_streams or number > MAX_STREAM_ID:
            raise ValueError("this session cannot open a stream now")
        self._last_id = number
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
            raise ValueError("a second head on a stream")
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
        """Send now what credit allows and keep the rest. False: send no more until Writable.

        Data for a half that is closed already goes nowhere: a RESET came while the source was at work.
        """
        if stream.outbound != BODY:
            if stream.outbound == CLOSED:
                return True
            raise ValueError("data before the head")
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
        out += (_pack(_DATA, 0, stream.id, size), data)
        self.pending += _HEADER_SIZE + size

    def send_end(self, stream: Stream, trailers: Headers | None = None) -> None:
        """Close our half, after whatever still waits for credit."""
        if stream.outbound != BODY:
            if stream.outbound == CLOSED:
                return
            raise ValueError("an end before the head")
        if stream.backlog is not None:
            stream.backlog_end = trailers or []
            return
        if trailers:
            self._frame(FrameType.TRAILERS, 0, stream.id, frames.encode_trailers(trailers))
        elif stream.last_out is self._out:
            header = self._out[stream.last_header]
            both = _DATA_WITH_END if header[0] == _DATA else bytes((header[0], header[1] | _END))
            self._out[stream.last_header] = both + header[2:]
        else:
            self._frame(FrameType.END, 0, stream.id, b"")
        self._outbound_closed(stream)

    def _drain(self, stream: Stream) -> bool:
        """Send from the backlog; True when its source may go on."""
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
        """End both halves now; nothing happens if they have ended."""
        if self.streams.get(stream.id) is not stream:
            return
        self._drop(stream)
        self._frame(FrameType.RESET, 0, stream.id, frames.encode_reason(code, message, hint))

    def _drop(self, stream: Stream) -> None:
        stream.inbound = stream.outbound = CLOSED
        stream.backlog = stream.backlog_end = None
        del self.streams[stream.id]

    def grant(self, stream: Stream, size: int) -> None:
        """The consumer took `size` bytes. CREDIT leaves once half of the window is owed."""
        owed = stream.unreturned + size
        if owed >= _HALF_WINDOW and stream.inbound != CLOSED:
            self._out.append(frames.CREDIT_FRAME.pack(FrameType.CREDIT, 0, stream.id, 4, owed))
            self.pending += frames.CREDIT_FRAME.size
            stream.room += owed
            owed = 0
        stream.unreturned = owed

    def ping(self, payload: bytes = b"") -> None:
        self._frame(FrameType.PING, 0, 0, payload)

    def goaway(self, code: str, message: str, hint: str = "") -> None:
        """Say that no new stream will be opened or accepted by this side."""
        self.leaving = True
        self._frame(FrameType.GOAWAY, 0, 0, frames.encode_reason(code, message, hint))

    def finish(self) -> list[Stream]:
        """The connection is over: the streams that were open, which are now closed on both sides."""
        self.finished = self.leaving = True
        streams = list(self.streams.values())
        for stream in streams:
            self._drop(stream)
        return streams
