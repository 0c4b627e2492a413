"""The envelope around the frames: WebSocket (RFC 6455), binary messages only, client and server. Pure: no
clock, no socket.

Payload is passed on as it arrives; message boundaries and fragmentation have no meaning here. No extensions:
compression would gain little, since bodies are often compressed already.
"""

import base64
import hashlib
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from devroute.errors import ProtocolError
from devroute.tunnel.protocol.frames import Buffer
from devroute.tunnel.protocol.masking import find_mask

_CONTINUATION, _TEXT, _BINARY = 0x0, 0x1, 0x2
_CLOSE, _PING, _PONG = 0x8, 0x9, 0xA
_FIN: Final = 0x80
_MASKED: Final = 0x80

#: RFC 6455 §5.5: control frames carry at most 125 bytes.
MAX_CONTROL: Final = 125

#: Not a limit of memory, since payload is not collected; no working peer sends a longer message.
MAX_MESSAGE: Final = 1 << 40

#: Bytes of keys that are drawn at once: a system call for each message would cost as much as its framing.
KEYS_BYTES: Final = 1024

#: RFC 6455 §1.3.
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class CloseCode:
    NORMAL: Final = 1000
    GOING_AWAY: Final = 1001
    PROTOCOL_ERROR: Final = 1002


#: XORs data in place with a key of 4 bytes (RFC 6455 §5.3).
mask: Callable[[bytes, bytearray], None] = find_mask()


def _header(opcode: int, size: int, masked: int) -> bytes:
    if size < 126:
        return bytes((_FIN | opcode, masked | size))
    if size < 65536:
        return struct.pack("!BBH", _FIN | opcode, masked | 126, size)
    return struct.pack("!BBQ", _FIN | opcode, masked | 127, size)


class WebSocket:
    """One side of a connection after its handshake.

    `replies`: frames to be sent now (pongs, the response to a close); the owner takes them. `closed`: the
    peer's close code, or 1002 after an error. `error`: the peer's violation. Once `closed`, nothing more is
    read. `control_frames` counts control frames and empty messages; the owner reads and clears it.
    """

    def __init__(self, *, client: bool, random: Callable[[int], bytes]) -> None:
        self._client = client
        self._random = random
        self._keys = b""  # random bytes, used up to `_key_at`
        self._key_at = 0
        self.replies: list[bytes] = []
        self.control_frames = 0
        self.closed: int | None = None
        self.error: ProtocolError | None = None
        self._held = b""  # an incomplete header or control frame
        self._left = 0  # payload bytes of the current data frame still to come
        self._key: bytes | None = None  # rotated: its first byte is for the next payload byte
        self._in_message = False

    # --- sending ------------------------------------------------------------------------------------------

    def encode(self, pieces: list[bytes]) -> bytes | bytearray:
        """One binary message of these pieces."""
        return self._encode(_BINARY, pieces, sum(map(len, pieces)))

    def frame(self, pieces: list[bytes]) -> list[bytes] | list[bytes | bytearray]:
        """The same as pieces to be sent one after the other: `pieces` themselves, unless they have to be
        masked."""
        size = sum(map(len, pieces))
        if self._client:
            return [self._encode(_BINARY, pieces, size)]
        pieces.insert(0, _header(_BINARY, size, 0))
        return pieces

    def close(self, code: int) -> bytes:
        """The close frame that ends our side (RFC 6455 §5.5.1)."""
        return bytes(self._encode(_CLOSE, [struct.pack("!H", code)], 2))

    def _encode(self, opcode: int, pieces: list[bytes], size: int) -> bytes | bytearray:
        if not self._client:
            return b"".join((_header(opcode, size, 0), *pieces))
        at = self._key_at
        if at >= len(self._keys):
            self._keys = self._random(KEYS_BYTES)
            at = 0
        self._key_at = at + 4
        key = self._keys[at : at + 4]
        header = _header(opcode, size, _MASKED) + key
        # The whole message is masked in one pass, so the header is masked twice: here, and by that pass. The
        # key is rotated so that its first byte is for the payload's first.
        turn = -len(header) % 4
        turned = key[turn:] + key[:turn]
        start = bytearray(header)
        mask(turned, start)
        message = bytearray().join((start, *pieces))
        mask(turned, message)
        return message

    # --- receiving ----------------------------------------------------------------------------------------

    def receive(self, data: Buffer, whole: bytearray | None = None) -> list[Buffer]:
        """The payload in these bytes. Its memoryviews are views of `data`: use them before that is reused.

        `whole`: the buffer that `data` is the start of, where it may be overwritten."""
        payload: list[Buffer] = []
        if self.closed is None:
            try:
                self._parse(data, payload, whole)
            except ProtocolError as error:
                self.error = error
                self.closed = CloseCode.PROTOCOL_ERROR
                self.replies.append(self.close(CloseCode.PROTOCOL_ERROR))
        return payload

    def _parse(self, data: Buffer, payload: list[Buffer], whole: bytearray | None) -> None:
        if self._held:
            data, whole = self._held + bytes(data), None
            self._held = b""
        view = memoryview(data)
        size = len(view)
        at = 0
        while True:
            if self._left:
                take = min(self._left, size - at)
                if take:
                    payload.append(self._unmasked(view, at, at + take, whole))
                    self._left -= take
                    at += take
            if at == size:
                return
            if size < at + 2:  # a header has 2 to 14 bytes
                break
            first, second = view[at], view[at + 1]
            self._check_start(first, second)
            short = second & 0x7F
            start = at + 2 + (0 if short < 126 else 2 if short == 126 else 8)
            body = start + (4 if second & _MASKED else 0)
            if body > size:
                break
            length = short if short < 126 else int.from_bytes(view[at + 2 : start], "big")
            key = bytes(view[start:body]) if second & _MASKED else None
            if not first & 0x08:
                self._data_header(first, length)
                self._left, self._key = length, key
                at = body
                continue
            if body + length > size:
                break
            self._key = key
            self._control(first & 0x0F, bytes(self._unmasked(view, body, body + length, None)))
            if self.closed is not None:
                return
            at = body + length
        self._held = bytes(view[at:])

    def _check_start(self, first: int, second: int) -> None:
        """Check the first two bytes of a header."""
        if first & 0x70:
            raise ProtocolError("a WebSocket frame with reserved bits: no extension was agreed on")
        if bool(second & _MASKED) is self._client:
            raise ProtocolError("a WebSocket frame masked on the wrong side (RFC 6455 §5.1)")
        if first & 0x08 and (second & 0x7F > MAX_CONTROL or not first & _FIN):
            raise ProtocolError("a long or fragmented WebSocket control frame (RFC 6455 §5.5)")

    def _data_header(self, first: int, length: int) -> None:
        opcode = first & 0x0F
        if opcode not in (_CONTINUATION, _BINARY):
            raise ProtocolError(f"a WebSocket frame with opcode {opcode}: only binary messages are supported")
        if (opcode == _CONTINUATION) is not self._in_message:
            raise ProtocolError("a WebSocket continuation frame out of order (RFC 6455 §5.4)")
        if length > MAX_MESSAGE:
            raise ProtocolError(f"a WebSocket frame of {length} bytes")
        self._in_message = not first & _FIN
        if not length:
            self.control_frames += 1

    def _unmasked(self, view: memoryview, start: int, stop: int, whole: bytearray | None) -> Buffer:
        """A part of the payload: a copy, or where it is in `whole`, if it is most of that, and the rest of
        the data. What is before it was read, and what is after it is nothing that was received."""
        key = self._key
        part: Buffer = view[start:stop]
        if key is None:
            return part
        size = stop - start
        if whole is not None and stop == len(view) and 2 * size >= len(whole):
            turn = -start % 4
            mask(key[turn:] + key[:turn], whole)
        else:
            copy = bytearray(part)
            mask(key, copy)
            part = copy
        turn = size % 4
        if turn:
            self._key = key[turn:] + key[:turn]
        return part

    def _control(self, opcode: int, payload: bytes) -> None:
        self.control_frames += 1
        if opcode == _PING:
            if len(self.replies) < 2:  # only as many pongs wait as can be sent (§5.5.3)
                self.replies.append(bytes(self._encode(_PONG, [payload], len(payload))))
        elif opcode == _CLOSE:
            if len(payload) == 1:
                raise ProtocolError("a WebSocket close of one byte (RFC 6455 §5.5.1)")
            self.closed = int.from_bytes(payload[:2], "big") if payload else CloseCode.NORMAL
            self.replies.append(self.close(CloseCode.NORMAL))
        elif opcode != _PONG:
            raise ProtocolError(f"a WebSocket frame with opcode {opcode}")


# --- the handshake (RFC 6455 §4) --------------------------------------------------------------------------


class HeadLines(NamedTuple):
    """A parsed head of the handshake. `start`: its first line. Names are in lower case."""

    start: bytes
    fields: dict[bytes, bytes]

    def options(self, name: bytes) -> list[bytes]:
        return [option.strip().lower() for option in self.fields.get(name, b"").split(b",")]


def split_head(raw: bytes) -> HeadLines:
    """Parse a head that ends with CRLF CRLF; repeated fields are joined with commas (RFC 9110 §5.3).

    Raises ProtocolError.
    """
    start, *lines = raw[:-4].split(b"\r\n")
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip() or b"\n" in line or b"\r" in line:
            raise ProtocolError("a handshake with a malformed field line")
        name, value = name.lower(), value.strip()
        fields[name] = fields[name] + b", " + value if name in fields else value
    return HeadLines(start, fields)


def _accept(key: bytes) -> bytes:
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def is_upgrade(head: HeadLines) -> bool:
    """Whether a head has the fields of a WebSocket upgrade; the others are not checked."""
    return b"websocket" in head.options(b"upgrade") and b"upgrade" in head.options(b"connection")


def accept_upgrade(head: HeadLines, more: bytes = b"") -> bytes:
    """The 101 for a client's request; `more`: field lines, each with its CRLF. Raises ProtocolError."""
    key = head.fields.get(b"sec-websocket-key", b"")
    if not is_upgrade(head):
        raise ProtocolError("not a WebSocket upgrade", hint="an ingress in between may not pass upgrades on")
    if head.fields.get(b"sec-websocket-version") != b"13":
        raise ProtocolError("a WebSocket version other than 13")
    try:
        nonce = base64.b64decode(key, validate=True)
    except ValueError:
        nonce = b""
    if len(nonce) != 16:
        raise ProtocolError("a Sec-WebSocket-Key that is not 16 bytes in base64")
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n"
        b"sec-websocket-accept: " + _accept(key) + b"\r\n" + more + b"\r\n"
    )


def request_upgrade(host: str, path: str, fields: dict[str, str], nonce: bytes) -> tuple[bytes, bytes]:
    """The request and its key, for a nonce of 16 random bytes."""
    key = base64.b64encode(nonce)
    lines = [
        f"GET {path} HTTP/1.1",
        f"host: {host}",
        "upgrade: websocket",
        "connection: Upgrade",
        "sec-websocket-version: 13",
        f"sec-websocket-key: {key.decode()}",
        *(f"{name}: {value}" for name, value in fields.items()),
    ]
    return "\r\n".join(lines).encode("ascii") + b"\r\n\r\n", key


def check_upgraded(head: HeadLines, key: bytes) -> None:
    """Check the server's 101 against the key that was sent. Raises ProtocolError."""
    if head.fields.get(b"sec-websocket-accept") != _accept(key) or not is_upgrade(head):
        raise ProtocolError("the server's response to the WebSocket handshake does not match the request")
    if b"sec-websocket-extensions" in head.fields or b"sec-websocket-protocol" in head.fields:
        raise ProtocolError("the server agreed to a WebSocket extension that was not offered")
