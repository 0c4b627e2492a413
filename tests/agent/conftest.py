"""What the agent prints."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict


class Said:
    """Whether the output so far has a text."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self.output = ""

    def __call__(self, text: str) -> bool:
        return self.count(text) > 0

    def count(self, text: str) -> int:
        self.output += self._capsys.readouterr().out
        return self.output.count(text)


@pytest.fixture(autouse=True)
def server_s_log() -> Iterator[list[EventDict]]:
    """The server's log, kept apart from the agent's output."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)
