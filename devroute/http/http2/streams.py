"""h2's state of one stream, with short ways for what happens to every stream. Pure.

h2 makes objects of some twenty attributes for each stream, and passes each step through tables: a third of
what a unary call cost here. In these classes the attributes that most streams never set are the classes', and
ordinary steps set the state that the tables would give. Whatever is not ordinary is left to h2
(tests/http/http2/test_protocol.py compares both).
"""

from typing import Final

from h2.config import H2Configuration
from h2.events import Event, RequestReceived, ResponseReceived, StreamEnded, TrailersReceived
from h2.stream import H2Stream, H2StreamStateMachine, StreamClosedBy, StreamInputs, StreamState
from h2.windows import WindowManager

from devroute.http.message import Headers

_IDLE: Final = StreamState.IDLE
_OPEN: Final = StreamState.OPEN
_LOCAL: Final = StreamState.HALF_CLOSED_LOCAL
_REMOTE: Final = StreamState.HALF_CLOSED_REMOTE
_CLOSED: Final = StreamState.CLOSED
_MAY_SEND: Final = (_OPEN, _REMOTE)


class Window(WindowManager):
    """What the peer may send."""

    _bytes_processed = 0

    def __init__(self, size: int) -> None:
        self.max_window_size = size
        self.current_window_size = size

    def process_bytes(self, size: int) -> int | None:
        processed = self._bytes_processed = self._bytes_processed + size
        if processed < self.max_window_size // 2 and self.current_window_size:
            return None
        return self._maybe_update_window()


class _States(H2StreamStateMachine):
    state = _IDLE
    client = None
    headers_sent = None
    trailers_sent = None
    headers_received = None
    trailers_received = None
    stream_closed_by = None

    def __init__(self, number: int) -> None:
        self.stream_id = number


class StreamRecord(H2Stream):
    """The methods raise h2's ProtocolError for a step that the stream's state does not allow."""

    request_method: bytes | None = None
    _authority = None

    def __init__(self, number: int, config: H2Configuration, inbound: int, outbound: int) -> None:
        self.state_machine = _States(number)
        self.stream_id = number
        self.outbound_flow_control_window = outbound
        self._inbound_window_manager = Window(inbound)
        self.config = config

    # --- received

    def _initialize_content_length(self, headers: object) -> None:
        """h2 would end the connection for a body of another length. Who reads the body checks it, and ends
        the stream (RFC 9113 §8.1.1)."""

    def _track_content_length(self, length: int, end_stream: bool) -> None: ...

    def head_received(self, fields: Headers, *, ended: bool) -> list[Event]:
        """The events of a request's head, a response's, or trailers."""
        states = self.state_machine
        state = states.state
        known = state is _OPEN or state is _LOCAL
        interim = fields and fields[0][0] == b":status" and fields[0][1][:1] == b"1"
        event: RequestReceived | ResponseReceived | TrailersReceived
        if interim or not (known or state is _IDLE):
            return self._received_by_h2(fields, ended)
        if not known:
            states.state = _OPEN
            states.client = False
            states.headers_received = True
            event = RequestReceived(stream_id=self.stream_id, headers=fields)
        elif not states.headers_received:
            if not states.client:
                return self._received_by_h2(fields, ended)
            states.headers_received = True
            event = ResponseReceived(stream_id=self.stream_id, headers=fields)
        else:
            if states.trailers_received or not ended:
                return self._received_by_h2(fields, ended)
            states.trailers_received = True
            event = TrailersReceived(stream_id=self.stream_id, headers=fields)
        if not ended:
            return [event]
        event.stream_ended = self.end_received()
        return [event, event.stream_ended]

    def _received_by_h2(self, fields: Headers, ended: bool) -> list[Event]:
        _, events = self.receive_headers(fields, ended, None)
        return events

    def end_received(self) -> StreamEnded:
        """The peer's half has ended, which was open."""
        states = self.state_machine
        if states.state is _OPEN:
            states.state = _REMOTE
        else:
            states.state = _CLOSED
            states.stream_closed_by = StreamClosedBy.RECV_END_STREAM
        return StreamEnded(stream_id=self.stream_id)

    # --- sent

    def head_sent(self) -> None:
        """A request's head, a response's, or trailers."""
        states = self.state_machine
        state = states.state
        if state is _IDLE:
            states.state = _OPEN
            states.client = states.headers_sent = True
        elif state not in _MAY_SEND or states.trailers_sent or (states.client and not states.headers_sent):
            states.process_input(StreamInputs.SEND_HEADERS)
        elif states.headers_sent:
            states.trailers_sent = True
        else:
            states.headers_sent = True

    def data_sent(self) -> None:
        if self.state_machine.state not in _MAY_SEND:
            self.state_machine.process_input(StreamInputs.SEND_DATA)

    def end_sent(self) -> None:
        states = self.state_machine
        if states.state is _OPEN:
            states.state = _LOCAL
        elif states.state is _REMOTE:
            states.state = _CLOSED
            states.stream_closed_by = StreamClosedBy.SEND_END_STREAM
        else:
            states.process_input(StreamInputs.SEND_END_STREAM)
