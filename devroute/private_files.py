"""Files that only their owner may read: written as a whole or not at all, and held by one process at a time.

Every function raises OSError.
"""

import os
import tempfile
from pathlib import Path
from typing import BinaryIO

from devroute.platforms import lock


def replace(file: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file as a whole; a symbolic link is followed."""
    target = file.resolve()
    descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(mode)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def append(file: Path, data: bytes) -> None:
    """Add to the end of a file, which is made if there is none."""
    with open(file, "ab", opener=_private) as stream:
        stream.write(data)


def hold(file: Path) -> BinaryIO | None:
    """Lock a file, which is made if there is none, as long as the result is open. None if another process has
    it."""
    stream = open(file, "ab", opener=_private)  # noqa: SIM115  # the caller closes it
    if lock(stream.fileno()):
        return stream
    stream.close()
    return None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o600)
