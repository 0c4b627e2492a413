"""ConnectRPC's conformance suite through devroute: a server for `connectconformance` that is its reference
server behind a data port.

    go install connectrpc.com/conformance/cmd/connectconformance@v1.0.7
    go install connectrpc.com/conformance/cmd/referenceserver@v1.0.7
    connectconformance --mode server --conf soak/connect.yaml \\
        -- python -m soak.connect tunnel referenceserver

The word before the reference server is the way: `direct` or `tunnel`. The server's messages are Protobuf,
each after its length (server_compat.proto): host and port are read and replaced here.
"""

import asyncio
import contextlib
import os
import signal
import sys

from devroute.downstream.context import Timeouts
from devroute.downstream.listener import Listener
from devroute.http.message import InboundRequest
from devroute.routing.route import Route
from devroute.upstream.dialer import Dialer
from devroute.upstream.interface import Upstream
from devroute.upstream.negotiating import NegotiatingUpstream
from tests.support.loopback import tunnel

#: Seconds between two looks at the timeouts.
TICK_SECONDS = 1.0


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if byte < 0x80:
            return value, at


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def port_of(message: bytes) -> int:
    """Field 2 of a ServerCompatResponse."""
    at = 0
    while at < len(message):
        key, at = read_varint(message, at)
        value, at = read_varint(message, at)
        if key == 2 << 3:
            return value
        at += value if key & 7 == 2 else 0
    raise ValueError("the reference server has named no port")


def response_for(port: int) -> bytes:
    host = b"127.0.0.1"
    message = b"\x0a" + varint(len(host)) + host + b"\x10" + varint(port)
    return len(message).to_bytes(4) + message


async def serve(upstream: Upstream, output: int) -> None:
    def router(request: InboundRequest) -> Route:
        return Route(upstream, "foo", "alice", "laptop", "foo answered by alice", no_store=True)

    loop = asyncio.get_running_loop()
    seconds = Timeouts(head=10, body=60, first_byte=60, idle=60, keep_alive=60, total=600)
    server = Listener(router, seconds, lambda exchange: None, loop.time())
    port = await loop.create_server(server.accept, "127.0.0.1", 0)
    os.write(output, response_for(port.sockets[0].getsockname()[1]))
    while True:
        await asyncio.sleep(TICK_SECONDS)
        server.tick(loop.time())


async def main(way: str, *command: str) -> None:
    output = os.dup(1)
    os.dup2(2, 1)  # for what the proxy logs
    size = sys.stdin.buffer.read(4)
    asked = size + sys.stdin.buffer.read(int.from_bytes(size))
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    this = asyncio.current_task()
    assert this is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this.cancel)
    try:
        process.stdin.write(asked)
        await process.stdin.drain()
        length = int.from_bytes(await process.stdout.readexactly(4))
        app = NegotiatingUpstream(Dialer("127.0.0.1", port_of(await process.stdout.readexactly(length))))
        if way == "direct":
            await serve(app, output)
        async with tunnel(app) as (where, _):
            await serve(where.upstream(), output)
    finally:
        process.terminate()
        await process.wait()


if __name__ == "__main__":
    with contextlib.suppress(asyncio.CancelledError):
        asyncio.run(main(*sys.argv[1:]))
