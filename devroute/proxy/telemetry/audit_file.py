"""Where the audit trail is written: standard output, or the end of a file that may be moved at any time."""

import contextlib
import os
from pathlib import Path
from typing import Final

from devroute.errors import ConfigInvalid
from devroute.proxy.telemetry.background_writer import LineFile, LinesLost

#: Values of the setting `audit` that are not a file.
STDOUT: Final = "-"
OFF: Final = "off"
_STDOUT_DESCRIPTOR: Final = 1

#: Permissions of a new file: its owner writes, its group reads.
MODE: Final = 0o640


class AuditFile:
    """Blocks; BackgroundWriter keeps it off the loop."""

    def __init__(self, location: str) -> None:
        """`location` is `-` or a path. Raises ConfigInvalid where the file cannot be opened."""
        self._path = None if location == STDOUT else Path(location)
        self._file = LineFile(_STDOUT_DESCRIPTOR) if self._path is None else _open(self._path)

    def write(self, lines: bytes) -> None:
        """Append lines, to a new file if this one was moved away. Raises LinesLost."""
        if self._path is not None and self._was_moved(self._path):
            try:
                older, self._file = self._file, _open(self._path)
            except ConfigInvalid as error:
                raise LinesLost(lines.count(b"\n"), error.message) from None
            with contextlib.suppress(OSError):
                os.close(older.descriptor)
        self._file.write(lines)

    def close(self) -> None:
        if self._path is not None:
            os.close(self._file.descriptor)

    def _was_moved(self, path: Path) -> bool:
        try:
            return not os.path.samestat(path.stat(), os.fstat(self._file.descriptor))
        except OSError:
            return True


def _open(path: Path) -> LineFile:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, MODE)
    except OSError as error:
        raise ConfigInvalid(f"{path}: the audit trail cannot be written: {error.strerror}") from None
    return LineFile(descriptor, torn=_has_torn_end(path))


def _has_torn_end(path: Path) -> bool:
    """Whether the last line has no end: its disk was full, or its writer was killed."""
    try:
        with path.open("rb") as file:
            return (
                bool(file.seek(0, os.SEEK_END)) and file.seek(-1, os.SEEK_END) >= 0 and file.read() != b"\n"
            )
    except OSError:  # it may be written only, or cannot seek
        return False
