"""One stream: the state of its two halves, its credit, and what waits for credit. Pure; writes no frames.

The transition table below is the whole of PROTOCOL.md's "Stream" section.
"""

from collections import deque
from typing import Any, Final

from devroute.http.message import Headers
from devroute.tunnel.protocol.frames import WINDOW, Flag, FrameType

#: States of one half. HEADLESS: a response whose final HEAD has not come. BODY: open for DATA.
HEADLESS, BODY, CLOSED = range(3)
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


def after(state: int, kind: int, flags: int) -> int:
    """The half's state after a frame, or FORBIDDEN."""
    return NEXT[state][kind * 4 + (flags & 3)]


class Stream:
    """Both halves of one exchange, as seen from one end.

    `owner` belongs to whoever uses the session; nothing here reads it. `unreturned` counts bytes that were
    consumed and for which no CREDIT was sent yet. `backlog` holds DATA that waits for the peer's credit: no
    more than its source had in hand when it was told to pause.
    """

    __slots__ = (
        "backlog",
        "backlog_end",
        "credit",
        "id",
        "inbound",
        "last_header",
        "last_out",
        "outbound",
        "owner",
        "room",
        "unreturned",
    )

    def __init__(self, number: int, inbound: int, outbound: int) -> None:
        self.id = number
        self.inbound = inbound
        self.outbound = outbound
        self.credit = WINDOW  # bytes we may still send
        self.room = WINDOW  # bytes the peer may still send
        self.unreturned = 0
        self.backlog: deque[bytes] | None = None
        self.backlog_end: Headers | None = None
        # Where our newest frame's header stands in the session's output, so that END can ride on it.
        self.last_out: list[bytes] | None = None
        self.last_header = 0
        self.owner: Any = None

    @property
    def closed(self) -> bool:
        return self.inbound == CLOSED and self.outbound == CLOSED
