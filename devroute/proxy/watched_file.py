"""A file that may change while the proxy runs. An invalid version leaves the older one in force."""

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from devroute.errors import ConfigInvalid

T = TypeVar("T")
log = structlog.stdlib.get_logger("devroute.files")


class WatchedFile(Generic[T]):
    """`current` is the value of the last valid version; `problem` says why a newer one is not in force."""

    def __init__(self, path: Path | None, parse: Callable[[str, str], T], default: T) -> None:
        """`parse` takes text and file name. Without a path that is `default`. Raises ConfigInvalid."""
        self.path = path
        self._parse = parse
        self._stamp: tuple[int, int, int] | None = None
        self.problem: str | None = None
        self.current = default
        if path is not None:
            self._stamp = _stamp(path)
            self.current = self._read(path)

    def refresh(self) -> bool:
        """Read the file if it has changed. Returns whether there is a new value."""
        path = self.path
        if path is None:
            return False
        try:
            stamp = _stamp(path)
            if stamp == self._stamp:
                return False
            self._stamp = stamp
            self.current = self._read(path)
        except ConfigInvalid as error:
            if error.message != self.problem:
                log.error("file.rejected", path=str(path), problem=error.message)
            self.problem = error.message
            return False
        self.problem = None
        log.info("file.loaded", path=str(path))
        return True

    def _read(self, path: Path) -> T:
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigInvalid(f"{path}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigInvalid(f"{path}: not UTF-8") from None
        return self._parse(text, str(path))


def _stamp(path: Path) -> tuple[int, int, int]:
    """Differs whenever the file has changed: a ConfigMap's new version is another inode."""
    try:
        stat = path.stat()
    except OSError as error:
        raise ConfigInvalid(f"{path}: {error.strerror}") from None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
