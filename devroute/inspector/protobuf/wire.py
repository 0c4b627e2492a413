"""Protobuf without its schema, as text: number, wire type and value of each field. Pure.

Wire types and their names are those of https://protobuf.dev/programming-guides/encoding/. What a `len` field
holds is guessed: text, else a message, else bytes.
"""

import json
import struct
from typing import Final

from devroute.inspector.capture import text_of

#: Levels of messages that are guessed, and fields in all, guesses that fail included.
MAX_DEPTH: Final = 8
MAX_FIELDS: Final = 2000
#: Characters of a text, or bytes, that are shown of one value.
MAX_SHOWN: Final = 256

VARINT, I64, LEN, _GROUP, _END, I32 = range(6)
_SIZES: Final = {I64: 8, I32: 4}
_NAMES: Final = {VARINT: "varint", I64: "i64", LEN: "len", I32: "i32"}
_MAX_NUMBER: Final = (1 << 29) - 1


class _NotProtobuf(Exception):
    """The bytes are no protobuf message."""


class _TooMany(Exception):
    """There are more than MAX_FIELDS."""


def describe(data: bytes) -> str | None:
    """One line for each field, those of messages indented. None if the bytes are no protobuf."""
    reader = _Reader()
    try:
        reader.message(data, 0)
    except _NotProtobuf:
        return None
    except _TooMany:
        reader.lines.append("… more fields")
    return "\n".join(reader.lines)


def describe_field(number: int, wire_type: int, value: int | bytes) -> str:
    """One field on one line; `value` as it is on the wire."""
    if isinstance(value, bytes):
        return f"{number} len: {_text(value) or value[:MAX_SHOWN].hex(' ')}"
    return f"{number} {_NAMES[wire_type]}: {_number(wire_type, value)}"


def _number(wire_type: int, value: int) -> str:
    if wire_type == VARINT:
        return str(value)
    real = struct.unpack("<d" if wire_type == I64 else "<f", value.to_bytes(_SIZES[wire_type], "little"))[0]
    return f"{value} ({real:.7g})" if 1e-6 < abs(real) < 1e12 else str(value)


def _text(data: bytes) -> str | None:
    text = text_of(data[: MAX_SHOWN * 4], cut=len(data) > MAX_SHOWN * 4)
    if text is None or not text.translate(_BREAKS).isprintable():
        return None
    return json.dumps(text[:MAX_SHOWN], ensure_ascii=False) + (" …" if len(text) > MAX_SHOWN else "")


_BREAKS: Final = {ord(each): None for each in "\r\n\t"}


class _Reader:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self._fields = 0

    def message(self, data: bytes, depth: int) -> None:
        at, indent = 0, "  " * depth
        while at < len(data):
            tag, at = _varint(data, at)
            number, wire_type = tag >> 3, tag & 7
            self._fields += 1
            if self._fields > MAX_FIELDS:
                raise _TooMany
            if not 1 <= number <= _MAX_NUMBER or wire_type not in _NAMES:
                raise _NotProtobuf  # groups have been deprecated since proto3, and are not followed
            if wire_type == VARINT:
                value, at = _varint(data, at)
                self.lines.append(indent + describe_field(number, wire_type, value))
                continue
            size = _SIZES.get(wire_type)
            if size is None:
                size, at = _varint(data, at)
            part = data[at : at + size]
            at += size
            if len(part) < size:
                raise _NotProtobuf
            if wire_type == LEN:
                self._len(number, part, depth)
            else:
                value = int.from_bytes(part, "little")
                self.lines.append(indent + describe_field(number, wire_type, value))

    def _len(self, number: int, part: bytes, depth: int) -> None:
        indent, before = "  " * depth, len(self.lines)
        if len(part) > 1 and depth < MAX_DEPTH and _text(part) is None:
            self.lines.append(f"{indent}{number} len {{")
            try:
                self.message(part, depth + 1)
            except _NotProtobuf:
                del self.lines[before:]
            else:
                self.lines.append(indent + "}")
                return
        self.lines.append(indent + describe_field(number, LEN, part))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _NotProtobuf
