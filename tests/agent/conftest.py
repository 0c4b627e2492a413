"""What the agent prints."""

import pytest


class Said:
    """Whether the output so far has a text."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._output = ""

    def __call__(self, text: str) -> bool:
        return self.count(text) > 0

    def count(self, text: str) -> int:
        self._output += self._capsys.readouterr().out
        return self._output.count(text)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    return Said(capsys)
