"""`devroute ls --watch`."""

import asyncio
import contextlib
import io
import json
import os
import pty
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from devroute.agent.settings import ClientSettings
from devroute.cli.watch import page, watch
from devroute.errors import TokenInvalid
from tests.proxy.dashboard.team import Team, team
from tests.support.eventually import eventually

NOW = 1_700_000_000.0


def laptop(name: str, *services: str, **more: Any) -> dict[str, Any]:
    offered = [{"service": each, "requests": 3, "failed": 1} for each in services]
    since = "2023-11-14T21:13:20Z"  # an hour before NOW
    row = {"kind": "laptop", "laptop": name, "agent": "1.0", "since": since, "round_trip_ms": 12}
    return {**row, "services": offered, **more}


FELL_BACK = {"service": "shop", "target": "dora", "reason": "offline\x1b[2J", "times": 2, "last": NOW}
ROWS = [
    laptop("alice", "shop", "cart"),
    laptop("bob--with-a-long-name", "a-service-with-a-long-name", round_trip_ms=None),
    {"kind": "fallback", **FELL_BACK},
    {"kind": "target", "service": "shop", "target": "10.0.0.1:1", "requests": 1, "failed": 0},
]


def test_a_wide_terminal_has_all_columns() -> None:
    lines = page(ROWS, "live", 120, 24, NOW)
    assert lines[0] == "devroute · 2 online · live"
    names = "LAPTOP SERVICES REQ/MIN FAILED RTT FOR VERSION"
    assert lines[2].split() == names.split()
    assert lines[3].split() == ["alice", "shop,", "cart", "6", "2", "12", "ms", "1", "h", "1.0"]
    assert lines[-1].endswith("shop -> dora: offline?[2J (2 times)")  # a terminal obeys nothing of it


@pytest.mark.parametrize("width", [1, 20, 40, 60, 80, 200])
@pytest.mark.parametrize("height", [1, 2, 5, 8, 24])
def test_it_fits_every_terminal(width: int, height: int) -> None:
    many = [*ROWS, *(laptop(f"l{number}", "shop") for number in range(50))]
    lines = page(many, "live", width, height, NOW)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width


def test_a_narrow_terminal_leaves_out_columns_and_what_is_left_out_is_counted() -> None:
    lines = page([laptop(f"l{number:02}", "shop") for number in range(20)], "live", 36, 10, NOW)
    assert lines[2].split() == ["LAPTOP", "SERVICES", "REQ/MIN", "FAILED"]
    assert lines[-1] == "and 14 more"


def settings(here: Team, subject: str, **more: Any) -> ClientSettings:
    return ClientSettings.model_validate({"server": here.url, "token": here.secrets[subject], **more})


async def test_without_a_terminal_there_is_a_line_for_each_change(tmp_path: Path) -> None:
    text, objects = io.StringIO(), io.StringIO()
    async with team(tmp_path) as here:
        await here.laptop("bob", "shop")
        tasks = [
            asyncio.get_running_loop().create_task(watch(settings(here, "alice", **more), out))
            for out, more in ((text, {}), (objects, {"output": "json"}))
        ]
        await eventually(lambda: "online    bob: shop (devroute test)\n" in text.getvalue())
        link = await here.laptop("alice", "cart")
        await eventually(lambda: "online    alice: cart" in text.getvalue())
        link.transport.abort()
        await eventually(lambda: "offline   alice" in text.getvalue())
        await eventually(lambda: '"gone"' in objects.getvalue())
        assert text.getvalue().count("online    bob") == 1
        seen = [json.loads(line) for line in objects.getvalue().splitlines()]
        assert {"changed", "gone"} == {each["event"] for each in seen}
        here.revoke("alice")
        with pytest.raises(TokenInvalid):
            await tasks[0]
        tasks[1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_on_a_terminal_it_draws_in_place_and_ctrl_c_restores_it(tmp_path: Path) -> None:
    async with team(tmp_path) as here:
        await here.laptop("bob", "shop")
        ours, theirs = pty.openpty()
        known = {"HOME": str(tmp_path), "DEVROUTE_SERVER": here.url, "DEVROUTE_TOKEN": here.secrets["alice"]}
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "devroute", "ls", "--watch"),
            env={"TERM": "xterm-256color", "COLUMNS": "60", "LINES": "10", **known},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        os.set_blocking(ours, False)
        seen = bytearray()

        def has(text: str) -> bool:
            with contextlib.suppress(OSError):  # nothing to read, or the process has ended
                seen.extend(os.read(ours, 65536))
            return text in seen.decode("utf-8", "replace")

        await eventually(lambda: has("bob"), within=60)  # a process starts
        await here.laptop("alice", "cart")
        await eventually(lambda: has("alice"))
        process.send_signal(signal.SIGINT)
        assert await asyncio.wait_for(process.wait(), 20) == 130
        await eventually(lambda: has("\x1b[?25h"))
        os.close(ours)
    shown = seen.decode()
    assert "Traceback" not in shown
    assert shown.index("\x1b[?1049h") < shown.index("bob") < shown.index("\x1b[?1049l")
    drawn = shown[: shown.index("\x1b[?1049l")]
    assert "\x1b[2J" not in drawn  # that would flicker
