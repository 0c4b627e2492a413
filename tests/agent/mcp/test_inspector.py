"""Which `devroute up` the tools of a coding agent are about."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from devroute.agent.control import running
from devroute.agent.control.running import Running
from devroute.agent.mcp import inspector
from devroute.agent.mcp.inspector import Inspector, running_laptop
from devroute.errors import ConfigInvalid, NotFound
from tests.agent.test_app import online, settings, up
from tests.support.eventually import eventually
from tests.support.loopback import site


def named(*names: str) -> list[Running]:
    return [Running(number, "server", None, name, "", 0.0) for number, name in enumerate(names)]


@pytest.mark.parametrize(
    ("names", "wanted", "found"),
    [
        (["alice"], None, "alice"),
        (["alice", "alice--x"], "alice--x", "alice--x"),
        ([], None, NotFound("no devroute up of yours runs on this machine")),
        (["alice"], "bob", NotFound("no devroute up of yours runs on this machine as 'bob'")),
        (["alice", "alice--x"], None, ConfigInvalid("2 devroute up of yours run: alice, alice--x")),
    ],
)
async def test_it_is_the_one_that_runs_or_the_one_that_was_named(
    names: Sequence[str], wanted: str | None, found: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inspector, "all_running", lambda folder: named(*names))
    if isinstance(found, str):
        assert (await running_laptop(Path(), wanted)).name == found
        return
    with pytest.raises(type(found)) as raised:  # type: ignore[arg-type]
        await running_laptop(Path(), wanted)
    assert raised.value.message == str(found)
    assert raised.value.hint.startswith(("start it", "name one"))


async def test_one_without_an_inspector_says_so(tmp_path: Path) -> None:
    async with site() as where, up(settings(where.url, inspector=False), tmp_path) as task:
        await online(where, task)
        (it,) = await eventually(lambda: running.all_running(tmp_path))
        found = Inspector(it)
        with pytest.raises(NotFound, match="has no inspector"):
            await found.ask("exchanges")
