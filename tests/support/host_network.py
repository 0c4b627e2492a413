"""This host's network, which some tests change by interfaces of their own. Chromium then ends the requests of
its pages (net::ERR_NETWORK_CHANGED), so no test with a browser runs at such a moment, in any process.
"""

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO

LONGEST_S = 300.0
_PREFIX = f"devroute-tests-{os.getuid()}"
_TURN = Path(tempfile.gettempdir(), f"{_PREFIX}.turn")
_USE = Path(tempfile.gettempdir(), f"{_PREFIX}.use")


def stays() -> AbstractContextManager[None]:
    """Wait until no test changes the network; none does within the block."""
    return _locked(fcntl.LOCK_SH)


def changes() -> AbstractContextManager[None]:
    """Wait until no test needs the network as it is; none does within the block."""
    return _locked(fcntl.LOCK_EX)


def _lock(file: BinaryIO, kind: int) -> None:
    """Raises TimeoutError where it is locked for longer than a test may take."""
    deadline = time.monotonic() + LONGEST_S
    while True:
        try:
            return fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"a process that was stopped holds {file.name}") from None
        time.sleep(0.01)  # noqa: TID251  # until the other process unlocks it


@contextlib.contextmanager
def _locked(kind: int) -> Iterator[None]:
    with _TURN.open("ab") as turn, _USE.open("ab") as use:
        _lock(turn, fcntl.LOCK_EX)  # who waits for all others to end lets none begin
        _lock(use, kind)
        fcntl.flock(turn, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(use, fcntl.LOCK_UN)  # a process that was forked meanwhile has the file open, too
