"""Finds the messages in recorded byte streams: WebSocket (RFC 6455, RFC 7692) and gRPC. Pure.

Never raises: a stream that breaks the protocol is ignored from there on. The beginning of each message is
kept, the rest counted.
"""

import zlib
from dataclasses import dataclass
from typing import Final, Protocol

from devroute.inspector.capture import OPCODES, Message, Opcode
from devroute.tunnel.protocol.websocket import mask

#: Bytes of one message that are kept. Fewer of gRPC messages, because the gRPC body is kept as well.
MAX_MESSAGE_BYTES: Final = 256 * 1024
MAX_GRPC_BYTES: Final = 4 * 1024

#: Bytes to which one message is decompressed at most; the next one may need its dictionary.
MAX_INFLATED_BYTES: Final = 16 * 1024 * 1024

_FIN, _COMPRESSED, _RESERVED, _CONTROL = 0x80, 0x40, 0x30, 0x08

#: The bytes that a sender omits at the end of each compressed message (RFC 7692 §7.2.1).
_TAIL: Final = b"\0\0\xff\xff"


class Watcher(Protocol):
    """One direction of a stream. `at`: seconds since the request began."""

    def feed(self, data: bytes, at: float) -> list[Message]: ...


@dataclass(slots=True, kw_only=True, eq=False, repr=False)
class GrpcMessages:
    """Length-prefixed messages (gRPC's "PROTOCOL-HTTP2"): a flag, four bytes of length, the message."""

    from_client: bool
    _held: bytes = b""  # an incomplete prefix
    _left: int = -1  # bytes missing from the current message; -1 between messages
    _size: int = 0
    _flag: int = 0
    _data: bytes = b""

    def feed(self, data: bytes, at: float) -> list[Message]:
        found: list[Message] = []
        if self._held:
            data, self._held = self._held + data, b""
        position, end = 0, len(data)
        while True:
            if self._left < 0:
                if end - position < 5:
                    self._held = data[position:]
                    return found
                self._flag = data[position]
                self._left = self._size = int.from_bytes(data[position + 1 : position + 5], "big")
                self._data = b""
                position += 5
            stop = min(end, position + self._left)
            if len(self._data) < MAX_GRPC_BYTES:
                self._data += data[position : min(stop, position + MAX_GRPC_BYTES - len(self._data))]
            self._left -= stop - position
            position = stop
            if self._left:
                return found
            found.append(
                Message(at, self.from_client, "binary", self._data, self._size, compressed=self._flag == 1)
            )
            self._left = -1


class Deflate:
    """permessage-deflate in one direction (RFC 7692): with `takeover`, messages share a dictionary."""

    __slots__ = ("_inflater", "_takeover", "broken")

    def __init__(self, *, takeover: bool) -> None:
        self._takeover = takeover
        self._inflater = zlib.decompressobj(-15)
        self.broken = False

    def inflate(self, data: bytes, room: int) -> tuple[bytes, int]:
        """The first `room` decompressed bytes, and their total number. Sets `broken` on failure."""
        kept, size = b"", 0
        try:
            while data and not self.broken:
                piece = self._inflater.decompress(data, 64 * 1024)
                data = self._inflater.unconsumed_tail
                size += len(piece)
                kept += piece[: room - len(kept)]
                self.broken = size > MAX_INFLATED_BYTES
        except zlib.error:
            self.broken = True
        return kept, size

    def next(self) -> None:
        if not self._takeover:
            self._inflater = zlib.decompressobj(-15)


def deflate(extensions: str, *, from_client: bool) -> Deflate | None:
    """The compression of one direction, according to the server's Sec-WebSocket-Extensions."""
    for extension in extensions.lower().split(","):
        name, *options = (part.strip() for part in extension.split(";"))
        if name == "permessage-deflate":
            side = "client" if from_client else "server"
            return Deflate(takeover=f"{side}_no_context_takeover" not in options)
    return None


class WebSocketMessages:
    """Frames of one direction, after the handshake."""

    __slots__ = (
        "_data", "_deflate", "_final", "_first", "_from_client", "_held", "_inflating", "_key", "_left",
        "_limit", "_lost", "_opcode", "_size",
    )  # fmt: skip

    def __init__(self, *, from_client: bool, extensions: str, limit: int = MAX_MESSAGE_BYTES) -> None:
        self._from_client = from_client
        self._limit = limit
        self._deflate = deflate(extensions, from_client=from_client)
        self._held = b""  # an incomplete header or control frame
        self._left = 0  # payload bytes of the current frame
        self._key = b""
        self._final = False
        self._first = True  # the next data frame starts a message
        self._inflating = False
        self._opcode: Opcode = "binary"
        self._data = bytearray()
        self._size = 0
        self._lost = False  # the bytes are not WebSocket frames

    def feed(self, data: bytes, at: float) -> list[Message]:
        found: list[Message] = []
        if self._lost:
            return found
        if self._held:
            data, self._held = self._held + data, b""
        position, end = 0, len(data)
        while position < end or (self._final and not self._left):
            if self._left or self._final:
                stop = min(end, position + self._left)
                self._payload(data, position, stop)
                self._left -= stop - position
                position = stop
                if not self._left and self._final:
                    found.append(self._complete(at))
                continue
            start = self._header(data, position, end, at, found)
            if start < 0:
                self._held = b"" if self._lost else data[position:]
                break
            position = start
        return found

    def _header(self, data: bytes, at: int, end: int, now: float, found: list[Message]) -> int:
        """The position of the next data frame's payload, or of the frame after a control frame; -1 if bytes
        are missing."""
        if end - at < 2:
            return -1
        first, second = data[at], data[at + 1]
        short = second & 0x7F
        body = at + 2 + (0 if short < 126 else 2 if short == 126 else 8)
        length = short if short < 126 else int.from_bytes(data[at + 2 : body], "big")
        opcode = first & 0x0F
        key_end = body + 4 if second & 0x80 else body
        if first & _RESERVED or (opcode and opcode not in OPCODES):
            self._lost = True
            return -1
        if opcode & _CONTROL:
            if short > 125:
                self._lost = True
                return -1
            if end < key_end + length:
                return -1
            payload = _unmasked(data[key_end : key_end + length], data[body:key_end])
            found.append(Message(now, self._from_client, OPCODES[opcode], payload, length))
            return key_end + length
        if end < key_end:
            return -1
        if bool(opcode) is not self._first:
            self._lost = True
            return -1
        if opcode:
            self._opcode = OPCODES[opcode]
            self._data = bytearray()
            self._size = 0
            self._inflating = bool(first & _COMPRESSED)
        self._first = self._final = bool(first & _FIN)
        self._left, self._key = length, data[body:key_end]
        return key_end

    def _payload(self, data: bytes, start: int, stop: int) -> None:
        deflated = self._deflate if self._inflating else None
        room = self._limit - len(self._data)
        if deflated is not None and not deflated.broken:
            kept, size = deflated.inflate(_unmasked(data[start:stop], self._key), room)
            self._data += kept
            self._size += size
        else:
            self._size += stop - start
            if room > 0 and not self._inflating:
                self._data += _unmasked(data[start : min(stop, start + room)], self._key)
        turn = (stop - start) % 4
        self._key = self._key[turn:] + self._key[:turn]

    def _complete(self, at: float) -> Message:
        deflated = self._deflate if self._inflating else None
        if deflated is not None and not deflated.broken:
            kept, size = deflated.inflate(_TAIL, self._limit - len(self._data))
            self._data += kept
            self._size += size
            deflated.next()
        self._final = False
        self._first = True
        # Data that cannot be decompressed cannot be redacted either: only its size is kept.
        opaque = self._inflating and (deflated is None or deflated.broken)
        data = b"" if opaque else bytes(self._data)
        self._data = bytearray()
        return Message(at, self._from_client, self._opcode, data, self._size, compressed=opaque)


def _unmasked(data: bytes, key: bytes) -> bytes:
    if not key:
        return data
    plain = bytearray(data)
    mask(key, plain)
    return bytes(plain)
