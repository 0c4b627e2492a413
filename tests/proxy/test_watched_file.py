"""A file that changes, and each way in which reading it can fail for a moment."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from devroute.errors import ConfigInvalid
from devroute.proxy.watched_file import WatchedFile
from tests.support.descriptors import exhausted


def parse(text: str, source: str) -> str:
    if text.startswith("invalid"):
        raise ConfigInvalid(f"{source}: it is invalid")
    return text


class Watched:
    def __init__(self, folder: Path) -> None:
        self.path = folder / "tokens.yaml"
        self.path.write_text("one")
        self.now = 100.0
        self.parsed = 0
        self.file = WatchedFile(self.path, self._parse, "none", lambda: self.now)

    def _parse(self, text: str, source: str) -> str:
        self.parsed += 1
        return parse(text, source)

    def replace(self, text: str) -> None:
        new = self.path.with_suffix(".new")
        new.write_text(text)
        os.replace(new, self.path)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path)


@contextmanager
def absent(path: Path) -> Iterator[None]:
    aside = path.with_suffix(".aside")
    path.rename(aside)
    yield
    aside.rename(path)


@contextmanager
def folder_in_its_place(path: Path) -> Iterator[None]:
    with absent(path):
        path.mkdir()
        yield
        path.rmdir()


@pytest.mark.parametrize(
    "failing", [lambda _: exhausted(), absent, folder_in_its_place], ids=["descriptors", "absent", "folder"]
)
@pytest.mark.parametrize("new", ["two", None], ids=["changed", "unchanged"])
def test_what_cannot_be_read_for_a_moment_is_read_again(
    watched: Watched, failing: Callable[[Path], AbstractContextManager[None]], new: str | None
) -> None:
    if new is not None:
        watched.replace(new)
    with failing(watched.path):
        for _ in range(3):
            assert not watched.file.refresh()
            assert watched.file.current == "one"
        if new is not None:
            assert watched.file.problem is not None
            assert watched.file.problem.startswith(str(watched.path))
    assert watched.file.refresh() == (new is not None)
    assert (watched.file.current, watched.file.problem) == (new or "one", None)


def test_the_age_is_that_of_the_last_time_when_it_was_known_to_be_in_force(watched: Watched) -> None:
    def after(seconds: float) -> int | None:
        watched.now += seconds
        watched.file.refresh()
        return watched.file.age_s

    assert after(5) == 0
    with absent(watched.path):
        assert after(5) == 5
    assert after(60) == 0
    watched.replace("two")
    with exhausted():
        assert after(7) == 7
    assert after(1) == 0
    watched.replace("invalid")
    assert [after(3), after(3)] == [3, 6]
    watched.replace("three")
    assert after(3) == 0
    assert WatchedFile(None, parse, "none").age_s is None


def test_an_invalid_version_is_parsed_once(watched: Watched) -> None:
    watched.replace("invalid")
    for _ in range(5):
        assert not watched.file.refresh()
        assert watched.file.problem == f"{watched.path}: it is invalid"
    assert (watched.parsed, watched.file.current) == (2, "one")
    watched.replace("two")
    assert watched.file.refresh()
    assert (watched.file.current, watched.file.problem) == ("two", None)
