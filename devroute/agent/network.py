"""Whether the laptop's way to the server has changed: another address of ours, no network, or one again.

Owns the watch on the system's routes; what follows from a change, agent/link_monitor.py decides. No packet
is sent.
Linux says at once when addresses or routes change; elsewhere `look` has to be called every now and then.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

#: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR and _IPV6_ROUTE of linux/rtnetlink.h.
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400

#: Bytes of the kernel's messages that are read at once; their content does not matter, so none is too long.
_READ_BYTES: Final = 64 * 1024


def source_address(peer: tuple[str, int]) -> str | None:
    """The address of ours from which the system would now send to the peer (an IP address and port); None
    where it knows no way. Connecting a UDP socket only looks the route up."""
    family = socket.AF_INET6 if ":" in peer[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(peer)
        except OSError:
            return None
        return str(probe.getsockname()[0])


def is_local_address(address: str) -> bool:
    """Whether an interface of this machine has this address; a connection from another one is lost."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
        return True


class Network:
    """`moved(before, now)` is called when `source_address` of the peer has changed, `stirred()` when
    something else about the network has, which need not matter to us (a cable was pulled)."""

    def __init__(self, moved: Callable[[str | None, str | None], None], stirred: Callable[[], None]) -> None:
        self._moved = moved
        self._stirred = stirred
        self._peer: tuple[str, int] | None = None
        self._source: str | None = None

    def follow(self, peer: tuple[str, int]) -> None:
        """Watch the way to this peer from now on."""
        self._peer = peer
        self._source = source_address(peer)

    def look(self) -> bool:
        """Whether it has changed."""
        source = source_address(self._peer) if self._peer is not None else None
        if source == self._source:
            return False
        before, self._source = self._source, source
        self._moved(before, source)
        return True

    @contextlib.contextmanager
    def watched(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Call `look` whenever the system says that an address or a route has changed, where it does."""
        kernel = _netlink()
        if kernel is None:
            yield
            return
        with kernel:
            loop.add_reader(kernel, self._told, kernel)
            try:
                yield
            finally:
                loop.remove_reader(kernel)

    def _told(self, kernel: socket.socket) -> None:
        with contextlib.suppress(OSError):  # ENOBUFS: there was more than fits, so something has changed
            while kernel.recv(_READ_BYTES):
                pass
        if not self.look():
            self._stirred()


def _netlink() -> socket.socket | None:
    family: Any = getattr(socket, "AF_NETLINK", None)  # Linux only
    if family is None:
        return None
    try:
        kernel = socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
    except OSError:  # some containers
        return None
    try:
        kernel.bind((0, _GROUPS))
    except OSError:
        kernel.close()
        return None
    return kernel
