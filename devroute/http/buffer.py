"""Pieces of a body that wait for somebody who does not read. Pure.

A piece of one byte costs fifty, so small ones are joined: what is held costs little more than its bytes.
"""

from collections.abc import MutableSequence
from typing import Final

#: Pieces are joined up to this size.
MAX_JOINED_BYTES: Final = 16 * 1024

Chunk = bytes | bytearray


def join_chunks(before: Chunk, data: Chunk) -> bytearray | None:
    """Both as one piece, which may be `before` itself; None where that would be too large."""
    if len(before) + len(data) > MAX_JOINED_BYTES:
        return None
    both = before if isinstance(before, bytearray) else bytearray(before)
    both += data
    return both


def append_chunk(held: MutableSequence[Chunk], data: bytes) -> None:
    """Put a piece at the end. What is in `held` is to be passed on as bytes(piece)."""
    if held and (both := join_chunks(held[-1], data)) is not None:
        held[-1] = both
    else:
        held.append(data)
