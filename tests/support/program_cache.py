"""Programs that tests need, made once and kept in the user's cache."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def folder(start: str, *pins: bytes) -> Path:
    """Where they are, or will be: a folder of its own for each set of pins. `start` begins its path in the
    cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / f"{start}{hashlib.sha256(b''.join(pins)).hexdigest()[:16]}"


@contextmanager
def filling(folder: Path) -> Iterator[Path]:
    """A folder beside it, which becomes it at the end: what is stopped leaves nothing that looks complete."""
    unfinished = folder.with_name(f"{folder.name}.{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        yield unfinished
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
