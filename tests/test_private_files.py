"""Files that only their owner may read."""

import stat
from pathlib import Path

import pytest

from devroute import private_files


def test_a_file_is_replaced_as_a_whole_and_added_to(tmp_path: Path) -> None:
    file = tmp_path / "file"
    private_files.append(file, b"one")
    private_files.append(file, b" two")
    assert file.read_bytes() == b"one two"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    private_files.replace(file, b"three")
    assert file.read_bytes() == b"three"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_nothing_is_added_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        private_files.append(tmp_path / "link", b"x")
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_is_held_once(tmp_path: Path) -> None:
    first = private_files.hold(tmp_path / "lock")
    assert first is not None
    assert private_files.hold(tmp_path / "lock") is None
    first.close()
    second = private_files.hold(tmp_path / "lock")
    assert second is not None
    second.close()
