"""Where the audit trail is written: standard output, or the end of a file that may be moved away at any time.
A trail that cannot be written delays no request: what is lost is counted and shown in the readiness.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

import structlog

from devroute.errors import ConfigInvalid

#: Values of the setting `audit` that are not a file.
STDOUT: Final = "-"
OFF: Final = "off"

#: Permissions of a new file: its owner writes, its group reads.
MODE: Final = 0o640

log = structlog.stdlib.get_logger("devroute.audit")


class AuditFile:
    """`lost` counts bytes that could not be written; `problem` is why the last write failed."""

    def __init__(self, location: str) -> None:
        """`location` is `-` or a path. Raises ConfigInvalid where the file cannot be opened."""
        self._path = None if location == STDOUT else Path(location)
        self._file = sys.stdout.fileno() if self._path is None else _open(self._path)
        self.lost = 0
        self.problem: str | None = None

    def write(self, lines: bytes) -> None:
        try:
            if self._path is not None and self._was_moved(self._path):
                self.reopen()
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except (OSError, ConfigInvalid) as error:
            self.lost += len(lines)
            if self.problem is None:
                self.problem = error.message if isinstance(error, ConfigInvalid) else str(error.strerror)
                log.error("audit.lost", problem=self.problem)
        else:
            if self.problem is not None:
                log.info("audit.resumed", lost_bytes=self.lost)
            self.problem = None

    def reopen(self) -> None:
        """Open the file at its path. Raises ConfigInvalid, and then keeps the older one."""
        if self._path is not None:
            older, self._file = self._file, _open(self._path)
            with contextlib.suppress(OSError):
                os.close(older)

    def close(self) -> None:
        if self._path is not None:
            os.close(self._file)
            self._file = -1

    def _was_moved(self, path: Path) -> bool:
        try:
            current = path.stat()
        except OSError:
            return True
        return not os.path.samestat(current, os.fstat(self._file))


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, MODE)
    except OSError as error:
        raise ConfigInvalid(f"{path}: the audit trail cannot be written: {error.strerror}") from None
