"""Ports of loopback."""

import contextlib
import random
import socket


def free_port() -> int:
    """A port that is free now, outside the range that the kernel assigns, so that it stays free."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
