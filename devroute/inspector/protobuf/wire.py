"""Protobuf without its schema, as text: number, wire type and value of each field. Pure.

Wire types and their names are those of https://protobuf.dev/programming-guides/encoding/. What a `len` field
holds is guessed: text, else a message, else bytes.
"""

import json
import struct
from typing import Final

from devroute.inspector.capture import text_of

#: Levels of messages that are guessed; fields that are described, and that are searched for texts.
MAX_DEPTH: Final = 8
MAX_FIELDS: Final = 2000
MAX_SEARCHED: Final = 20_000
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
    reader = _Reader(data, MAX_FIELDS)
    try:
        reader.message(0, len(data), 0)
    except _NotProtobuf:
        return None
    except _TooMany:
        reader.lines.append("… more fields")
    return "\n".join(reader.lines)


def texts(data: bytes) -> list[tuple[int, int]]:
    """Where each `len` field starts and ends, the inner ones first: what could be a message may be a text.
    All of the bytes if they are no protobuf."""
    reader = _Reader(data, MAX_SEARCHED, thorough=True)
    try:
        reader.message(0, len(data), 0)
    except (_NotProtobuf, _TooMany):
        return [(0, len(data))]
    return reader.texts


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
    def __init__(self, data: bytes, limit: int, *, thorough: bool = False) -> None:
        """`limit`: fields in all, guesses that fail included. `thorough`: look for messages in texts too."""
        self._thorough = thorough
        self.lines: list[str] = []
        self.texts: list[tuple[int, int]] = []
        self._data = data
        self._limit = limit

    def message(self, at: int, end: int, depth: int) -> None:
        indent = "  " * depth
        while at < end:
            tag, at = _read_varint(self._data, at, end)
            number, wire_type = tag >> 3, tag & 7
            self._limit -= 1
            if self._limit < 0:
                raise _TooMany
            if not 1 <= number <= _MAX_NUMBER or wire_type not in _NAMES:
                raise _NotProtobuf  # groups have been deprecated since proto3, and are not followed
            if wire_type == VARINT:
                value, at = _read_varint(self._data, at, end)
                self.lines.append(indent + describe_field(number, wire_type, value))
                continue
            size = _SIZES.get(wire_type)
            if size is None:
                size, at = _read_varint(self._data, at, end)
            start, at = at, at + size
            if at > end:
                raise _NotProtobuf
            if wire_type == LEN:
                self._len(number, start, at, depth)
            else:
                value = int.from_bytes(self._data[start:at], "little")
                self.lines.append(indent + describe_field(number, wire_type, value))

    def _len(self, number: int, start: int, end: int, depth: int) -> None:
        part, indent = self._data[start:end], "  " * depth
        before = len(self.lines), len(self.texts)
        if len(part) > 1 and depth < MAX_DEPTH and (self._thorough or _text(part) is None):
            self.lines.append(f"{indent}{number} len {{")
            try:
                self.message(start, end, depth + 1)
            except _NotProtobuf:
                del self.lines[before[0] :], self.texts[before[1] :]
            else:
                self.lines.append(indent + "}")
                self.texts.append((start, end))
                return
        self.lines.append(indent + describe_field(number, LEN, part))
        self.texts.append((start, end))


def varint(value: int) -> bytes:
    """A number, zero or more, as a varint."""
    made = b""
    while value > 0x7F:
        made += bytes((value & 0x7F | 0x80,))
        value >>= 7
    return made + bytes((value,))


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _NotProtobuf
