"""What the agent prints."""

import io
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from devroute.agent.ui import choice


class Said:
    """What has been printed so far. A thread of the agent prints: capsys would lose what is printed while it
    is read."""

    def __init__(self, out: io.StringIO) -> None:
        self._out = out

    def __call__(self, text: str) -> bool:
        return self.count(text) > 0

    def count(self, text: str) -> int:
        return self.output.count(text)

    @property
    def output(self) -> str:
        return self._out.getvalue()


@pytest.fixture(autouse=True)
def server_s_log() -> Iterator[list[EventDict]]:
    """The server's log, kept apart from the agent's output."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    out = io.StringIO()  # as choice.py's only, since pytest puts its own sys.stdout back before the test
    monkeypatch.setattr(choice, "sys", SimpleNamespace(stdout=out))
    return Said(out)
