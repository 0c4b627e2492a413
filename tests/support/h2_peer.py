"""An HTTP/2 client or server that sends given frames and records what it receives."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings
from hyperframe.frame import Frame

from tests.support.eventually import PATIENCE_S

_Codes = h2.settings.SettingCodes
_Inputs = h2.connection.ConnectionInputs

Fields = list[tuple[bytes, bytes]]


MESH: Fields = [(b"x-devroute", b'{"foo": "alice"}'), (b"x-devroute-matched", b"foo")]


def fields(
    *more: tuple[bytes, bytes], method: bytes = b"POST", path: bytes = b"/t/Unary", grpc: bool = True
) -> Fields:
    start = [(b":method", method), (b":scheme", b"http"), (b":path", path), (b":authority", b"foo")]
    kind = [(b"content-type", b"application/grpc"), (b"te", b"trailers")] if grpc else []
    return [*start, *kind, *MESH, *more]


class Peer:
    """`raw` sends frames that the h2 library would not make."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        client: bool,
        window: int = 65535,
        streams: int = 100,
    ) -> None:
        self.reader = reader
        self.writer = writer
        config = h2.config.H2Configuration(
            client_side=client,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=True,
        )
        self.wire = h2.connection.H2Connection(config)
        states = self.wire.state_machine  # to h2 a GOAWAY is the end, but streams may finish after it
        states._transitions = dict(states._transitions)
        for state in list(h2.connection.ConnectionState)[:3]:
            for goaway in (_Inputs.SEND_GOAWAY, _Inputs.RECV_GOAWAY):
                states._transitions[state, goaway] = (None, state)
        self.wire.local_settings.update(
            {_Codes.INITIAL_WINDOW_SIZE: window, _Codes.MAX_CONCURRENT_STREAMS: streams}
        )
        self.wire.local_settings.acknowledge()
        self.wire.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.ended = False
        self.acknowledges = True  # opens its windows again
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.wire.data_to_send())

    def raw(self, *frames: Frame) -> None:
        self.flush()
        self.writer.write(b"".join(frame.serialize() for frame in frames))

    def request(self, *more: tuple[bytes, bytes], end: bool = True, **kind: object) -> int:
        number = self.wire.get_next_available_stream_id()
        self.wire.send_headers(number, fields(*more, **kind), end_stream=end)  # type: ignore[arg-type]
        self.flush()
        return number

    def send(self, number: int, data: bytes, *, end: bool = False) -> None:
        self.wire.send_data(number, data, end_stream=end)
        self.flush()

    def answer(self, number: int, *pairs: tuple[bytes, bytes], end: bool = False) -> None:
        self.wire.send_headers(number, [(b":status", b"200"), *pairs], end_stream=end)
        self.flush()

    def trailers(self, number: int, *pairs: tuple[bytes, bytes]) -> None:
        self.wire.send_headers(number, list(pairs), end_stream=True)
        self.flush()

    async def turn(self) -> None:
        """Read something, or the end."""
        try:
            data = await asyncio.wait_for(self.reader.read(65536), PATIENCE_S)
        except ConnectionError:
            data = b""
        if not data:
            self.ended = True
            return
        for event in self.wire.receive_data(data):
            self.events.append(event)
            if isinstance(event, h2.events.DataReceived) and self.acknowledges:
                self.wire.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        self.flush()

    async def until(self, *kinds: type[h2.events.Event], number: int = 0) -> h2.events.Event:
        """Take out the first event of these kinds (of stream `number`), once it has arrived."""
        while True:
            for event in self.events:
                if isinstance(event, kinds) and (not number or event.stream_id == number):  # type: ignore[attr-defined]
                    self.events.remove(event)
                    return event
            if self.ended:
                raise AssertionError(f"the connection ended without {kinds}, after {self.events}")
            await self.turn()

    async def whole(self, number: int) -> tuple[dict[bytes, bytes], bytes, dict[bytes, bytes], bool]:
        """A response: head, body, trailers, and whether it ended with its head."""
        head = await self.until(h2.events.ResponseReceived, h2.events.StreamReset, number=number)
        assert isinstance(head, h2.events.ResponseReceived), head
        body, trailers = b"", {}
        while True:
            event = await self.until(
                h2.events.DataReceived,
                h2.events.TrailersReceived,
                h2.events.StreamEnded,
                h2.events.StreamReset,
                number=number,
            )
            if isinstance(event, h2.events.DataReceived):
                body += event.data
            elif isinstance(event, h2.events.TrailersReceived):
                trailers = dict(event.headers)
            else:
                assert isinstance(event, h2.events.StreamEnded), event
                return dict(head.headers), body, trailers, head.stream_ended is not None

    async def goodbye(self) -> h2.errors.ErrorCodes:
        """The code of the GOAWAY that ends the connection."""
        event = await self.until(h2.events.ConnectionTerminated)
        while not self.ended:
            await self.turn()
        return event.error_code  # type: ignore[attr-defined, no-any-return]

    def close(self) -> None:
        self.writer.transport.abort()


async def dial(port: int, **options: Any) -> Peer:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    return Peer(reader, writer, client=True, **options)


@asynccontextmanager
async def serving(play: Callable[[Peer], Awaitable[None]], **options: Any) -> AsyncIterator[int]:
    """Run an app; its port. `play` serves each connection, which closes when it returns."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer, client=False, **options)
        try:
            await play(peer)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
