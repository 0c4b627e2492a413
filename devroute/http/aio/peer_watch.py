"""Peers that vanish while they owe an acknowledgement: their host sleeps, or has left its network, and sends
neither FIN nor reset.

TCP keep-alive detects those that vanish from an idle connection, but not while data are in transit. The
kernel's own limit for those, TCP_USER_TIMEOUT, also ends connections whose peer acknowledges everything and
only does not read (tcp(7)): an app that a debugger has stopped, with a body that its receive buffer cannot
take. So this asks the kernel what the peer still acknowledges (TCP_INFO), where it can: on Linux.
"""

import asyncio
import contextlib
import errno
import os
import socket
import struct
import sys
from typing import Final

from devroute.http.aio.connection import Connection, enable_keepalive

#: Seconds without an acknowledgement, while one is owed, after which a peer has vanished; and between looks.
UNACKNOWLEDGED: Final = 25.0
LOOK_EVERY: Final = 5.0

#: Seconds between two probes of a closed window, and between two repetitions: the kernel doubles them up to
#: two minutes, and a peer that vanishes at a breakpoint would be detected after several. TCP_RTO_MAX_MS of
#: linux/tcp.h, from Linux 6.15 on. What is never acknowledged ends the connection after 5 minutes, not 15.
MAX_INTERVAL: Final = 30.0
_TCP_RTO_MAX_MS: Final = 44

# struct tcp_info of linux/tcp.h: the state; repetitions, and window probes without a reply; unacknowledged
# segments; milliseconds since data were last sent (or sent again), since data came, and since an
# acknowledgement came.
_TCP_INFO: Final = struct.Struct("=BxBB20xI16xI4xII")
#: The states in which our end was sent and is not acknowledged (linux/tcp_states.h): FIN_WAIT1, LAST_ACK,
#: CLOSING.
_ENDING: Final = (4, 9, 11)
_LINUX: Final = sys.platform == "linux"
#: Milliseconds by which the kernel's clock may lag behind the loop's.
_SLACK: Final = 100.0
# A connection that is closing has no socket any more; a sandbox has no TCP_INFO.
_NOT_KNOWN: Final = (OSError, ValueError, AttributeError, struct.error)


def owes(
    state: int, repeated: int, probes: int, unacknowledged: int, since_sent: int, since_reply: int
) -> bool:
    """Whether something was sent that the peer has not replied to. A single unanswered window probe does not
    count: it may have been sent just now. Nor does data that the peer keeps acknowledging but cannot take."""
    if unacknowledged > 0 and (since_sent < since_reply or (repeated > 0 and state in _ENDING)):
        return True
    return probes > 1


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
        again = bool(self._owing_since)
        self._timer = self.loop.call_later(LOOK_EVERY, self._look) if again else None
        now = self.loop.time()
        for connection in list(self._owing_since):
            try:
                self._look_at(connection, now)
            except _NOT_KNOWN:
                self.forget(connection)

    def _look_at(self, connection: Connection, now: float) -> None:
        if connection.reads_paused:
            # From Linux 6.17 on a kernel whose own receive buffer is full may refuse acknowledgements.
            self._owing_since[connection] = None
            return
        info = connection.transport.get_extra_info("socket").getsockopt(
            socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size
        )
        state, repeated, probes, unacknowledged, since_sent, since_data, since_reply = _TCP_INFO.unpack(info)
        since = self._owing_since[connection]
        if not owes(state, repeated, probes, unacknowledged, since_sent, since_reply):
            self._owing_since[connection] = None
        elif since is None or min(since_data, since_reply) < (now - since) * 1000 - _SLACK:
            self._owing_since[connection] = now
        elif now - since >= UNACKNOWLEDGED:
            self.forget(connection)
            connection.lose(TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)))


_watch: PeerWatch | None = None  # of the last loop: tests have several, one after the other


def watch_peer(connection: Connection) -> None:
    """Abort the connection once its peer has vanished, whether it is idle or not: its `lost` gets a
    TimeoutError, as if the kernel had ended it. Call it from `connection_made`."""
    global _watch
    enable_keepalive(connection.transport)
    sock = connection.transport.get_extra_info("socket")
    if not _LINUX or sock is None:
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_RTO_MAX_MS, int(MAX_INTERVAL * 1000))
    loop = asyncio.get_running_loop()
    if _watch is None or _watch.loop is not loop:
        _watch = PeerWatch(loop)
    _watch.add(connection)


def forget_peer(connection: Connection) -> None:
    """The connection is closed."""
    if _watch is not None:
        _watch.forget(connection)
