"""A repository's server is confirmed once, on a terminal, and never in CI."""

import asyncio
import os
import pty
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")

SERVER = "http://127.0.0.1:9"
QUESTION = "Do you trust this server, from now on?"


async def status(folder: Path, answer: str, **environment: str) -> tuple[int, str]:
    """The exit code and output of `devroute status` at a terminal whose user types `answer`."""
    ours, theirs = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devroute", "status"),
        cwd=folder,
        env={"HOME": str(folder), **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    os.write(ours, answer.encode())
    output = b""
    loop = asyncio.get_running_loop()
    while True:
        try:
            piece = await loop.run_in_executor(None, os.read, ours, 4096)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not piece:
            break
        output += piece
    os.close(ours)
    return await process.wait(), output.decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "devroute.yaml").write_text(f"server: {SERVER}\ntoken: shared\n")
    return tmp_path


async def test_a_confirmation_is_kept(folder: Path) -> None:
    code, shown = await status(folder, "y\n")
    assert QUESTION in shown
    assert "its author could send requests to your apps" in shown
    assert code == 40, "it went on, and no one is at that port"
    config = folder / ".config" / "devroute" / "config.yaml"
    assert SERVER in config.read_text()
    assert config.stat().st_mode & 0o777 == 0o600
    code, shown = await status(folder, "")
    assert (code, QUESTION in shown) == (40, False)


async def test_without_a_confirmation_nothing_is_connected_or_kept(folder: Path) -> None:
    code, shown = await status(folder, "n\n")
    assert (code, QUESTION in shown) == (20, True)
    assert not (folder / ".config").exists()


async def test_ci_is_not_asked(folder: Path) -> None:
    code, shown = await status(folder, "y\n", CI="true")
    assert (code, QUESTION in shown) == (20, False)
    assert f"--server {SERVER}" in shown
    assert (await status(folder, "", CI="true", DEVROUTE_SERVER=SERVER))[0] == 40


async def run_without_stdin(folder: Path, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", 'exec "$0" "$@" <&-', sys.executable, "-m", "devroute", *arguments),
        cwd=folder,
        env={"HOME": str(folder)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return await process.wait(), output.decode()


async def test_without_a_standard_input_no_question_is_asked(folder: Path) -> None:
    code, shown = await run_without_stdin(folder, "status")
    assert code == 20
    assert QUESTION not in shown
    assert SERVER in shown
    assert "internal" not in shown


@pytest.mark.parametrize("command", ["policy", "manifests"])
async def test_a_standard_input_that_is_closed_is_named(tmp_path: Path, command: str) -> None:
    code, shown = await run_without_stdin(tmp_path, command, "check", "-")
    assert code == 20
    assert "standard input: it is closed" in shown
