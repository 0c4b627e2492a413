"""One stream: the state of its two halves, its credit, and the data that wait for credit. Pure; writes no
frames.

The transition table is the grammar in PROTOCOL.md, "Stream".
"""

from collections import deque
from typing import Final

from devroute.errors import DevrouteError
from devroute.http.message import Headers
from devroute.tunnel.protocol.frames import WINDOW, Flag, FrameType, Reason

#: States of one half. HEADLESS: a response before its final HEAD. BODY: open for DATA.
HEADLESS: Final = 0
BODY: Final = 1
CLOSED: Final = 2
FORBIDDEN: Final = -1

TRANSITIONS: Final[dict[tuple[int, FrameType, int], int]] = {
    (HEADLESS, FrameType.HEAD, Flag.INFORMATIONAL): HEADLESS,
    (HEADLESS, FrameType.HEAD, 0): BODY,
    (HEADLESS, FrameType.HEAD, Flag.END): CLOSED,
    (BODY, FrameType.DATA, 0): BODY,
    (BODY, FrameType.DATA, Flag.END): CLOSED,
    (BODY, FrameType.END, 0): CLOSED,
    (BODY, FrameType.TRAILERS, 0): CLOSED,
}

#: The same as nested tuples, NEXT[state][type * 4 + flags & 3]: one index per frame instead of a hashed key.
NEXT: Final = tuple(
    tuple(
        TRANSITIONS.get((state, FrameType(slot >> 2), slot & 3), FORBIDDEN) if slot >> 2 else FORBIDDEN
        for slot in range((max(FrameType) + 1) * 4)
    )
    for state in (HEADLESS, BODY, CLOSED)
)


# A base class rather than a Protocol: mypyc calls its methods directly.
class StreamOwner:
    """What the session's user has for a stream: gets what arrives on it."""

    __slots__ = ()

    def receive_head(self, raw: bytes, flags: int) -> None:
        raise NotImplementedError

    def receive_data(self, data: bytes, end: int) -> None:
        raise NotImplementedError

    def receive_end(self, trailers: Headers) -> None:
        raise NotImplementedError

    def receive_reset(self, reason: Reason) -> None:
        raise NotImplementedError

    def lose_link(self, error: DevrouteError) -> None:
        """Nothing more arrives."""
        raise NotImplementedError


_NO_OWNER: Final = StreamOwner()


class Stream:
    """Both halves of one exchange, as one end sees them.

    `owner` is for the session's user; nothing here reads it. `unreturned`: bytes that were consumed, and for
    which no CREDIT has been sent yet. `backlog`: data that wait for the peer's credit, no more than the
    source had in hand when it was paused; `backlog_end`: the trailers that follow them.

    `window`: bytes that our consumer may leave lying; `peer_window`: the same of the peer's. `doubled`:
    CREDIT is still to say that `window` has. `uninformed`: bytes to come that the peer may send before it
    knows of that.
    """

    __slots__ = (
        "backlog",
        "backlog_end",
        "credit",
        "doubled",
        "id",
        "inbound",
        "last_header",
        "last_out",
        "outbound",
        "owner",
        "peer_window",
        "room",
        "uninformed",
        "unreturned",
        "window",
    )

    def __init__(self, number: int, inbound: int, outbound: int) -> None:
        self.id = number
        self.inbound = inbound
        self.outbound = outbound
        self.credit = WINDOW  # bytes we may still send
        self.room = WINDOW  # bytes the peer may still send
        self.unreturned = 0
        self.window = WINDOW
        self.peer_window = WINDOW
        self.doubled = False
        self.uninformed = 0
        self.backlog: deque[bytes] | None = None
        self.backlog_end: Headers | None = None
        # The position of our newest frame's header in the session's output, for END to be set on it.
        self.last_out: list[bytes] | None = None
        self.last_header = 0
        self.owner = _NO_OWNER

    @property
    def closed(self) -> bool:
        return self.inbound == CLOSED and self.outbound == CLOSED


#: The stream of an owner that has none, or none any more.
NO_STREAM: Final = Stream(0, CLOSED, CLOSED)
