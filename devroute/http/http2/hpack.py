"""HPACK (RFC 7541) for connections inside a mesh, optimised for speed. Pure.

The encoder adds nothing to the dynamic table: a field is always the same bytes, encoded once. The output is
longer than with the table, and takes a tenth of the time; and no caller can learn from sizes what another
sent (§7.1). The decoder is hpack's, with a shorter loop.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import hpack
from hpack.exceptions import HPACKDecodingError, OversizedHeaderListError
from hpack.hpack import decode_integer, encode_integer
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

#: Encoded fields that are cached: requests differ in few fields.
MAX_REMEMBERED: Final = 4096

#: Longer fields are not cached, which bounds the cache at a few MiB.
MAX_REMEMBERED_BYTES: Final = 256

#: Sent as never-indexed, so that intermediaries do not index them either (§7.1.3).
_SENSITIVE: Final = frozenset((b"authorization", b"cookie", b"set-cookie", b"proxy-authorization"))

#: A dynamic table size update to 0 (§6.3): valid whatever size the peer permits later.
_NO_TABLE: Final = b"\x20"

_STATIC: Final = HeaderTable.STATIC_TABLE
_NAMES: Final = HeaderTable.STATIC_TABLE_MAPPING
_ENTRY_OVERHEAD: Final = 32  # §4.1


def _encode(name: bytes, value: bytes) -> bytes:
    """A field as an index into the static table, or as a literal (§6.1, §6.2.2; §6.2.3 if sensitive)."""
    index, values = _NAMES.get(name, (0, {}))
    if value in values:
        return b"%c" % (0x80 | values[value])
    start = encode_integer(index, 4)
    if name in _SENSITIVE:
        start[0] |= 0x10
    literal = b"" if index else bytes(encode_integer(len(name), 7)) + name
    return b"%b%b%b%b" % (bytes(start), literal, bytes(encode_integer(len(value), 7)), value)


_encode_short = lru_cache(MAX_REMEMBERED)(_encode)


class Encoder:
    """The part of hpack.Encoder that h2 uses."""

    def __init__(self) -> None:
        self.header_table_size = 0  # h2 sets it to what the peer permits; unused
        self._first = True

    def encode(self, headers: Iterable[Field]) -> bytes:
        pieces = [
            _encode_short(name, value)
            if len(value) <= MAX_REMEMBERED_BYTES and name not in _SENSITIVE
            else _encode(name, value)
            for name, value in headers
        ]
        if self._first:
            self._first = False
            pieces.insert(0, _NO_TABLE)
        return b"".join(pieces)


_huffman_short = lru_cache(MAX_REMEMBERED)(decode_huffman)


def _string(data: bytes, at: int) -> tuple[bytes, int]:
    """A string literal (§5.2) and the position after it."""
    coded = data[at] & 0x80
    length = data[at] & 0x7F
    if length == 0x7F:
        length, used = decode_integer(data[at : at + 8], 7)
        at += used
    else:
        at += 1
    end = at + length
    text = data[at:end]
    if len(text) != length:
        raise HPACKDecodingError("a string literal ends after its header block")
    if coded:
        text = _huffman_short(text) if length <= MAX_REMEMBERED_BYTES else decode_huffman(text)
    return bytes(text), end


class Decoder(hpack.Decoder):
    def decode(self, data: bytes, raw: bool = False) -> list[Field]:  # type: ignore[override]
        """Raises hpack's errors, and IndexError for a block that ends within a field.

        Longer than 40 lines: a call for each field would cost as much as decoding it.
        """
        table = self.header_table
        fields: list[Field] = []
        size = at = 0
        end = len(data)
        while at < end:
            first = data[at]
            if first & 0x80:  # §6.1
                index = first & 0x7F
                if index == 0x7F:
                    index, used = decode_integer(data[at : at + 8], 7)
                    at += used
                else:
                    at += 1
                field = _STATIC[index - 1] if 0 < index <= len(_STATIC) else table.get_by_index(index)
            elif first & 0xE0 == 0x20:  # §6.3
                if fields:
                    raise HPACKDecodingError("a table size update after a field")
                at += self._update_encoding_context(data[at : at + 8])
                continue
            else:  # §6.2
                bits, mask = (6, 0x3F) if first & 0x40 else (4, 0x0F)
                index = first & mask
                if index == mask:
                    index, used = decode_integer(data[at : at + 8], bits)
                    at += used
                else:
                    at += 1
                if index:
                    name = table.get_by_index(index)[0]
                else:
                    name, at = _string(data, at)
                value, at = _string(data, at)
                field = (name, value)
                if first & 0x40:
                    table.add(name, value)
            fields.append(field)
            size += len(field[0]) + len(field[1]) + _ENTRY_OVERHEAD
            if size > self.max_header_list_size:
                raise OversizedHeaderListError(
                    f"a header list of more than {self.max_header_list_size} bytes"
                )
        self._assert_valid_table_size()
        return fields
