"""What the agent prints."""

from collections.abc import Callable

import pytest


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[[str], bool]:
    """Whether the output so far has a text."""
    output: list[str] = []

    def has(text: str) -> bool:
        output.append(capsys.readouterr().out)
        return text in "".join(output)

    return has
