"""HTTP/1.1 messages: heads and body framing (RFC 9112). Pure: bytes in, values out."""

from dataclasses import dataclass
from enum import Enum, auto

#: Field lines in order, names as they were received (compare with .lower()), values without outer white space.
Headers = list[tuple[bytes, bytes]]


class Framing(Enum):
    """How a body's end is found (RFC 9112 §6.3)."""

    NONE = auto()
    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()
    UPGRADE = auto()


@dataclass(slots=True)
class RequestHead:
    """A request as an upstream gets it: hop-by-hop fields gone, framing decided.

    `wire` is the head as it stands on an HTTP/1.1 connection or in an OPEN frame, final CRLF CRLF included.
    `length` is the body's length in bytes where framing is LENGTH, else 0.
    """

    method: bytes
    target: bytes
    headers: Headers
    framing: Framing
    length: int
    wire: bytes


@dataclass(slots=True)
class ResponseHead:
    """A response as an upstream gave it, parsed and checked, nothing removed yet.

    `raw` is the head as it was received, final CRLF CRLF included.
    """

    status: int
    reason: bytes
    headers: Headers
    framing: Framing
    length: int
    keep_alive: bool
    raw: bytes
