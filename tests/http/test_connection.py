"""What connections make of the process's memory, and what their writes leave as."""

import asyncio
import socket
import struct
import subprocess
import sys

import pytest

from devroute.http.aio.connection import FLUSH_BYTES, RECEIVE_BYTES, Connection, write_pieces
from devroute.http.http1.body import encode_chunk
from devroute.upstream.dialer import Dialer
from devroute.upstream.http1_connection import Http1Connection
from devroute.upstream.http1_pool import Http1Pool
from tests.support.eventually import eventually

#: Pieces of a body that wait, and leave together; how often; and the pages that they have in all.
QUEUED, TURNS = 16, 50
PAGES = QUEUED * TURNS * 25
PROGRAM = f"""
import resource
from devroute.http.aio.connection import RECEIVE_BYTES

def turn():
    queue = [bytes(RECEIVE_BYTES) for _ in range({QUEUED})]
    queue.clear()

turn()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({TURNS}):
    turn()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_pieces_that_queue_up_and_leave_get_the_same_memory_again() -> None:
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    assert int(said.stdout) < PAGES / 10


def segments(connection: Connection) -> int:
    """Segments with data that were sent: `tcpi_data_segs_out` of struct tcp_info (linux/tcp.h)."""
    info = connection.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    count: int = struct.unpack_from("=I", info, 156)[0]
    return count


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for its segments")
@pytest.mark.parametrize("size", [1, FLUSH_BYTES - 6, FLUSH_BYTES, FLUSH_BYTES + 1000])
async def test_what_is_written_together_leaves_in_as_few_segments_as_if_it_were_one_piece(size: int) -> None:
    loop = asyncio.get_running_loop()
    received: list[bytearray] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        received.append(whole := bytearray())
        while data := await reader.read(1 << 16):
            whole.extend(data)
        writer.close()

    pool = Http1Pool(Dialer("127.0.0.1", 1))
    pieces = encode_chunk(bytes(size))
    sent = b"".join(pieces)
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    counted = []
    async with server:
        for written in (pieces, (sent,)):
            _, connection = await loop.create_connection(
                lambda: Http1Connection(pool, loop), *server.sockets[0].getsockname()
            )
            connection.write_together(written)
            await eventually(lambda: [len(each) for each in received] == [len(sent)] * (len(counted) + 1))
            counted.append(segments(connection))
            connection.close()
    assert counted[0] == counted[1]
    assert received == [sent, sent]


class Writer(asyncio.Protocol):
    def __init__(self) -> None:
        self.paused = False

    def pause_writing(self) -> None:
        self.paused = True


async def test_large_writes_pause_their_source() -> None:
    """writelines() of Python 3.12.1 and 3.13.0 does not."""
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        transport, writer = await loop.connect_accepted_socket(Writer, ours)
        write_pieces(transport, [bytes(RECEIVE_BYTES)] * 100)
        assert writer.paused
        transport.abort()
