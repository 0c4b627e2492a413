"""A process that has no file descriptor left, as a client can make it."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def exhausted(left: int = 0) -> Iterator[None]:
    """Within it this process can open `left` files or sockets more."""
    free = [os.open(os.devnull, os.O_RDONLY) for _ in range(left + 1)]
    for each in free:
        os.close(each)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[-1], hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
