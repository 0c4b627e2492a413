"""What a connection of HTTP/2 keeps for a peer that does not read."""

import asyncio

from hpack import Encoder
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame, SettingsFrame

from devroute.downstream.context import Timeouts
from devroute.downstream.http2 import Http2ServerConnection
from devroute.downstream.listener import Listener
from devroute.http.aio.connection import WRITE_HIGH_BYTES
from devroute.http.aio.http2_connection import Http2Connection
from devroute.http.http2.flood_guard import CONTROL_PER_FRAME, UNREAD_CONTROL
from devroute.http.http2.protocol import PREFACE
from devroute.routing.route import Route
from tests.support.eventually import eventually
from tests.support.h2_peer import fields
from tests.support.loopback import App


class Unread(asyncio.Transport):
    """That of a peer that does not read."""

    def __init__(self, connection: Http2Connection) -> None:
        super().__init__()
        self.connection = connection
        self.written = 0
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += len(data)
        if self.written > WRITE_HIGH_BYTES:
            self.connection.pause_writing()

    def get_write_buffer_size(self) -> int:
        return self.written

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...

    def is_closing(self) -> bool:
        return self.closed

    def can_write_eof(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True


def server() -> Http2ServerConnection:
    """Whose app never responds."""
    loop, route = asyncio.get_running_loop(), Route(App(), "foo", "alice", "laptop", "")
    timeouts = Timeouts(head=60, body=60, first_byte=60, idle=60, keep_alive=60, total=1000)
    return Http2ServerConnection(
        Listener(lambda request: route, timeouts, lambda done: None, loop.time()), loop
    )


async def test_replies_to_control_frames_that_the_peer_does_not_read_are_bounded() -> None:
    """Each DATA frame earns the peer some, so that these are no flood."""
    connection = server()
    transport = Unread(connection)
    connection.connection_made(transport)
    head = HeadersFrame(1, data=Encoder().encode(fields()), flags=["END_HEADERS"]).serialize()
    connection.received(PREFACE + SettingsFrame().serialize() + head)
    pings = PingFrame(opaque_data=b"12345678").serialize() * CONTROL_PER_FRAME
    for _ in range(2 * UNREAD_CONTROL // (CONTROL_PER_FRAME * 100)):
        connection.received((DataFrame(1, data=b"x").serialize() + pings) * 100)
        await eventually(lambda: connection.finished or not connection.protocol.more)
    assert connection.finished
    assert transport.closed
    assert transport.written < WRITE_HIGH_BYTES + (UNREAD_CONTROL + 1000) * 17
