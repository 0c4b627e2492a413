"""The h2 library as a relay needs it: settings and windows, a GOAWAY that lets streams finish, its hot paths.

Pure: bytes in, events out. Each limit is here with its reason; tests/proxy/downstream/test_http2.py attacks
each.
"""

import struct
from typing import Final, cast

from h2.config import H2Configuration
from h2.connection import (
    AllowedStreamIDs,
    ConnectionInputs,
    ConnectionState,
    H2Connection,
    H2ConnectionStateMachine,
)
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, StreamEnded
from h2.exceptions import DenialOfServiceError, FrameTooLargeError, ProtocolError
from h2.settings import SettingCodes, Settings
from h2.stream import StreamInputs, StreamState
from hpack.exceptions import HPACKError, OversizedHeaderListError

from devroute.http.http2.hpack import Decoder, Encoder
from devroute.http.message import MAX_HEAD_BYTES, Headers

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

#: What one stream may send beyond what its consumer took: as much as the tunnel's credit.
STREAM_WINDOW: Final = 1024 * 1024

#: What all streams of a connection may have waiting here: 64 that nobody reads, before they stop the others.
CONNECTION_WINDOW: Final = 64 * STREAM_WINDOW

#: Fewer frames for bulk than with the 16 KiB that everybody has to accept, and still below the size from
#: which blocks cost more than they carry (http/aio/connection.py).
MAX_FRAME_BYTES: Final = 64 * 1024

#: Envoy's own default; more are refused, which a client may try again.
MAX_STREAMS: Final = 1024

#: As h2 counts (32 bytes more a field). Above `max_head_bytes` a request gets its 431; above this
#: limit somebody means harm (a decompression bomb), and the connection ends.
MAX_HEADER_LIST_BYTES: Final = 4 * MAX_HEAD_BYTES

#: Streams whose end h2 remembers, to judge frames that were under way when they ended: a round trip's worth.
#: h2's own 65,536 may take 10 MB a connection.
MAX_CLOSED_STREAMS: Final = 4096

#: Events of one connection in one turn of the loop: a read of small frames has thousands, and a request
#: costs half a millisecond, while all other connections wait.
MAX_EVENTS: Final = 64

#: The last stream id there is (RFC 9113 §5.1.1).
LAST_STREAM_ID: Final = 2**31 - 1

# Frames (RFC 9113 §4.1, §6.1, §6.2, §6.10).
_FRAME: Final = struct.Struct("!BHBBL")
_HEADER_BYTES: Final = 9
DATA, HEADERS, PUSH_PROMISE, CONTINUATION = 0, 1, 5, 9
END_STREAM, END_HEADERS = 1, 4

_MAY_RECEIVE: Final = (StreamState.OPEN, StreamState.HALF_CLOSED_LOCAL)
_GOAWAYS: Final = (ConnectionInputs.SEND_GOAWAY, ConnectionInputs.RECV_GOAWAY)
_ALIVE: Final = (ConnectionState.IDLE, ConnectionState.CLIENT_OPEN, ConnectionState.SERVER_OPEN)


class _States(H2ConnectionStateMachine):
    """To h2 a GOAWAY is the end; but what is open may finish (RFC 9113 §6.8)."""

    _transitions = {  # noqa: RUF012
        **H2ConnectionStateMachine._transitions,
        **{(state, goaway): (None, state) for state in _ALIVE for goaway in _GOAWAYS},
    }


class Http2Protocol(H2Connection):
    """One connection's protocol state, of either side. Heads are checked by http/http2/headers.py: h2 would
    end the connection, and with it other callers' requests, where RFC 9113 §8.1.1 has one stream refused."""

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
        self.state_machine = _States()
        self.encoder = Encoder()  # type: ignore[assignment]  # all of it that h2 uses
        self.decoder: Decoder = Decoder(MAX_HEADER_LIST_BYTES)
        self.local_settings = Settings(
            client=client,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_CONCURRENT_STREAMS: MAX_STREAMS,
                SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
                SettingCodes.MAX_FRAME_SIZE: MAX_FRAME_BYTES,
                SettingCodes.MAX_HEADER_LIST_SIZE: max_head,
            },
        )
        self.max_inbound_frame_size = MAX_FRAME_BYTES
        self._preface = 0 if client else len(PREFACE)  # bytes of it to come
        self._held = bytearray()  # an incomplete frame
        self._need = 0  # bytes of it before reading on makes sense
        self.more = False
        self._block_open = False  # in h2: CONTINUATION has to follow
        self.initiate_connection()
        self.increment_flow_control_window(CONNECTION_WINDOW - self.inbound_flow_control_window)

    # --- what is received: frame by frame, since h2 would hold a frame of any size until it is whole

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes say, or the first of them: `more` then, and receive(b"") goes on. Raises h2's
        ProtocolError, with a GOAWAY that says so ready to be sent."""
        if self._preface:
            size = min(len(data), self._preface)
            self._preface -= size
            self.receive_data(data[:size])
            data = data[size:]
        held = self._held
        if held:
            held += data
            if len(held) < self._need:
                return []
            data = bytes(held)
            held.clear()
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
                events += self.receive_data(data[at:end])
                if kind in (HEADERS, CONTINUATION, PUSH_PROMISE):
                    self._block_open = not flags & END_HEADERS
            at = end
        if at < size:
            held += data[at:]
            self._need = need
        return events

    def _receive_quickly(
        self, kind: int, flags: int, number: int, payload: bytes, events: list[Event]
    ) -> bool:
        """DATA and HEADERS that are in order, as most are. False: nothing was done, h2 is to judge it."""
        stream = self.streams.get(number)
        if kind == DATA:
            if stream is None or flags & ~END_STREAM or stream._expected_content_length is not None:
                return False
            states = stream.state_machine
            size = len(payload)
            if (
                states.state not in _MAY_RECEIVE
                or not states.headers_received
                or size > stream.inbound_flow_control_window
                or size > self.inbound_flow_control_window
            ):
                return False
            self._inbound_flow_control_window_manager.window_consumed(size)
            stream._inbound_window_manager.window_consumed(size)
            event = DataReceived(stream_id=number, data=payload, flow_controlled_length=size)
            events.append(event)
            if flags:
                ended = states.process_input(StreamInputs.RECV_END_STREAM)
                event.stream_ended = cast(StreamEnded, ended[0])
                events += ended
            return True
        if kind != HEADERS or flags & ~END_STREAM != END_HEADERS:
            return False
        if self.config.client_side:
            if stream is None or stream.state_machine.state not in _MAY_RECEIVE:
                return False
        elif stream is not None or not number & 1 or number <= self.highest_inbound_stream_id:
            return False
        try:
            self.state_machine.process_input(ConnectionInputs.RECV_HEADERS)
            fields = self._decoded(payload)
            if stream is None:
                stream = self._begin_new_stream(number, AllowedStreamIDs.ODD)
            _, found = stream.receive_headers(fields, bool(flags & END_STREAM), None)
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

    # --- what is sent most: h2's own state, without its objects for each frame, which cost as much again

    def send_head(self, number: int, fields: Headers, *, end: bool) -> None:
        """HEADERS, and CONTINUATION where it has to be (§6.2): of a request, a response or trailers."""
        name, value = fields[0]
        if number not in self.streams:
            self.state_machine.process_input(ConnectionInputs.SEND_HEADERS)
            self._begin_new_stream(number, AllowedStreamIDs.ODD).request_method = value
        states = self.streams[number].state_machine
        if name == b":status" and value[:1] == b"1":
            states.process_input(StreamInputs.SEND_INFORMATIONAL_HEADERS)
        else:
            states.process_input(StreamInputs.SEND_HEADERS)
        if end:
            states.process_input(StreamInputs.SEND_END_STREAM)
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
        """DATA, of no more than the windows and the largest frame allow."""
        stream = self.streams[number]
        states = stream.state_machine
        states.process_input(StreamInputs.SEND_DATA)
        if end:
            states.process_input(StreamInputs.SEND_END_STREAM)
        size = len(data)
        stream.outbound_flow_control_window -= size
        self.outbound_flow_control_window -= size
        self._frame(DATA, END_STREAM if end else 0, number, data)

    def _frame(self, kind: int, flags: int, number: int, payload: bytes | memoryview) -> None:
        size = len(payload)
        self._data_to_send += _FRAME.pack(size >> 16, size & 0xFFFF, kind, flags, number)
        self._data_to_send += payload

    # --- what h2 does otherwise

    @property
    def open_inbound_streams(self) -> int:
        """None, for h2 would end the connection where a refusal is enough, and walk all streams to count."""
        return 0

    @property
    def open_outbound_streams(self) -> int:
        """None; whoever opens streams counts them."""
        return 0

    def clear_outbound_data_buffer(self) -> None:
        """Not on a GOAWAY either: the peer's HPACK table needs every head that was encoded."""

    def alive(self, number: int) -> bool:
        """Whether anything can still be sent on a stream. An event that says otherwise may be under way."""
        stream = self.streams.get(number)
        return stream is not None and not stream.closed

    def is_new(self, number: int) -> bool:
        """Whether this is a stream of ours that its first head will open."""
        return number > self.highest_outbound_stream_id and number % 2 == self.config.client_side

    def forget(self, number: int) -> None:
        """A stream is over: h2 would keep it until it counts."""
        stream = self.streams.pop(number, None)
        if stream is not None:
            self._closed_streams[number] = stream.closed_by
