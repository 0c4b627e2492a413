"""The h2 library's connection, adapted to a gateway: settings, windows, a GOAWAY that lets streams finish,
and short paths for the frames that are most frequent. Pure: bytes in, events out.

Each limit is here with its reason; tests/downstream/test_http2.py attacks each.
Longer than 350 lines: what differs from h2 is one class, as h2's own connection is.
"""

import struct
from typing import Final

from h2.config import H2Configuration
from h2.connection import (
    AllowedStreamIDs,
    ConnectionInputs,
    ConnectionState,
    H2Connection,
    H2ConnectionStateMachine,
)
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event
from h2.exceptions import (
    DenialOfServiceError,
    FrameTooLargeError,
    ProtocolError,
    StreamClosedError,
    StreamIDTooLowError,
)
from h2.settings import SettingCodes, Settings
from h2.stream import StreamClosedBy, StreamInputs, StreamState
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hyperframe.frame import DataFrame, Frame, RstStreamFrame

from devroute.http.http2.hpack import Decoder, Encoder
from devroute.http.http2.streams import StreamRecord, Window
from devroute.http.message import MAX_HEAD_BYTES, Headers

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: Bytes that a stream may send before its consumer takes them: as many as the tunnel's credit.
STREAM_WINDOW: Final = 1024 * 1024

#: The same for all streams of a connection: 64 streams that are not read, before they stall the others.
CONNECTION_WINDOW: Final = 64 * STREAM_WINDOW

#: Fewer frames for bulk than with the 16 KiB that each peer has to accept, and still below the size from
#: which blocks cost more than they gain (http/aio/connection.py).
MAX_FRAME_BYTES: Final = 64 * 1024

#: Envoy's default; further streams are refused, and the client may retry them.
MAX_STREAMS: Final = 1024

#: As h2 counts (32 bytes more a field). A request above `max_head_bytes` gets 431; above this limit it is an
#: attack (a decompression bomb), and the connection ends.
MAX_HEADER_LIST_BYTES: Final = 4 * MAX_HEAD_BYTES

#: Closed streams that h2 remembers, for frames that were in flight when they closed: a round trip's worth.
#: h2's own 65,536 may take 10 MB a connection.
MAX_CLOSED_STREAMS: Final = 4096

#: Events of one connection in one turn of the loop: a read of small frames may have thousands, a request
#: costs half a millisecond, and all other connections wait meanwhile.
MAX_EVENTS: Final = 64

#: The highest stream id (RFC 9113 §5.1.1).
LAST_STREAM_ID: Final = 2**31 - 1

# Frames (RFC 9113 §4.1, §6.1, §6.2, §6.10).
_FRAME: Final = struct.Struct("!BHBBL")
_HEADER_BYTES: Final = 9
_INCREMENT: Final = struct.Struct("!L")
DATA, HEADERS, PUSH_PROMISE, WINDOW_UPDATE, CONTINUATION = 0, 1, 5, 8, 9
END_STREAM, END_HEADERS = 1, 4

_MAY_RECEIVE: Final = (StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL)
_GOAWAYS: Final = (ConnectionInputs.SEND_GOAWAY, ConnectionInputs.RECV_GOAWAY)
_OPEN: Final = (ConnectionState.CLIENT_OPEN, ConnectionState.SERVER_OPEN)
_ALIVE: Final = (ConnectionState.IDLE, *_OPEN)
_CLOSED: Final = StreamState.CLOSED


class StrayFrame(Event):
    """A frame that changes nothing, as one for a stream that has ended."""


class ExpectedFrame(Event):
    """A part of a head that has not ended, or DATA that was under way when this side reset its stream."""


_STRAY: Final = StrayFrame()
_EXPECTED: Final = ExpectedFrame()


class _States(H2ConnectionStateMachine):
    """For h2 a GOAWAY closes the connection; here open streams may finish (RFC 9113 §6.8)."""

    _transitions = {  # noqa: RUF012
        **H2ConnectionStateMachine._transitions,
        **{(state, goaway): (None, state) for state in _ALIVE for goaway in _GOAWAYS},
    }


class Http2Protocol(H2Connection):
    """The protocol state of one connection, client or server. http/http2/headers.py checks heads, not h2,
    which would end the connection, and with it other callers' requests, where RFC 9113 §8.1.1 resets one
    stream."""

    MAX_CLOSED_STREAMS = MAX_CLOSED_STREAMS

    def __init__(self, *, client: bool, max_head: int = MAX_HEAD_BYTES) -> None:
        super().__init__(
            H2Configuration(
                client_side=client,
                header_encoding=None,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.streams: dict[int, StreamRecord] = {}  # type: ignore[assignment]  # only such are made
        self.state_machine = _States()
        self._inbound_flow_control_window_manager = Window(self.inbound_flow_control_window)
        self.encoder = Encoder()  # type: ignore[assignment]  # has what h2 uses
        self.decoder: Decoder = Decoder(MAX_HEADER_LIST_BYTES)
        settings = {
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
            SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
            SettingCodes.MAX_HEADER_LIST_SIZE: max_head,
        }
        if not client:
            settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1  # RFC 8441 §3
        self.local_settings = Settings(client=client, initial_values=settings)
        self.max_inbound_frame_size = MAX_FRAME_BYTES
        self._preface = 0 if client else len(PREFACE)  # bytes of it that are still to come
        self._partial = bytearray()  # an incomplete frame
        self._need = 0  # bytes that it needs before parsing goes on
        self.more = False
        self._block_open = False  # CONTINUATION has to follow
        self._late_heads = 0  # that may still come of requests that were reset here
        self.initiate_connection()
        self.increment_flow_control_window(CONNECTION_WINDOW - self.inbound_flow_control_window)

    # --- receiving: frame by frame, since h2 would buffer a frame of any size until it is complete

    def receive(self, data: bytes) -> list[Event]:
        """The events in these bytes, at most MAX_EVENTS: if `more` is set, receive(b"") returns the next
        ones. Raises h2's ProtocolError, after queueing a GOAWAY for the peer."""
        if self._preface:
            data = self._receive_preface(data)
        partial = self._partial
        if partial:
            partial += data
            if len(partial) < self._need:
                return []
            data = bytes(partial)
            partial.clear()
        events: list[Event] = []
        at = 0
        size = len(data)
        need = _HEADER_BYTES
        self.more = False
        while size - at >= _HEADER_BYTES:
            if len(events) >= MAX_EVENTS:
                self.more = True
                need = 0
                break
            high, low, kind, flags, number = _FRAME.unpack_from(data, at)
            length = high << 16 | low
            if length > self.max_inbound_frame_size:
                self.close_connection(ErrorCodes.FRAME_SIZE_ERROR)
                raise FrameTooLargeError(f"a frame of {length} bytes")
            end = at + _HEADER_BYTES + length
            if end > size:
                need = _HEADER_BYTES + length
                break
            if self._block_open or not self._receive_quickly(kind, flags, number, data[at + 9 : end], events):
                events += self.receive_data(data[at:end]) or self._without_event(kind, flags, number, length)
                if kind in (HEADERS, CONTINUATION, PUSH_PROMISE):
                    self._block_open = not flags & END_HEADERS
            at = end
        if at < size:
            partial += data[at:]
            self._need = need
        return events

    def _without_event(self, kind: int, flags: int, number: int, length: int) -> list[Event]:
        """What stands for a frame for which h2 has no event: it costs as much to read as any other."""
        if kind in (HEADERS, CONTINUATION, PUSH_PROMISE):
            expected = not flags & END_HEADERS or self._is_late_head(number)
        else:
            expected = kind == DATA and length > 0 and self._was_reset_here(number)
        return [_EXPECTED if expected else _STRAY]

    def _is_late_head(self, number: int) -> bool:
        """Whether it was under way when a request of ours was reset: each may have two, of which the second
        is the trailers'."""
        if not self._late_heads or not self._was_reset_here(number):
            return False
        self._late_heads -= 1
        return True

    def _was_reset_here(self, number: int) -> bool:
        return self._stream_closed_by(number) is StreamClosedBy.SEND_RST_STREAM

    def _receive_preface(self, data: bytes) -> bytes:
        """The bytes after the preface, or after the part of it that is here."""
        size = min(len(data), self._preface)
        self._preface -= size
        self.receive_data(data[:size])
        return data[size:]

    def _receive_quickly(
        self, kind: int, flags: int, number: int, payload: bytes, events: list[Event]
    ) -> bool:
        """Handle ordinary DATA and HEADERS without h2. False: nothing was done, and h2 has to handle it."""
        if kind == DATA:
            return not flags & ~END_STREAM and self._receive_data(flags, number, payload, events)
        if kind == HEADERS:
            return flags & ~END_STREAM == END_HEADERS and self._receive_head(flags, number, payload, events)
        return False

    def _receive_data(self, flags: int, number: int, payload: bytes, events: list[Event]) -> bool:
        stream = self.streams.get(number)
        if stream is None:
            return False
        states = stream.state_machine
        size = len(payload)
        if (
            states.state not in _MAY_RECEIVE
            or not states.headers_received
            or size > stream._inbound_window_manager.current_window_size
            or size > self._inbound_flow_control_window_manager.current_window_size
        ):
            return False
        self._inbound_flow_control_window_manager.current_window_size -= size
        stream._inbound_window_manager.current_window_size -= size
        event = DataReceived(stream_id=number, data=payload, flow_controlled_length=size)
        events.append(event)
        if flags:
            event.stream_ended = stream.end_received()
            events.append(event.stream_ended)
        return True

    def _receive_head(self, flags: int, number: int, payload: bytes, events: list[Event]) -> bool:
        stream = self.streams.get(number)
        if self.config.client_side:
            if stream is None or stream.state_machine.state not in _MAY_RECEIVE:
                return False
        elif stream is not None or not number & 1 or number <= self.highest_inbound_stream_id:
            return False
        try:
            if self.state_machine.state not in _OPEN:
                self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
            fields = self._decoded(payload)
            if stream is None:
                stream = self._begin_new_stream(number, AllowedStreamIDs.ODD)
            found = stream.head_received(fields, ended=bool(flags & END_STREAM))
        except ProtocolError as error:
            self.close_connection(error.error_code)
            raise
        events += found
        return True

    def _decoded(self, block: bytes) -> Headers:
        try:
            return self.decoder.decode(block, raw=True)
        except OversizedHeaderListError as error:
            raise DenialOfServiceError(str(error)) from error
        except (HPACKError, IndexError) as error:
            raise ProtocolError(f"a header block that is not HPACK: {error}") from error

    # --- sending: h2's state, without its objects for each frame, which would double the cost

    def send_head(self, number: int, fields: Headers, *, end: bool) -> None:
        """HEADERS, with CONTINUATION if necessary (§6.2): for a request, a response or trailers."""
        name, value = fields[0]
        stream = self.streams.get(number)
        if stream is None:
            if self.state_machine.state not in _OPEN:
                self.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
            stream = self._begin_new_stream(number, AllowedStreamIDs.ODD)
            stream.request_method = value
        if name == b":status" and value[:1] == b"1":
            stream.state_machine.process_input(StreamInputs.SEND_INFORMATIONAL_HEADERS)
        else:
            stream.head_sent()
        if end:
            stream.end_sent()
        block = self.encoder.encode(fields)
        most = self.max_outbound_frame_size
        flags = END_STREAM if end else 0
        kind = HEADERS
        while len(block) > most:
            self._frame(kind, flags, number, block[:most])
            block = block[most:]
            kind, flags = CONTINUATION, 0
        self._frame(kind, flags | END_HEADERS, number, block)

    def send_piece(self, number: int, data: bytes | memoryview, *, end: bool) -> None:
        """DATA, at most what the windows and the maximum frame size allow."""
        stream = self.streams[number]
        stream.data_sent()
        if end:
            stream.end_sent()
        size = len(data)
        stream.outbound_flow_control_window -= size
        self.outbound_flow_control_window -= size
        self._frame(DATA, END_STREAM if end else 0, number, data)

    def _frame(self, kind: int, flags: int, number: int, payload: bytes | memoryview) -> None:
        size = len(payload)
        self._data_to_send += _FRAME.pack(size >> 16, size & 0xFFFF, kind, flags, number)
        self._data_to_send += payload

    def acknowledge_received_data(self, acknowledged_size: int, stream_id: int) -> None:
        """WINDOW_UPDATEs once a consumer has taken half of a window."""
        increment = self._inbound_flow_control_window_manager.process_bytes(acknowledged_size)
        if increment:
            self._frame(WINDOW_UPDATE, 0, 0, _INCREMENT.pack(increment))
        stream = self.streams.get(stream_id)
        if stream is not None and stream.open:
            increment = stream._inbound_window_manager.process_bytes(acknowledged_size)
            if increment:
                self._frame(WINDOW_UPDATE, 0, stream_id, _INCREMENT.pack(increment))

    # --- overrides of h2

    def reset_stream(self, stream_id: int, error_code: ErrorCodes | int = 0) -> None:
        super().reset_stream(stream_id, error_code)
        if self.config.client_side:
            self._late_heads += 2

    def _begin_new_stream(self, stream_id: int, allowed_ids: AllowedStreamIDs) -> StreamRecord:
        outbound = stream_id % 2 == self.config.client_side
        highest = self.highest_outbound_stream_id if outbound else self.highest_inbound_stream_id
        if stream_id <= highest:
            raise StreamIDTooLowError(stream_id, highest)
        if stream_id % 2 != int(allowed_ids):
            raise ProtocolError("the stream id belongs to the other side")
        stream = StreamRecord(
            stream_id,
            self.config,
            self.local_settings.initial_window_size,
            self.remote_settings.initial_window_size,
        )
        stream.max_outbound_frame_size = self.max_outbound_frame_size
        self.streams[stream_id] = stream
        if outbound:
            self.highest_outbound_stream_id = stream_id
        else:
            self.highest_inbound_stream_id = stream_id
        return stream

    @property
    def open_inbound_streams(self) -> int:
        """0: else h2 would end the connection where refusing a stream is enough, and walk all streams to
        count."""
        return 0

    @property
    def open_outbound_streams(self) -> int:
        """0: the code that opens streams counts them."""
        return 0

    def _handle_data_on_closed_stream(
        self, events: list[Event], exc: StreamClosedError, frame: DataFrame
    ) -> tuple[list[Frame], list[Event]]:
        """Send no second RST_STREAM for what was under way at the first (RFC 9113 §5.1): h2 sends one for
        each frame."""
        frames, events = super()._handle_data_on_closed_stream(events, exc, frame)
        if self._was_reset_here(frame.stream_id):
            frames = [each for each in frames if not isinstance(each, RstStreamFrame)]
        return frames, events

    def clear_outbound_data_buffer(self) -> None:
        """Keep the output, also on a GOAWAY: the peer's HPACK state needs every head that was encoded."""

    def alive(self, number: int) -> bool:
        """Whether a stream can still send. An event that reports its end may not have been handled yet."""
        stream = self.streams.get(number)
        return stream is not None and stream.state_machine.state is not _CLOSED

    def is_new(self, number: int) -> bool:
        """Whether this is a stream of ours that has not been opened by a head yet."""
        return number > self.highest_outbound_stream_id and number % 2 == self.config.client_side

    def forget(self, number: int) -> None:
        """Forget a closed stream, which h2 would keep until its next count."""
        stream = self.streams.pop(number, None)
        if stream is not None:
            self._closed_streams[number] = stream.closed_by
