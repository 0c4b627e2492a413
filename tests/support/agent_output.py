"""What an agent in the test's own process prints."""

import io
from types import SimpleNamespace

import pytest

from devroute.agent.ui import choice


class Said:
    """What has been printed so far. A thread of the agent prints: capsys would lose what is printed while it
    is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # As choice.py's only: pytest puts its own sys.stdout back between a fixture and its test.
        self._out = io.StringIO()
        monkeypatch.setattr(choice, "sys", SimpleNamespace(stdout=self._out))

    def __call__(self, text: str) -> bool:
        return self.count(text) > 0

    def count(self, text: str) -> int:
        return self.output.count(text)

    @property
    def output(self) -> str:
        return self._out.getvalue()
