"""`devroute dashboard` and `devroute admin` against a running proxy."""

import asyncio
import re
import webbrowser
from collections.abc import Mapping
from pathlib import Path

import pytest

from devroute.cli.main import run
from devroute.errors import RegistrationEnded
from tests.proxy.dashboard.team import Team, team

Captured = pytest.CaptureFixture[str]


async def devroute(here: Team, subject: str, *arguments: str) -> int:
    """In a thread, as the server runs on this loop."""
    environment: Mapping[str, str] = {
        "HOME": str(here.folder),
        "DEVROUTE_SERVER": here.url,
        "DEVROUTE_TOKEN": here.secrets[subject],
    }
    return await asyncio.to_thread(run, arguments, environment)


async def test_dashboard_prints_a_link_that_opens_the_page_once(
    tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", opened.append)
    async with team(tmp_path) as here:
        assert await devroute(here, "alice", "dashboard") == 0
        link = re.search(r"^http://\S+\?code=\S+$", capsys.readouterr().out, re.MULTILINE)
        assert link is not None
        assert opened == []  # this is no terminal
        path = link[0].removeprefix(here.url)
        assert (await here.ask("GET", path, {"sec-fetch-site": "none"}))[0] == 303
        assert (await here.ask("GET", path, {"sec-fetch-site": "none"}))[0] == 401
        assert await devroute(here, "alice", "dashboard", "--open") == 0
        assert opened == [re.search(r"http://\S+\?code=\S+", capsys.readouterr().out)[0]]  # type: ignore[index]


async def test_an_administrator_ends_blocks_lists_and_unblocks(tmp_path: Path, capsys: Captured) -> None:
    async with team(tmp_path) as here:
        link = await here.laptop("alice", "shop")
        assert await devroute(here, "bob", "admin", "end", "alice") == 30
        assert "'bob' is no administrator" in capsys.readouterr().err
        assert await devroute(here, "carol", "admin", "end", "alice", "--reason", "the demo begins") == 0
        await link.close_reason
        assert link.goaway is not None
        assert link.goaway.code == RegistrationEnded.code
        assert await devroute(here, "carol", "admin", "end", "alice") == 50
        assert await devroute(here, "carol", "admin", "block", "bob", "--for", "2h") == 0
        said = capsys.readouterr()
        assert "bob is blocked until 2" in said.out
        assert "bob had no laptop online" in said.err
        assert await devroute(here, "bob", "ls") == 30
        assert "'carol' has blocked 'bob' until" in capsys.readouterr().err
        assert await devroute(here, "carol", "admin", "blocks") == 0
        assert re.search(r"bob +2\S+Z +carol", capsys.readouterr().out)
        assert await devroute(here, "carol", "admin", "block", "bob", "--for", "2 hours") == 2
        assert await devroute(here, "carol", "admin", "unblock", "bob") == 0
        assert await devroute(here, "bob", "ls") == 0
