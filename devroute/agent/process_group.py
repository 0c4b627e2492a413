"""The processes that the app's command started, however deep: they end together, so that no port stays taken.

Without a terminal the command gets a process group of its own. On a terminal it stays in devroute's, since
another one could not read the keyboard, and Ctrl-C would not reach it; its processes are those that came
into the group later. What makes itself a session of its own, as daemons do, is left alone. On Windows they
are a job object, which also ends when devroute is killed.
"""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from devroute.platforms import WINDOWS

#: Seconds between two looks at whether the processes have ended.
POLL_SECONDS: Final = 0.02

#: Where Linux lists its processes; macOS has none.
PROC = Path("/proc")


class ProcessGroup(Protocol):
    def options(self) -> dict[str, Any]:
        """Arguments for the creation of the process."""

    def started(self, process: asyncio.subprocess.Process) -> None: ...

    def terminate(self) -> None:
        """Ask all of them to end."""

    def kill(self) -> None: ...

    def alive(self) -> bool:
        """Whether any of them still runs."""


def new_group(*, windows: bool = WINDOWS) -> ProcessGroup:
    if windows:
        return JobObject(getattr(ctypes, "WinDLL")("kernel32", use_last_error=True))  # noqa: B009
    return PosixGroup(own=not _on_a_terminal())


def _on_a_terminal() -> bool:
    """Whether devroute reads a terminal, and is in its foreground."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # closed, and then None
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    return False


# --- Linux and macOS ----------------------------------------------------------------------------------------


class RunningProcess(NamedTuple):
    number: int
    parent: int
    group: int


class PosixGroup:
    """`own`: a group of its own; else those that are in devroute's group later, without siblings of
    devroute. `running` lists the processes of the machine."""

    def __init__(self, *, own: bool, running: Callable[[], list[RunningProcess]] | None = None) -> None:
        self._own = own
        self._running = running or running_processes
        self._group = os.getpgrp()
        self._others = (
            set() if own else {each.number for each in self._running() if each.group == self._group}
        )

    def options(self) -> dict[str, Any]:
        # A session of its own is such a group, too. uvloop refuses `process_group`.
        return {"start_new_session": True} if self._own else {}

    def started(self, process: asyncio.subprocess.Process) -> None:
        if self._own:
            self._group = process.pid

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def alive(self) -> bool:
        return bool(self.members())

    def _send(self, number: signal.Signals) -> None:
        for member in self.members():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(member, number)

    def members(self) -> list[int]:
        """Their numbers."""
        found = [each for each in self._running() if each.group == self._group and each.number != os.getpid()]
        if self._own:
            return [each.number for each in found]
        return [
            each.number for each in found if each.number not in self._others and each.parent != os.getppid()
        ]


def running_processes() -> list[RunningProcess]:
    """All processes that have not ended; those that only wait for their parent's attention have. Without
    /proc, `ps` lists them, which is none of them."""
    if PROC.joinpath("self", "stat").exists():
        return [found for entry in PROC.iterdir() if (found := _in_proc(entry)) is not None]
    command = ("ps", "-A", "-o", "pid=,ppid=,pgid=,stat=")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ps:
        listed, _ = ps.communicate()
    fields = [line.split() for line in listed.splitlines()]
    running = [RunningProcess(int(a), int(b), int(c)) for a, b, c, state in fields if state[0] != "Z"]
    return [each for each in running if each.number != ps.pid]


def _in_proc(entry: Path) -> RunningProcess | None:
    """proc(5): the name is in parentheses, and may contain some itself."""
    if not entry.name.isdigit():
        return None
    try:
        state, parent, group = (entry / "stat").read_bytes().rpartition(b")")[2].split()[:3]
    except (OSError, ValueError):  # it has just ended
        return None
    return None if state in b"ZX" else RunningProcess(int(entry.name), int(parent), int(group))


# --- Windows ------------------------------------------------------------------------------------------------

#: JobObjectExtendedLimitInformation, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, JobObjectBasicAccountingInformation.
_EXTENDED_LIMITS: Final = 9
_KILL_ON_CLOSE: Final = 0x2000
_ACCOUNTING: Final = 1


class _BasicLimits(ctypes.Structure):
    _fields_ = (
        ("per_process_user_time_limit", ctypes.c_int64),
        ("per_job_user_time_limit", ctypes.c_int64),
        ("limit_flags", ctypes.c_uint32),
        ("minimum_working_set_size", ctypes.c_size_t),
        ("maximum_working_set_size", ctypes.c_size_t),
        ("active_process_limit", ctypes.c_uint32),
        ("affinity", ctypes.c_size_t),
        ("priority_class", ctypes.c_uint32),
        ("scheduling_class", ctypes.c_uint32),
    )


class ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION of winnt.h."""

    _fields_ = (
        ("basic", _BasicLimits),
        ("io", ctypes.c_uint64 * 6),
        ("process_memory_limit", ctypes.c_size_t),
        ("job_memory_limit", ctypes.c_size_t),
        ("peak_process_memory_used", ctypes.c_size_t),
        ("peak_job_memory_used", ctypes.c_size_t),
    )


class Accounting(ctypes.Structure):
    """JOBOBJECT_BASIC_ACCOUNTING_INFORMATION of winnt.h."""

    _fields_ = (
        ("times", ctypes.c_int64 * 4),
        ("page_faults", ctypes.c_uint32),
        ("processes", ctypes.c_uint32),
        ("active_processes", ctypes.c_uint32),
        ("terminated_processes", ctypes.c_uint32),
    )


class JobObject:
    """`kernel32`: the library. A process that the command starts in its first instant, before it is in the
    job, would not be in it either."""

    def __init__(self, kernel32: Any) -> None:
        self._kernel32 = kernel32
        for function in (kernel32.CreateJobObjectW, kernel32.OpenProcess):
            function.restype = ctypes.c_void_p
        self._job = ctypes.c_void_p(kernel32.CreateJobObjectW(None, None))
        limits = ExtendedLimits()
        limits.basic.limit_flags = _KILL_ON_CLOSE
        kernel32.SetInformationJobObject(
            self._job, _EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits)
        )

    def options(self) -> dict[str, Any]:
        return {}

    def started(self, process: asyncio.subprocess.Process) -> None:
        # PROCESS_TERMINATE | PROCESS_SET_QUOTA, as AssignProcessToJobObject wants.
        handle = ctypes.c_void_p(self._kernel32.OpenProcess(0x0101, False, process.pid))
        if handle.value:
            self._kernel32.AssignProcessToJobObject(self._job, handle)
            self._kernel32.CloseHandle(handle)

    def terminate(self) -> None:
        """Windows has no signal for it."""
        self.kill()

    def kill(self) -> None:
        self._kernel32.TerminateJobObject(self._job, 1)

    def alive(self) -> bool:
        counts = Accounting()
        self._kernel32.QueryInformationJobObject(
            self._job, _ACCOUNTING, ctypes.byref(counts), ctypes.sizeof(counts), None
        )
        return bool(counts.active_processes)
