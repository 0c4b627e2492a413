"""This host's network, which some tests change by interfaces of their own. Chromium then ends the requests of
its pages (net::ERR_NETWORK_CHANGED), so no test with a browser runs at such a moment, in any process.
"""

import contextlib
import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

_PREFIX = f"devroute-tests-{os.getuid()}"
_TURN = Path(tempfile.gettempdir(), f"{_PREFIX}.turn")
_USE = Path(tempfile.gettempdir(), f"{_PREFIX}.use")


def stays() -> AbstractContextManager[None]:
    """Wait until no test changes the network; none does within the block."""
    return _locked(fcntl.LOCK_SH)


def changes() -> AbstractContextManager[None]:
    """Wait until no test needs the network as it is; none does within the block."""
    return _locked(fcntl.LOCK_EX)


@contextlib.contextmanager
def _locked(kind: int) -> Iterator[None]:
    with _TURN.open("ab") as turn, _USE.open("ab") as use:
        fcntl.flock(turn, fcntl.LOCK_EX)  # first come, first served: flock alone does not promise that
        fcntl.flock(use, kind)
        fcntl.flock(turn, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(use, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file open, too
