"""A gRPC app of bytes, on grpcio: in the test's own loop, or as a process (`python grpc_app.py PORT` prints
"listens"). Imports nothing of devroute."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc import aio


class App(grpc.GenericRpcHandler):
    """`/t/<method>`; Hang ends only with its cancellation, for which Cancelled waits."""

    def __init__(self) -> None:
        self.hanging = asyncio.Semaphore(0)
        self.cancelled = asyncio.Semaphore(0)

    def service(self, details: Any) -> Any:
        kind, method = {
            "/t/Unary": (grpc.unary_unary_rpc_method_handler, self.unary),
            "/t/Sum": (grpc.stream_unary_rpc_method_handler, self.sum),
            "/t/Count": (grpc.unary_stream_rpc_method_handler, self.count),
            "/t/Echo": (grpc.stream_stream_rpc_method_handler, self.echo),
            "/t/Abort": (grpc.unary_unary_rpc_method_handler, self.abort),
            "/t/Late": (grpc.unary_stream_rpc_method_handler, self.late),
            "/t/Hang": (grpc.unary_stream_rpc_method_handler, self.hang),
            "/t/Hanging": (grpc.unary_unary_rpc_method_handler, self.wait_hanging),
            "/t/Cancelled": (grpc.unary_unary_rpc_method_handler, self.wait_cancelled),
        }.get(details.method, (None, None))
        return kind(method) if kind is not None else None

    async def unary(self, request: bytes, context: Any) -> bytes:
        """Echoes the body, and the metadata x-* as initial metadata and as trailers."""
        sent = [(key, value) for key, value in context.invocation_metadata() if key.startswith("x-echo")]
        await context.send_initial_metadata(sent)
        context.set_trailing_metadata(sent)
        return request

    async def sum(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"%d" % sum([len(each) async for each in requests])

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        number, size = map(int, request.split())
        for each in range(number):
            yield each.to_bytes(8) + bytes(size - 8)

    async def echo(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for each in requests:
            yield each

    async def abort(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata([("x-why-bin", b"\0\xff")])
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())
        return b""

    async def late(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """An error after a message."""
        yield request
        await context.abort(grpc.StatusCode.DATA_LOSS, "no more")

    async def hang(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self.hanging.release()
        try:
            yield b"started"
            await asyncio.Event().wait()
        finally:
            self.cancelled.release()

    async def wait_hanging(self, request: bytes, context: Any) -> bytes:
        await self.hanging.acquire()
        return b""

    async def wait_cancelled(self, request: bytes, context: Any) -> bytes:
        await self.cancelled.acquire()
        return b""


async def start(port: int = 0) -> tuple[Any, int]:
    server = aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((App(),))
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    return server, port


async def main() -> None:
    server, _ = await start(int(sys.argv[1]))
    print("listens", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
