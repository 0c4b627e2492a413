"""Limits on frames that are cheap to send and cost the receiver work (PROTOCOL.md, "Floods"). Pure."""

from typing import Final

from devroute.errors import TunnelFlooded
from devroute.token_bucket import TokenBucket
from devroute.tunnel.protocol.frames import MAX_STREAMS

#: Control frames: PING, PONG, GOAWAY, RENEW, empty DATA, a small CREDIT, frames for a stream that has ended,
#: and the WebSocket's control frames and empty messages. When all its streams are reset at once, a peer that
#: keeps to the protocol sends a few for each: hence the burst. Each stream earns some more.
CONTROL_BURST: Final = 4 * MAX_STREAMS
CONTROL_PER_SECOND: Final = 1000
CONTROL_PER_STREAM: Final = 4

#: A CREDIT below it counts as a control frame; an honest receiver grants an eighth of a window at once.
SMALL_CREDIT: Final = 16 * 1024

#: Streams of its own that a side may reset ("rapid reset", CVE-2023-44487): each made the other side work. A
#: sidecar that dies resets all of them at once, so twice as many are allowed.
RESET_BURST: Final = 2 * MAX_STREAMS
RESETS_PER_SECOND: Final = 1000

#: Frames are tiny if they have fewer bytes than this on average: each costs its reader as much as a large
#: one. Some apps send them for good reason (keystrokes, tokens), so beyond the allowance the link is not
#: closed but read more slowly, and the other links keep their share of the loop.
TINY_BYTES: Final = 24
TINY_BURST: Final = 20_000
TINY_PER_SECOND: Final = 20_000
#: For all that one read has: 272 KiB of a link over TLS (http/aio/connection.py) are 25,000 frames.
MAX_PAUSE_SECONDS: Final = 2.0

#: A stream of an agent's that the proxy refuses counts as so many of them: it costs as much to read, judge
#: and record, and its agent may have opened it only for that.
REFUSED_AS_TINY: Final = 10


class FloodGuard:
    """Counts what one link's peer has sent."""

    __slots__ = ("_control", "_earned", "_resets", "_tiny")

    def __init__(self, now: float) -> None:
        self._control = TokenBucket(CONTROL_BURST, CONTROL_PER_SECOND, now)
        self._resets = TokenBucket(RESET_BURST, RESETS_PER_SECOND, now)
        self._tiny = TokenBucket(TINY_BURST, TINY_PER_SECOND, now)
        self._earned = 0  # streams that have earned their CONTROL_PER_STREAM

    def check(self, now: float, control_frames: int, resets: int, opened: int) -> TunnelFlooded | None:
        """Count these more; the error to close the link with, if they are too many. `opened`: the number of
        streams that the link has had so far."""
        self._control.earn(CONTROL_PER_STREAM * (opened - self._earned))
        self._earned = opened
        if self._control.charge(now, control_frames):
            return _flooded("control frames")
        if self._resets.charge(now, resets):
            return _flooded("requests that are reset at once")
        return None

    def pause(self, now: float, tiny: int) -> float:
        """Count these tiny frames more. Returns for how many seconds nothing should be read."""
        return min(self._tiny.charge(now, tiny), MAX_PAUSE_SECONDS)


def _flooded(what: str) -> TunnelFlooded:
    return TunnelFlooded(f"a flood of {what}", hint="the agent dials again after a while")
