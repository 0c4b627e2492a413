"""Limits on how far the windows of streams may grow, together (PROTOCOL.md, "Credit"), and on how much may
wait in them. Pure.
"""

from typing import Final

from devroute.tunnel.protocol.frames import WINDOW

#: Bytes of a stream's largest window: 400 MB/s at a round trip of 20 ms.
MAX_WINDOW: Final = 8 * WINDOW

#: Bytes by which all windows of a link, and all of a process, may be larger than WINDOW: what consumers that
#: stall may make it hold beyond that.
LINK_GROWTH: Final = 16 * WINDOW
PROCESS_GROWTH: Final = 64 * WINDOW

#: Bytes of bodies of one subject's requests into the mesh, and of all, that wait at the proxy for services
#: that do not read: each stream has a window, and a subject many streams.
SUBJECT_WAITING: Final = 64 * WINDOW
PROCESS_WAITING: Final = 256 * WINDOW
#: The same of the responses of one link's laptop, and of all, for clients that do not read.
LINK_RESPONSES: Final = 256 * WINDOW
PROCESS_RESPONSES: Final = 384 * WINDOW


class WindowBudget:
    """Bytes, of growth or of what waits, that are left. `shared`: a budget that counts them too."""

    __slots__ = ("_shared", "left")

    def __init__(self, left: int, shared: "WindowBudget | None" = None) -> None:
        self.left = left
        self._shared = shared

    def take(self, size: int) -> bool:
        """Use up so many bytes; False if there are not as many left."""
        if size > self.left or (self._shared is not None and not self._shared.take(size)):
            return False
        self.left -= size
        return True

    def give_back(self, size: int) -> None:
        self.left += size
        if self._shared is not None:
            self._shared.give_back(size)
