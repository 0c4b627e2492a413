"""HPACK (RFC 7541) for connections inside a mesh, optimised for speed. Pure.

The encoder adds nothing to the dynamic table: a field is always the same bytes, encoded once. The output is
longer than with the table, and takes a tenth of the time; and no caller can learn from sizes what another
sent (§7.1). The decoder is hpack's, with a shorter loop (http/http2/field_blocks.py).
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

import hpack
from hpack.hpack import encode_integer
from hpack.table import HeaderTable

from devroute.http.http2.field_blocks import MAX_REMEMBERED, MAX_REMEMBERED_BYTES, decode_block

Field = tuple[bytes, bytes]

#: Sent as never-indexed, so that intermediaries do not index them either (§7.1.3).
_SENSITIVE: Final = frozenset((b"authorization", b"cookie", b"set-cookie", b"proxy-authorization"))

#: A dynamic table size update to 0 (§6.3): valid whatever size the peer permits later.
_NO_TABLE: Final = b"\x20"

_NAMES: Final = HeaderTable.STATIC_TABLE_MAPPING


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


class Decoder(hpack.Decoder):
    def decode(self, data: bytes, raw: bool = False) -> list[Field]:  # type: ignore[override]
        """Raises hpack's errors, and IndexError for a block that ends within a field."""
        fields = decode_block(
            bytes(data), self.header_table, self.max_header_list_size, self._update_encoding_context
        )
        self._assert_valid_table_size()
        return fields
