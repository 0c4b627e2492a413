"""How much a peer of a tunnel may send of what costs it nothing (PROTOCOL.md, "Floods"). Pure."""

from typing import Final

from devroute.errors import TunnelFlooded
from devroute.token_bucket import Allowance
from devroute.tunnel.protocol.frames import MAX_STREAMS

#: Trifles: frames that carry nothing (PING, PONG, GOAWAY, empty DATA, a CREDIT of little, a WebSocket control
#: frame or an empty message) or come for a stream that has ended. A peer sends a few of them when all its
#: streams are reset at once; beyond that only one that means harm does. Each stream earns some more.
TRIFLE_BURST: Final = 4 * MAX_STREAMS
TRIFLES_PER_SECOND: Final = 1000
TRIFLES_PER_STREAM: Final = 4

#: A CREDIT below it is a trifle: those who keep to the protocol give half of a window.
SMALL_CREDIT: Final = 16 * 1024

#: Streams that a proxy may take back ("rapid reset", CVE-2023-44487): each made the laptop's app work. All
#: of them at once is a sidecar that has died; only twice as many need an explanation.
RESET_BURST: Final = 2 * MAX_STREAMS
RESETS_PER_SECOND: Final = 1000

#: Frames that have less than so many bytes each, all in all, are tiny: a reader works for each of them as
#: for a large one. Some apps mean it (typing, tokens), so nobody is cut off for it: beyond the allowance the
#: link is read more slowly, and the others keep their share of the loop.
TINY_BYTES: Final = 24
TINY_BURST: Final = 20_000
TINY_PER_SECOND: Final = 20_000
MAX_REST_SECONDS: Final = 1.0


class FloodGuard:
    """What one link's peer has sent of it. `resets`: whether streams that the peer takes back count."""

    __slots__ = ("_count_resets", "_earned", "_resets", "_tiny", "_trifles")

    def __init__(self, now: float, *, resets: bool) -> None:
        self._count_resets = resets
        self._trifles = Allowance(TRIFLE_BURST, TRIFLES_PER_SECOND, now)
        self._resets = Allowance(RESET_BURST, RESETS_PER_SECOND, now)
        self._tiny = Allowance(TINY_BURST, TINY_PER_SECOND, now)
        self._earned = 0  # streams that were counted for what they earn

    def weigh(self, now: float, trifles: int, resets: int, opened: int) -> TunnelFlooded | None:
        """`opened`: the streams of this link so far."""
        self._trifles.earn(TRIFLES_PER_STREAM * (opened - self._earned))
        self._earned = opened
        if self._trifles.charge(now, trifles):
            return _flooded("frames that carry nothing")
        if self._count_resets and self._resets.charge(now, resets):
            return _flooded("requests that are taken back at once")
        return None

    def rest(self, now: float, tiny: int) -> float:
        """For how many seconds nothing should be read, after so many tiny frames more."""
        return min(self._tiny.charge(now, tiny), MAX_REST_SECONDS)


def _flooded(what: str) -> TunnelFlooded:
    return TunnelFlooded(f"a flood of {what}", hint="the tunnel is dialled anew after a while")
