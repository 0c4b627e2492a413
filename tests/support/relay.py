"""A relay of connections, for tests that put something between two processes."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

#: What becomes of the bytes of one read.
Change = Callable[[bytes], Awaitable[bytes]]


async def unchanged(data: bytes) -> bytes:
    return data


async def relay(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    host: str,
    port: int,
    change: Change = unchanged,
) -> None:
    """Connect a client to a server, until both directions have ended."""
    there, onward = await asyncio.open_connection(host, port)
    await asyncio.gather(_copy(reader, onward, change), _copy(there, writer, change))


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Change) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(await change(data))
            await writer.drain()
    writer.close()
