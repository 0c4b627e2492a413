"""What the app's command started ends with `devroute up`, so that its port is free: real processes."""

import asyncio
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from devroute.agent import process_group
from devroute.agent.child_process import ChildProcess
from devroute.agent.process_group import Accounting, ExtendedLimits, JobObject, RunningProcess
from devroute.tasks import TaskOwner
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.loopback import site

#: Listens on a port, in a grandchild or deeper, and writes its pid into a file.
SERVER = """
import os, pathlib, signal, socket, sys
port, file, kind = int(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
if kind == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if kind == "daemon":
    os.setsid()
server = socket.create_server(("127.0.0.1", port))
file.write_text(str(os.getpid()))
signal.pause()
"""


def command(folder: Path, port: int, kind: str = "tame", then: str = "wait") -> tuple[str, ...]:
    """A shell that starts a shell that starts the server; the first does not pass signals on."""
    (folder / "server.py").write_text(SERVER)
    server = f"{sys.executable} {folder}/server.py {port} {folder}/pid {kind}"
    return "sh", "-c", f"sh -c '{server}; true' & until [ -s {folder}/pid ]; do sleep 0.01; done; {then}"


def is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def started(folder: Path) -> bool:
    return (folder / "pid").exists() and bool((folder / "pid").read_text())


def block_until_started(folder: Path) -> None:
    """Without the event loop, which so cannot notice that a command has started."""
    subprocess.run(
        ("sh", "-c", f"until [ -s {folder}/pid ]; do sleep 0.01; done"), timeout=PATIENCE_S, check=True
    )


@asynccontextmanager
async def running_up(
    folder: Path, *arguments: str, terminal: bool = False
) -> AsyncIterator[asyncio.subprocess.Process]:
    words = (sys.executable, "-m", "devroute", "up", "foo=1", "--output", "text", "--", *arguments)
    if terminal:
        words = (sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])", *words)
    async with site() as where:
        # Below nohup it is ignored, and `up` leaves it so.
        inherited = signal.signal(signal.SIGHUP, signal.SIG_DFL)
        process = await asyncio.create_subprocess_exec(
            *words,
            env=os.environ
            | {"DEVROUTE_SERVER": where.url, "DEVROUTE_TOKEN": "alice-token", "HOME": str(folder)},
            cwd=folder,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        signal.signal(signal.SIGHUP, inherited)
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            # asyncio waits for the pipes too, which what `up` has left behind would keep open.
            await asyncio.wait_for(process.wait(), PATIENCE_S)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_grandchildren_and_frees_the_port(
    tmp_path: Path, unused_tcp_port: int, number: int
) -> None:
    async with running_up(tmp_path, *command(tmp_path, unused_tcp_port)) as process:
        await eventually(lambda: started(tmp_path))
        assert not is_free(unused_tcp_port)
        process.send_signal(number)
        await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert is_free(unused_tcp_port)


async def test_grandchildren_end_with_a_command_that_ends(tmp_path: Path, unused_tcp_port: int) -> None:
    async with running_up(tmp_path, *command(tmp_path, unused_tcp_port, then="exit 7")) as process:
        out, _ = await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert process.returncode == 7, out
        assert started(tmp_path)
        assert is_free(unused_tcp_port)


@pytest.mark.parametrize("then", ["wait", "exit 0"])
async def test_on_a_terminal_too(tmp_path: Path, unused_tcp_port: int, then: str) -> None:
    """With Ctrl-C, and with a grandchild whose parent has ended."""
    words = command(tmp_path, unused_tcp_port, "stubborn" if then == "wait" else "tame", then)
    async with running_up(tmp_path, *words, terminal=True) as process:
        await eventually(lambda: started(tmp_path))
        if then == "wait":
            assert process.stdin is not None
            process.stdin.write(b"\x03")
        await asyncio.wait_for(process.communicate(), PATIENCE_S)
        assert is_free(unused_tcp_port)


async def test_on_a_terminal_the_app_reads_the_keyboard(tmp_path: Path) -> None:
    script = f"import pathlib; pathlib.Path('{tmp_path}/line').write_text(input('ready '))"
    async with running_up(tmp_path, sys.executable, "-c", script, terminal=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        await asyncio.wait_for(process.stdout.readuntil(b"ready "), PATIENCE_S)
        process.stdin.write(b"typed\n")
        await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert (tmp_path / "line").read_text() == "typed"


async def test_what_ignores_sigterm_is_killed(tmp_path: Path, unused_tcp_port: int) -> None:
    child = await ChildProcess.start(command(tmp_path, unused_tcp_port, "stubborn"))
    await eventually(lambda: started(tmp_path))
    await asyncio.wait_for(child.stop(grace=0.1), PATIENCE_S)
    assert is_free(unused_tcp_port)


async def test_what_has_started_ends_if_the_start_is_cancelled(tmp_path: Path, unused_tcp_port: int) -> None:
    """By a signal that comes in the instant in which the command starts."""
    start = TaskOwner().start(ChildProcess.start(command(tmp_path, unused_tcp_port)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    block_until_started(tmp_path)
    assert start.cancel()
    try:
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(start, PATIENCE_S)
        assert is_free(unused_tcp_port)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("proc", ["/proc", "/nonexistent"])  # without /proc, as on macOS, ps is asked
async def test_a_daemon_with_a_session_of_its_own_is_left_alone(
    tmp_path: Path, unused_tcp_port: int, proc: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_group, "PROC", Path(proc))
    child = await ChildProcess.start(command(tmp_path, unused_tcp_port, "daemon"))
    await eventually(lambda: started(tmp_path))
    daemon = int((tmp_path / "pid").read_text())
    try:
        await asyncio.wait_for(child.stop(), PATIENCE_S)
        assert not is_free(unused_tcp_port)
    finally:
        os.kill(daemon, signal.SIGKILL)
        await eventually(lambda: is_free(unused_tcp_port))


async def test_a_group_of_its_own_needs_only_what_uvloop_can_do() -> None:
    """uvloop takes no other options than these, and `devroute up` runs on it where it is installed."""
    known = {"cwd", "env", "preexec_fn", "restore_signals", "start_new_session", "pass_fds", "close_fds"}
    options = process_group.PosixGroup(own=True).options()
    assert set(options) <= known
    process = await asyncio.create_subprocess_exec("sleep", "60", **options)
    assert os.getpgid(process.pid) == process.pid
    process.kill()
    await process.wait()


def test_a_sibling_in_the_same_group_is_left_alone() -> None:
    """`devroute up | tee log`: the shell may start the sibling later than devroute."""
    group, parent = os.getpgrp(), os.getppid()
    running = [RunningProcess(11, 1, group)]
    of_terminal = process_group.PosixGroup(own=False, running=lambda: running)
    running += [
        RunningProcess(os.getpid(), parent, group),
        RunningProcess(12, parent, group),
        RunningProcess(13, os.getpid(), group),
        RunningProcess(14, 1, group),
        RunningProcess(15, 13, 15),
    ]
    assert of_terminal.members() == [13, 14]


def test_ps_is_not_one_of_the_processes_that_it_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    def children() -> set[int]:
        return {each.number for each in process_group.running_processes() if each.parent == os.getpid()}

    known = children()  # by /proc
    monkeypatch.setattr(process_group, "PROC", Path("/nonexistent"))
    assert children() == known
    with subprocess.Popen(["sleep", "60"]) as app:
        try:
            assert children() == {*known, app.pid}
        finally:
            app.kill()


def test_a_closed_standard_input_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # `devroute up … <&-`
    options = process_group.new_group(windows=False).options()
    assert options == {"start_new_session": True}


# --- Windows, by its documented structures


class Kernel32:
    """Records what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.active = 1
        for name in (
            *("CreateJobObjectW", "OpenProcess", "SetInformationJobObject", "AssignProcessToJobObject"),
            *("CloseHandle", "TerminateJobObject", "QueryInformationJobObject"),
        ):
            setattr(self, name, self._function(name))

    def _function(self, name: str) -> Any:
        def function(*arguments: Any) -> int:
            values = [each.value if isinstance(each, ctypes.c_void_p) else each for each in arguments]
            self.calls.append((name, *values))
            if name == "SetInformationJobObject":
                limits = ctypes.cast(arguments[2], ctypes.POINTER(ExtendedLimits)).contents
                self.limit_flags = limits.basic.limit_flags
            if name == "QueryInformationJobObject":
                counts = ctypes.cast(arguments[2], ctypes.POINTER(Accounting)).contents
                counts.active_processes = self.active
            return {"CreateJobObjectW": 7, "OpenProcess": 8}.get(name, 1)

        return function


def test_on_windows_the_processes_are_a_job_that_ends_with_devroute() -> None:
    assert (ctypes.sizeof(ExtendedLimits), ctypes.sizeof(Accounting)) == (144, 48)  # winnt.h, 64 bits
    kernel32 = Kernel32()
    job = JobObject(kernel32)
    (_, (_, number, kind, _, size)) = kernel32.calls
    assert (number, kind, size) == (7, 9, 144)
    assert kernel32.limit_flags == 0x2000
    job.started(type("Process", (), {"pid": 123})())
    assert kernel32.calls[2:] == [
        ("OpenProcess", 0x0101, False, 123),
        ("AssignProcessToJobObject", 7, 8),
        ("CloseHandle", 8),
    ]
    assert job.alive()
    job.terminate()
    assert kernel32.calls[-1] == ("TerminateJobObject", 7, 1)
    kernel32.active = 0
    assert not job.alive()
