"""One end of a tunnel: bytes in, events out; tunnel/protocol/sender.py is its sending half. Pure: no clock,
no socket.

`receive` never raises for what a peer sends: a violation becomes the event Broken, and nothing follows it.
Longer than 350 lines: it has a few for each frame.
"""

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

from devroute.errors import ProtocolError
from devroute.tunnel.protocol import frames
from devroute.tunnel.protocol.events import (
    Broken,
    Data,
    Ended,
    Event,
    GoAway,
    Head,
    HelloFrame,
    Opened,
    Pong,
    RenewedFrame,
    RenewFrame,
    Reset,
    WelcomeFrame,
    Writable,
)
from devroute.tunnel.protocol.flood_guard import SMALL_CREDIT
from devroute.tunnel.protocol.frames import HEADER, MAX_STREAMS, Buffer, Flag, FrameType, number_at
from devroute.tunnel.protocol.sender import Sender
from devroute.tunnel.protocol.stream import BODY, CLOSED, FORBIDDEN, HEADLESS, NEXT, Stream
from devroute.tunnel.protocol.windows import MAX_WINDOW


class Role(Enum):
    PROXY = auto()
    AGENT = auto()


# frames.RULES as arrays over the type's number, for the parse loop. Type 0 fails by its limit.
_FLAGS_FORBIDDEN: Final = (255, *(255 & ~int(frames.RULES[kind].flags) for kind in FrameType))
_LIMIT: Final = (-1, *(frames.RULES[kind].limit for kind in FrameType))
_OF_STREAM: Final = (False, *(frames.RULES[kind].of_stream for kind in FrameType))
_LAST_TYPE: Final = int(max(FrameType))
_HEADER_SIZE: Final = HEADER.size

# Plain integers, as in sender.py.
_OPEN: Final = int(FrameType.OPEN)
_HEAD: Final = int(FrameType.HEAD)
_DATA: Final = int(FrameType.DATA)
_END: Final = int(Flag.END)
_SPENT: Final = int(Flag.SPENT)

#: Up to so many bytes it is cheaper to copy them all once and slice them; above, to copy each payload by
#: itself.
_COPY_WHOLE: Final = 32 * 1024

_Handler = Callable[[int, int, bytes], None]


class Session(Sender):
    """One end. The proxy's opens streams, the agent's accepts them; with `reach` also the reverse.

    `control_frames` and `resets` count what tunnel/protocol/flood_guard.py limits; the owner reads and clears
    them.
    """

    def __init__(self, role: Role, *, max_streams: int = MAX_STREAMS) -> None:
        super().__init__(max_streams, frames.MAX_STREAM_ID if role is Role.PROXY else 0)
        self.role = role
        self.reach = False
        self._max_accepted = max_streams
        self._last_accepted = 0  # the id of the peer's newest stream
        self._accepted_so_far = 0
        self.control_frames = 0
        self.resets = 0
        self._broken = False
        self._events: list[Event] = []
        self._held = bytearray()  # an incomplete frame, never DATA's payload
        self._need = 0  # bytes of _held before parsing on can make sense
        self._left = 0  # payload bytes of a DATA frame still to come
        self._left_stream: Stream | None = None
        self._left_end = 0
        # What each request has is dispatched without a look-up.
        self._takes_open = False
        self._takes_head = False
        self._handlers: dict[int, _Handler] = {FrameType.GOAWAY: self._on_goaway}
        if role is Role.PROXY:
            self._handlers[FrameType.HELLO] = self._on_hello
        else:
            self._handlers[FrameType.WELCOME] = self._on_welcome

    def _greeted(self) -> None:
        """From now on streams may be opened."""
        self.greeted = True
        self._handlers = {
            FrameType.TRAILERS: self._on_trailers,
            FrameType.END: self._on_end,
            FrameType.RESET: self._on_reset,
            FrameType.CREDIT: self._on_credit,
            FrameType.PING: self._on_ping,
            FrameType.PONG: self._on_pong,
            FrameType.GOAWAY: self._on_goaway,
        }
        if self.role is Role.PROXY:
            self._handlers[FrameType.RENEW] = self._on_renew
            self._takes_head = True
            self._takes_open = self.reach  # an agent learns of it from the WELCOME
        else:
            self._handlers[FrameType.RENEWED] = self._on_renewed
            self._takes_open = True

    def enable_reach(self) -> None:
        """Both sides have the feature: the agent may open streams, too, whose ids have the top bit set. The
        proxy's side does this before `send_welcome`."""
        self.reach = True
        if self.role is Role.PROXY:
            self.max_id = frames.FIRST_AGENT_ID - 1
            self._last_accepted = frames.FIRST_AGENT_ID - 1
        else:
            self.first_id, self.max_id = frames.FIRST_AGENT_ID, frames.MAX_STREAM_ID
            self.last_id = frames.FIRST_AGENT_ID - 1
            self._takes_head = True

    @property
    def streams_so_far(self) -> int:
        """How many streams both sides have opened."""
        return self.last_id + 1 - self.first_id + self._accepted_so_far

    def send_welcome(self, body: bytes) -> None:
        """Respond to a HelloFrame."""
        self._greeted()
        self._frame(FrameType.WELCOME, 0, 0, body)

    # --- receiving ----------------------------------------------------------------------------------------

    def receive(self, data: Buffer) -> list[Event]:
        """The events in these bytes. Frames may be split anywhere; DATA is passed on as far as it has
        arrived."""
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
        """Longer than 40 lines: each frame passes all of them, and calls would cost as much as what they
        do."""
        held = self._held
        if held:
            held += data
            if len(held) < self._need:
                return
            self._held = bytearray()
            data = held
        whole = b""
        if type(data) is bytes:
            whole = data
        elif len(data) <= _COPY_WHOLE:
            data = whole = bytes(data)
        else:
            data = memoryview(data)
        copied = len(whole) > 0
        size = len(data)
        at = self._more_data(data, size) if self._left else 0
        need = _HEADER_SIZE
        while size - at >= _HEADER_SIZE:
            body = at + _HEADER_SIZE
            header = whole[at:body] if copied else bytes(data[at:body])
            kind, flags = header[0], header[1]
            number, length = number_at(header, 2), number_at(header, 6)
            if (
                kind > _LAST_TYPE
                or flags & _FLAGS_FORBIDDEN[kind]
                or length > _LIMIT[kind]
                or (number != 0) is not _OF_STREAM[kind]
            ):
                frames.check_header(kind, flags, number, length)
            at_next = body + length
            if at_next > size and kind != _DATA:
                need = _HEADER_SIZE + length
                break
            payload = whole[body:at_next] if copied else bytes(data[body:at_next])
            if kind == _DATA:
                self._on_data(flags, number, length, payload)
                if at_next > size:
                    return
            elif kind == _HEAD and self._takes_head:
                self._on_head(flags, number, payload)
            elif kind == _OPEN and self._takes_open:
                self._on_open(flags, number, payload)
            else:
                handler = self._handlers.get(kind)
                if handler is None:
                    raise ProtocolError(f"{FrameType(kind).name} is not allowed here")
                handler(flags, number, payload)
            at = at_next
        if at < size:
            self._held += data[at:]
            self._need = need

    def _on_data(self, flags: int, number: int, length: int, part: bytes) -> None:
        """`part`: the payload as far as it has arrived; `_more_data` passes the rest on."""
        stream = self.streams.get(number)
        spent = flags & _SPENT
        flags &= _END
        if stream is None:
            self._ended_before(number)
        else:
            if NEXT[stream.inbound][(_DATA << 2) | flags] == FORBIDDEN:
                raise self._misplaced(_DATA, stream)
            if length > stream.room:
                raise ProtocolError(
                    f"DATA of {length} bytes on stream {number} overruns its credit of {stream.room}"
                )
            stream.room -= length
            if stream.uninformed:
                stream.uninformed = max(0, stream.uninformed - length)
            elif spent:
                self._widen(stream)
        missing = length - len(part)
        if missing:
            self._left, self._left_stream, self._left_end = missing, stream, flags
            flags = 0
        if stream is None:
            return
        if flags or len(part):
            self._events.append(Data(stream, part, flags))
            if flags:
                self._inbound_closed(stream)
        elif not length:
            self.control_frames += 1

    def _more_data(self, data: bytes | memoryview, size: int) -> int:
        """More of a DATA frame that began in an earlier call. Returns the position after it."""
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

    def _ended_before(self, number: int) -> None:
        """A frame for a stream that has ended may have crossed our RESET, so it counts as a control frame
        only."""
        if number > (self.last_id if self._is_own(number) else self._last_accepted):
            raise ProtocolError(f"a frame for stream {number}, which was never opened")
        self.control_frames += 1

    @staticmethod
    def _misplaced(kind: int, stream: Stream) -> ProtocolError:
        state = ("before its HEAD", "in its body", "after its end")[stream.inbound]
        return ProtocolError(f"{FrameType(kind).name} on stream {stream.id} {state}")

    def _step(self, kind: int, number: int, flags: int) -> Stream | None:
        """Advance the inbound half. None for a stream that has ended: the frame may have crossed our
        RESET."""
        stream = self.streams.get(number)
        if stream is None:
            self._ended_before(number)
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
            self._remove(stream.id)

    def _on_hello(self, flags: int, number: int, payload: bytes) -> None:
        del self._handlers[FrameType.HELLO]  # only GOAWAY may come before WELCOME
        self._events.append(HelloFrame(payload))

    def _on_welcome(self, flags: int, number: int, payload: bytes) -> None:
        self._greeted()
        self._events.append(WelcomeFrame(payload))

    def _on_open(self, flags: int, number: int, payload: bytes) -> None:
        if self._is_own(number):
            raise ProtocolError(f"stream {number} was opened with an id of the other side")
        if number <= self._last_accepted:
            raise ProtocolError(f"stream {number} was opened before")
        if self.accepted >= self._max_accepted:
            raise ProtocolError(f"more than {self._max_accepted} streams are open")
        length, service, wire = frames.decode_open(payload)
        self._last_accepted = number
        self.accepted += 1
        self._accepted_so_far += 1
        stream = Stream(number, CLOSED if flags & _END else BODY, HEADLESS)
        self.streams[number] = stream
        self._events.append(Opened(stream, service, flags, length, wire))

    def _on_head(self, flags: int, number: int, payload: bytes) -> None:
        stream = self._step(_HEAD, number, flags)
        if stream is not None:
            self._events.append(Head(stream, payload, flags))

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
            self._ended_before(number)
            return
        if not self._is_own(number):  # this side has worked for it
            self.resets += 1
        self._drop(stream)
        self._events.append(Reset(stream, reason))

    def _on_credit(self, flags: int, number: int, payload: bytes) -> None:
        credit = frames.decode_credit(payload)
        if credit < SMALL_CREDIT:
            self.control_frames += 1
        stream = self.streams.get(number)
        if stream is None:
            self._ended_before(number)
            return
        stopped = stream.backlog is not None or not stream.credit
        if flags:
            if stream.peer_window >= MAX_WINDOW:
                raise ProtocolError(f"CREDIT on stream {number} for a window of more than {MAX_WINDOW} bytes")
            stream.peer_window *= 2
        stream.credit += credit
        if stream.credit > stream.peer_window:
            raise ProtocolError(f"CREDIT on stream {number} for bytes that were never sent")
        if stopped and (self._drain(stream) or stream.outbound == CLOSED):
            self._events.append(Writable(stream))

    def _on_ping(self, flags: int, number: int, payload: bytes) -> None:
        self.control_frames += 1
        self._pong = payload  # only the newest is answered, so a flood of them costs no memory

    def _on_pong(self, flags: int, number: int, payload: bytes) -> None:
        self.control_frames += 1
        self._events.append(Pong(payload))

    def _on_renew(self, flags: int, number: int, payload: bytes) -> None:
        self.control_frames += 1
        if self.renewing:
            raise ProtocolError("RENEW before the RENEWED that replies to the last one")
        self.renewing = True
        self._events.append(RenewFrame(payload))

    def _on_renewed(self, flags: int, number: int, payload: bytes) -> None:
        if not self.renewing:
            raise ProtocolError("RENEWED without a RENEW")
        self.renewing = False
        self._events.append(RenewedFrame(payload))

    def _on_goaway(self, flags: int, number: int, payload: bytes) -> None:
        self.control_frames += 1
        self.leaving = True
        self._events.append(GoAway(frames.decode_reason(payload)))
