"""Tools on an inspector of the test; test_server.py has them on that of a real `devroute up`."""

from collections.abc import Mapping
from typing import Any

import pytest

from devroute.agent.mcp import laptop_tools
from devroute.agent.mcp.laptop_tools import LaptopTools
from devroute.errors import NotReplayable


class OneOutgoing:
    """An inspector whose exchanges all went from the laptop into the mesh."""

    def __init__(self, _: object) -> None: ...

    async def ask(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        return {"direction": "out"}

    async def send(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        raise AssertionError("it was sent")


@pytest.mark.asyncio
async def test_a_coding_agent_sends_nothing_into_the_mesh_by_a_replay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def running(*_: object) -> None:
        return None

    monkeypatch.setattr(laptop_tools, "running_laptop", running)
    monkeypatch.setattr(laptop_tools, "Inspector", OneOutgoing)
    with pytest.raises(NotReplayable, match="went from this laptop into the mesh"):
        await LaptopTools(None).replay_exchange(3, method="DELETE")
