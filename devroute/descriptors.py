"""File descriptors: a client that opens connections until none is left must stop neither health checks nor
reloads.

Owns how many of the process's descriptors are kept free of connections. The limit is the process's, and so is
what is set here; without `reserve` there is no such bound.
"""

import errno
import os
import sys
from typing import Final

#: The share of all descriptors that is kept free, and its most: as many as one turn of the loop accepts, and
#: some files.
SHARE: Final = 8
MAX_RESERVED: Final = 1152
#: Connections that the kernel queues, and that one turn of the loop accepts.
MAX_BACKLOG: Final = 1024

_ceiling = sys.maxsize
_backlog = MAX_BACKLOG


def reserve() -> None:
    """Raise the soft limit to the hard one, and keep a share free from now on."""
    global _ceiling, _backlog
    if sys.platform == "win32":
        return
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    _ceiling = limit - min(limit // SHARE, MAX_RESERVED)
    _backlog = max(1, min(limit // (2 * SHARE), MAX_BACKLOG))


def backlog() -> int:
    """For listening sockets."""
    return _backlog


def are_scarce() -> bool:
    """Whether a further connection would use up what is reserved: the kernel gives the lowest free number."""
    if _ceiling == sys.maxsize:
        return False
    try:
        lowest = os.dup(2)
    except OSError:
        return True
    os.close(lowest)
    return lowest >= _ceiling


def check() -> None:
    """Raises OSError where descriptors are scarce."""
    if are_scarce():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
