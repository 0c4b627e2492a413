"""Detects changes of the laptop's route to the server: another local address, no network, or a network again.

Owns the watch on the system's routes and sends no packets; link_monitor.py decides what follows. Linux
reports changes of addresses and routes at once; elsewhere `check` has to be called periodically.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final

#: RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR and _IPV6_ROUTE of linux/rtnetlink.h.
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400

#: Bytes of kernel messages that are read at once; their content does not matter.
_READ_BYTES: Final = 64 * 1024


def source_address(peer: tuple[str, int]) -> str | None:
    """The local address from which the system would now send to the peer (an IP address and port), None
    without a route. Connecting a UDP socket only looks up the route. Raises OSError if there is no file
    descriptor for it."""
    with _udp_socket(peer[0]) as probe, contextlib.suppress(OSError):
        probe.connect(peer)
        return str(probe.getsockname()[0])
    return None


def is_local_address(address: str) -> bool:
    """Whether an interface of this machine has this address; True, too, if there is no file descriptor to
    find that out."""
    try:
        probe = _udp_socket(address)
    except OSError:
        return True
    with probe, contextlib.suppress(OSError):
        probe.bind((address, 0))
        return True
    return False


def _udp_socket(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)


class Network:
    """`changed(before, now)` is called when `source_address` of the peer has changed, `disturbed()` when
    something else about the network has, which need not matter (a cable was pulled)."""

    def __init__(
        self, changed: Callable[[str | None, str | None], None], disturbed: Callable[[], None]
    ) -> None:
        self._changed = changed
        self._disturbed = disturbed
        self._peer: tuple[str, int] | None = None
        self._source: str | None = None

    def follow(self, peer: tuple[str, int]) -> None:
        """Watch the route to this peer from now on."""
        self._peer = peer
        with contextlib.suppress(OSError):
            self._source = source_address(peer)

    def check(self) -> bool:
        """Whether the source address has changed; False if that cannot be found out now."""
        try:
            source = source_address(self._peer) if self._peer is not None else None
        except OSError:
            return False
        if source == self._source:
            return False
        before, self._source = self._source, source
        self._changed(before, source)
        return True

    @contextlib.contextmanager
    def watched(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        """Call `check` whenever the system reports a change of an address or route."""
        kernel = _netlink()
        if kernel is None:
            yield
            return
        with kernel:
            loop.add_reader(kernel, self._on_message, kernel)
            try:
                yield
            finally:
                loop.remove_reader(kernel)

    def _on_message(self, kernel: socket.socket) -> None:
        with contextlib.suppress(OSError):  # ENOBUFS: more messages than fit, so something has changed
            while kernel.recv(_READ_BYTES):
                pass
        if not self.check():
            self._disturbed()


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
