"""What the agent prints, apart from what a server in the same process logs."""

from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from tests.support.agent_output import Said


@pytest.fixture(autouse=True)
def server_s_log() -> Iterator[list[EventDict]]:
    """The server's log, kept apart from the agent's output."""
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    return Said(monkeypatch)
