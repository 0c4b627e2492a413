"""The frames of PROTOCOL.md: header, limits and payloads. Pure; knows nothing of their order."""

import struct
from enum import IntEnum
from typing import Final, NamedTuple

from devroute.errors import BY_CODE, DevrouteError, ProtocolError
from devroute.http.http1.body import ChunkedBody
from devroute.http.message import Headers

Buffer = bytes | bytearray | memoryview

VERSION: Final = 1


class FrameType(IntEnum):
    HELLO = 1
    WELCOME = 2
    OPEN = 3
    HEAD = 4
    DATA = 5
    TRAILERS = 6
    END = 7
    RESET = 8
    CREDIT = 9
    PING = 10
    PONG = 11
    GOAWAY = 12
    RENEW = 13
    RENEWED = 14


class Flag(IntEnum):
    """Bits of a frame's flags. Not an IntFlag, whose `&` costs 1 µs."""

    END = 1
    INFORMATIONAL = 2
    CHUNKED = 4
    UPGRADE = 8
    SPENT = 16
    DOUBLED = 32


HEADER: Final = struct.Struct("!BBII")
OPEN_HEADER: Final = struct.Struct("!BBIIQB")
OPEN_PREFIX: Final = struct.Struct("!QB")
_OPEN_PREFIX_SIZE: Final = 9
CREDIT_FRAME: Final = struct.Struct("!BBIII")
CREDIT: Final = struct.Struct("!I")

#: Bytes in flight per stream and direction, at first: 100 Mbit/s at a round trip of 80 ms. It bounds the
#: memory of a stalled stream. protocol/windows.py has how far it may grow.
WINDOW: Final = 1024 * 1024

#: CREDIT is sent for every such part of the window: at half of it, a stream had 0.53 of a window in a round
#: trip; at an eighth 0.92, for a few more frames of 14 bytes.
CREDITS_PER_WINDOW: Final = 8

#: Streams of one link that either side may have open at once. A page load has some hundred; each may hold two
#: windows.
MAX_STREAMS: Final = 4096

MAX_STREAM_ID: Final = 0xFFFF_FFFF

#: The first id of the streams that an agent opens: those with the top bit set are its own.
FIRST_AGENT_ID: Final = 0x8000_0000

#: A head of 64 KiB, the limit of the data port, and the fields that are added on the way.
MAX_HEAD: Final = 128 * 1024

#: HELLO and WELCOME: a list of services, of which a laptop has some dozens.
MAX_GREETING: Final = 64 * 1024

#: As for chunked trailers (http/http1/body.py).
MAX_TRAILERS: Final = 16 * 1024

#: RESET and GOAWAY: a code, a message and a hint.
MAX_REASON: Final = 4 * 1024

#: RENEW: as long as a token in the head of an upgrade. RENEWED: a reason, as JSON.
MAX_TOKEN: Final = 8 * 1024
MAX_RENEWED: Final = 16 * 1024

MAX_SERVICE_BYTES: Final = 255
MAX_PING: Final = 8


class Rule(NamedTuple):
    """What a type's header allows: flag bits, payload bytes. `of_stream`: it belongs to a stream, not to the
    link."""

    flags: int
    limit: int
    of_stream: bool


RULES: Final[dict[FrameType, Rule]] = {
    FrameType.HELLO: Rule(0, MAX_GREETING, False),
    FrameType.WELCOME: Rule(0, MAX_GREETING, False),
    FrameType.OPEN: Rule(Flag.END | Flag.CHUNKED | Flag.UPGRADE, MAX_HEAD, True),
    FrameType.HEAD: Rule(Flag.END | Flag.INFORMATIONAL | Flag.UPGRADE, MAX_HEAD, True),
    FrameType.DATA: Rule(Flag.END | Flag.SPENT, WINDOW, True),
    FrameType.TRAILERS: Rule(0, MAX_TRAILERS, True),
    FrameType.END: Rule(0, 0, True),
    FrameType.RESET: Rule(0, MAX_REASON, True),
    FrameType.CREDIT: Rule(Flag.DOUBLED, 4, True),
    FrameType.PING: Rule(0, MAX_PING, False),
    FrameType.PONG: Rule(0, MAX_PING, False),
    FrameType.GOAWAY: Rule(0, MAX_REASON, False),
    FrameType.RENEW: Rule(0, MAX_TOKEN, False),
    FrameType.RENEWED: Rule(0, MAX_RENEWED, False),
}


def check_header(kind: int, flags: int, stream: int, length: int) -> None:
    """Raises ProtocolError if PROTOCOL.md's table does not allow this header."""
    try:
        rule = RULES[FrameType(kind)]
    except ValueError:
        raise ProtocolError(
            f"frame type {kind} is unknown",
            hint="agent and proxy are of different versions: upgrade the older",
        ) from None
    name = FrameType(kind).name
    if flags & ~rule.flags:
        raise ProtocolError(f"{name} with flags {flags:#04x}; it may have {int(rule.flags):#04x}")
    if length > rule.limit:
        raise ProtocolError(f"{name} of {length} bytes; at most {rule.limit} are allowed")
    if (stream != 0) is not rule.of_stream:
        raise ProtocolError(f"{name} on stream {stream}")


def encode_reason(code: str, message: str, hint: str) -> bytes:
    """The payload of RESET and GOAWAY; texts that are too long are cut."""
    texts = (" ".join(text.split())[: MAX_REASON // 8] for text in (code, message, hint))
    return "\n".join(texts).encode(errors="replace")[:MAX_REASON]


class Reason(NamedTuple):
    code: str
    message: str
    hint: str

    def as_error(self, otherwise: type[DevrouteError]) -> DevrouteError:
        """An error of the class with this code, else of `otherwise`."""
        return BY_CODE.get(self.code, otherwise)(self.message or self.code, hint=self.hint)


def decode_reason(payload: bytes) -> Reason:
    """Control characters become spaces, since the texts reach terminals and header fields. Raises
    ProtocolError."""
    try:
        lines = payload.decode().split("\n")
    except UnicodeDecodeError:
        raise ProtocolError("a reason is not UTF-8") from None
    if len(lines) != 3:
        raise ProtocolError(f"a reason of {len(lines)} lines instead of 3")
    return Reason(*("".join(c if c.isprintable() else " " for c in line) for line in lines))


def encode_trailers(trailers: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in trailers)


def decode_trailers(payload: bytes) -> Headers:
    """Raises ProtocolError unless this is a trailer section (RFC 9112 §7.1.2) that http/http1/body.py
    accepts."""
    reader = ChunkedBody(ProtocolError)
    body, rest = reader.feed(b"0\r\n" + payload + b"\r\n")
    if body or rest or not reader.done:
        raise ProtocolError("TRAILERS with an empty line")
    return reader.trailers


def number_at(data: bytes, at: int) -> int:
    """The number of 4 bytes there. Compiled, this costs a fifth of a struct, which makes a tuple."""
    return (data[at] << 24) | (data[at + 1] << 16) | (data[at + 2] << 8) | data[at + 3]


def decode_open(payload: bytes) -> tuple[int, bytes, bytes]:
    """(body length, service, head). Raises ProtocolError."""
    if len(payload) < _OPEN_PREFIX_SIZE:
        raise ProtocolError("OPEN is too short")
    length = (number_at(payload, 0) << 32) | number_at(payload, 4)
    start = _OPEN_PREFIX_SIZE + payload[8]
    if len(payload) < start or not payload.endswith(b"\r\n\r\n"):
        raise ProtocolError("OPEN without a whole head")
    return length, payload[_OPEN_PREFIX_SIZE:start], payload[start:]


def decode_credit(payload: bytes) -> int:
    """Raises ProtocolError."""
    if len(payload) != CREDIT.size:
        raise ProtocolError(f"CREDIT of {len(payload)} bytes")
    credit: int = CREDIT.unpack(payload)[0]
    if not credit:
        raise ProtocolError("CREDIT for 0 bytes")
    return credit
