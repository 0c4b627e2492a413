"""Peers that vanish while they owe an acknowledgement: their host sleeps, or has left its network, and sends
neither FIN nor reset.

TCP keep-alive detects those that vanish from an idle connection, and is silent while data are in transit. The
kernel's own limit for those, TCP_USER_TIMEOUT, also ends connections whose peer acknowledges everything and
only does not read (tcp(7)): an app that a debugger has stopped, with a body that its receive buffer cannot
take. So this asks the kernel what the peer still acknowledges (TCP_INFO), where it can: on Linux.
"""

import asyncio
import errno
import os
import socket
import struct
import sys
from typing import Final

from devroute.http.aio.connection import Connection

#: Seconds without an acknowledgement, while one is owed, after which a peer has vanished; and between looks.
UNACKNOWLEDGED: Final = 25.0
LOOK_EVERY: Final = 5.0

# struct tcp_info of linux/tcp.h: window probes without a reply, unacknowledged segments, and milliseconds
# since data were last sent (or sent again) and since the last acknowledgement.
_TCP_INFO: Final = struct.Struct("=3xB20xI16xI8xI")
_LINUX: Final = sys.platform == "linux"


def owes(probes: int, unacknowledged: int, since_sent: int, since_acknowledgement: int) -> bool:
    """Whether something was sent that the peer has not replied to. One window probe without a reply is none:
    it may have been sent this moment."""
    return probes > 1 or (unacknowledged > 0 and since_sent < since_acknowledgement)


class PeerWatch:
    """The connections of one loop whose peers may vanish."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        # When a look first found that the peer owes, with nothing received since; by the loop's clock.
        self._owing_since: dict[Connection, float | None] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: Connection) -> None:
        self._owing_since[connection] = None
        if self._timer is None:
            self._timer = self.loop.call_later(LOOK_EVERY, self._look)

    def forget(self, connection: Connection) -> None:
        self._owing_since.pop(connection, None)

    def _look(self) -> None:
        now = self.loop.time()
        for connection in list(self._owing_since):
            if connection.closed:
                self.forget(connection)
            else:
                self._look_at(connection, now)
        again = bool(self._owing_since)
        self._timer = self.loop.call_later(LOOK_EVERY, self._look) if again else None

    def _look_at(self, connection: Connection, now: float) -> None:
        info = connection.transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size
        )
        probes, unacknowledged, since_sent, since_acknowledgement = _TCP_INFO.unpack(info)
        since = self._owing_since[connection]
        if not owes(probes, unacknowledged, since_sent, since_acknowledgement):
            self._owing_since[connection] = None
        elif since is None or since_acknowledgement < (now - since) * 1000:
            self._owing_since[connection] = now
        elif now - since >= UNACKNOWLEDGED:
            self.forget(connection)
            connection.lose(TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))


_watch: PeerWatch | None = None  # of the last loop: tests have several, one after the other


def watch_peer(connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
    """Abort the connection once its peer has vanished: its `lost` gets a TimeoutError, as if the kernel had
    ended it. To be called when it was made."""
    global _watch
    if not _LINUX or connection.transport.get_extra_info("socket") is None:
        return
    if _watch is None or _watch.loop is not loop:
        _watch = PeerWatch(loop)
    _watch.add(connection)


def forget_peer(connection: Connection) -> None:
    """The connection is closed."""
    if _watch is not None:
        _watch.forget(connection)
