"""Commands that are forked behave as those that are started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import fork_server

DEVROUTE = [sys.executable, "-m", "devroute"]
#: Has Python started as ever.
AS_EVER = {"PYTHONUTF8": "1"}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are forked on Linux only")


def run(folder: Path, *arguments: str, **more: str) -> tuple[int, str, str]:
    environment = {"HOME": str(folder), **more}
    done = subprocess.run(
        [*DEVROUTE, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("version",),
        ("nothing",),
        ("contract", "check", "{'b': 'alice'}"),
        ("status", "--output", "json"),
    ],
    ids=" ".join,
)
def test_a_forked_command_says_and_returns_what_a_started_one_does(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "devroute.yaml").write_text("server: nonsense\n")
    assert run(tmp_path, *arguments) == run(tmp_path, *arguments, **AS_EVER)


def test_it_is_a_child_of_this_process_with_a_session_of_its_own(tmp_path: Path) -> None:
    ready, ours = os.pipe()
    process = subprocess.Popen(
        [*DEVROUTE, "token", "new", "alice", "--help"],
        cwd=tmp_path,
        env={},
        stdout=ours,
        start_new_session=True,
    )
    os.close(ours)
    assert os.getsid(process.pid) == process.pid
    with os.fdopen(ready) as output:
        assert "Usage: devroute token new" in output.read()
    assert process.wait(10) == 0


def test_its_status_names_the_signal_that_killed_it(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*DEVROUTE, "manifests", "check", "-"], cwd=tmp_path, env={}, stdin=subprocess.PIPE
    )
    process.send_signal(signal.SIGKILL)
    assert process.wait(10) == -signal.SIGKILL
    assert process.stdin is not None
    process.stdin.close()


@pytest.mark.parametrize("action", [signal.SIG_IGN, signal.SIG_DFL])
def test_it_ignores_what_this_process_ignores_now(tmp_path: Path, action: signal.Handlers) -> None:
    """Below nohup the server was started with SIGHUP ignored, and a test may set it back."""
    inherited = signal.signal(signal.SIGHUP, action)
    try:
        process = subprocess.Popen(
            [*DEVROUTE, "manifests", "check", "-"], cwd=tmp_path, env={}, stdin=subprocess.PIPE
        )
    finally:
        signal.signal(signal.SIGHUP, inherited)
    ignored = next(
        int(line.split()[1], 16)
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if line.startswith("SigIgn:")
    )
    assert bool(ignored >> (signal.SIGHUP - 1) & 1) == (action == signal.SIG_IGN)
    process.kill()
    process.wait(10)
    assert process.stdin is not None
    process.stdin.close()


def test_most_commands_of_tests_are_forked(tmp_path: Path) -> None:
    """Else this would silently save nothing."""
    process = subprocess.Popen(
        [*DEVROUTE, "manifests", "check", "-"], cwd=tmp_path, env={}, stdin=subprocess.PIPE
    )
    try:
        assert fork_server.__name__ in Path(f"/proc/{process.pid}/cmdline").read_text()
    finally:
        process.communicate()
