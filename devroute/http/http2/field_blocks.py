"""HPACK's field blocks (RFC 7541 §6), decoded in one loop, which setup.py compiles. Pure.

http/http2/hpack.py has the decoder and its table.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from hpack.exceptions import HPACKDecodingError, OversizedHeaderListError
from hpack.hpack import decode_integer
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

#: Encoded fields that are cached: requests differ in few fields.
MAX_REMEMBERED: Final = 4096

#: Longer fields are not cached, which bounds the cache at a few MiB.
MAX_REMEMBERED_BYTES: Final = 256

_STATIC: Final = HeaderTable.STATIC_TABLE
_STATIC_SIZE: Final = len(_STATIC)
_ENTRY_OVERHEAD: Final = 32  # §4.1

_huffman_short: Final = lru_cache(MAX_REMEMBERED)(decode_huffman)


def _integer(data: bytes, at: int, bits: int) -> tuple[int, int]:
    """An integer with a prefix of so many bits (§5.1), and the position after it."""
    most = (1 << bits) - 1
    value = data[at] & most
    if value < most:
        return value, at + 1
    value, used = decode_integer(data[at : at + 8], bits)
    return value, at + used


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    """A string literal (§5.2) and the position after it."""
    coded = data[at] & 0x80
    length, at = _integer(data, at, 7)
    end = at + length
    text = data[at:end]
    if len(text) != length:
        raise HPACKDecodingError("a string literal ends after its header block")
    if coded:
        text = bytes(_huffman_short(text) if length <= MAX_REMEMBERED_BYTES else decode_huffman(text))
    return text, end


def decode_block(
    data: bytes, table: HeaderTable, most: int, resize: Callable[[bytes], int]
) -> list[tuple[bytes, bytes]]:
    """The fields of a block. `most`: bytes of them, counted as §4.1 says. `resize` gets the start of a table
    size update (§6.3), and returns its length.

    Raises hpack's errors, and IndexError for a block that ends within a field.
    """
    entries = table.dynamic_entries
    # Fields as they come: each would be taken apart and built again for a tuple's type.
    fields: list[Any] = []
    field: Any
    size = at = 0
    end = len(data)
    while at < end:
        first = data[at]
        if first & 0x80:  # §6.1
            index, at = _integer(data, at, 7)
            field = _entry(table, entries, index)
            name, value = field
        elif first & 0xE0 == 0x20:  # §6.3
            if fields:
                raise HPACKDecodingError("a table size update after a field")
            at += resize(data[at : at + 8])
            continue
        else:  # §6.2
            index, at = _integer(data, at, 6 if first & 0x40 else 4)
            if index:
                name = _entry(table, entries, index)[0]
            else:
                name, at = _string(data, at)
            value, at = _string(data, at)
            field = (name, value)
            if first & 0x40:
                table.add(name, value)
        fields.append(field)
        size += len(name) + len(value) + _ENTRY_OVERHEAD
        if size > most:
            raise OversizedHeaderListError(f"a header list of more than {most} bytes")
    return fields


def _entry(table: HeaderTable, entries: Any, index: int) -> Any:
    """Raises InvalidTableIndex."""
    place = index - 1 - _STATIC_SIZE
    if 0 <= place < len(entries):
        return entries[place]
    return table.get_by_index(index)
