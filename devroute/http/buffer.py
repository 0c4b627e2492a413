"""Body chunks buffered for a paused consumer. Pure.

An object of one byte takes fifty, so small chunks are joined: a buffer takes little more than its content.
"""

from collections.abc import MutableSequence
from typing import Final

#: Chunks are joined up to this size.
MAX_JOINED_BYTES: Final = 16 * 1024

Chunk = bytes | bytearray


def join_chunks(before: Chunk, data: Chunk) -> bytearray | None:
    """Both as one chunk, which may be `before` itself; None where it would be too large."""
    if len(before) + len(data) > MAX_JOINED_BYTES:
        return None
    both = before if isinstance(before, bytearray) else bytearray(before)
    both += data
    return both


def append_chunk(chunks: MutableSequence[Chunk], data: bytes) -> None:
    """Append to a buffer. Pass its chunks on as bytes(chunk)."""
    if chunks and (both := join_chunks(chunks[-1], data)) is not None:
        chunks[-1] = both
    else:
        chunks.append(data)
