"""The files with schemas that the settings name. Pure; descriptor_files.py reads them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class SchemaFiles:
    """`proto_path`: folders below which imports of the .proto files are looked for."""

    descriptor_set: tuple[Path, ...] = ()
    proto: tuple[Path, ...] = ()
    proto_path: tuple[Path, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.descriptor_set or self.proto)

    @property
    def words(self) -> str:
        return " and ".join(str(path.name) for path in (*self.descriptor_set, *self.proto))

    def changed(self) -> tuple[float, ...]:
        """When each file was changed, in Unix time; 0 for one that is not there."""
        return tuple(_changed(path) for path in (*self.descriptor_set, *self.proto))


NO_FILES: Final = SchemaFiles()


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
