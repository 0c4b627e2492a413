"""A file that may change while the proxy runs. An invalid version leaves the older one in force."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from devroute.errors import ConfigInvalid

T = TypeVar("T")
Stamp = tuple[int, int, int]
log = structlog.stdlib.get_logger("devroute.files")


class WatchedFile(Generic[T]):
    """`current` is the value of the last valid version; `problem` says why a newer one is not in force."""

    def __init__(
        self,
        path: Path | None,
        parse: Callable[[str, str], T],
        default: T,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`parse` takes text and file name. Without a path that is `default`. `clock` gives seconds. Raises
        ConfigInvalid."""
        self.path = path
        self._parse = parse
        self._clock = clock
        self._stamp: Stamp | None = None  # of the version in force
        self._invalid: Stamp | None = None  # of one that was read whole and need not be parsed again
        self._confirmed = clock()
        #: When what is in force was read, in seconds since the epoch.
        self.loaded_at = time.time()
        self.problem: str | None = None
        self.current = default
        if path is not None:
            self._stamp = _stamp(path)
            self.current = self._parse(_text(path), str(path))

    @property
    def age_s(self) -> int | None:
        """Seconds since the file was last seen to contain what is in force; None without a file."""
        return None if self.path is None else round(self._clock() - self._confirmed)

    def refresh(self) -> bool:
        """Read the file if it has changed. What could not be read is read again at the next call. Returns
        whether there is a new value."""
        path = self.path
        if path is None:
            return False
        try:
            stamp = _stamp(path)
            if stamp == self._invalid:
                return False
            if changed := stamp != self._stamp:
                text = _text(path)
                self._invalid = stamp
                self.current = self._parse(text, str(path))
        except ConfigInvalid as error:
            if error.message != self.problem:
                log.error("file.rejected", path=str(path), problem=error.message)
            self.problem = error.message
            return False
        if changed or self.problem is not None:
            log.info("file.loaded", path=str(path))
            self.loaded_at = time.time()
        self._stamp, self._invalid, self.problem, self._confirmed = stamp, None, None, self._clock()
        return changed


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigInvalid(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigInvalid(f"{path}: not UTF-8") from None


def _stamp(path: Path) -> Stamp:
    """Differs whenever the file has changed: a ConfigMap's new version is another inode."""
    try:
        stat = path.stat()
    except OSError as error:
        raise ConfigInvalid(f"{path}: {error.strerror}") from None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
