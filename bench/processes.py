"""Child processes of a run: their start, their end, and /proc's figures of them and their descendants."""

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: Seconds for a process to respond to its first request, on a loaded machine.
START_SECONDS = 20.0
#: Seconds between two checks of a condition.
POLL_SECONDS = 0.05
#: From SIGTERM to SIGKILL.
STOP_SECONDS = 3.0
#: Characters of a log that an error shows.
LOG_TAIL = 400

_TICKS = os.sysconf("SC_CLK_TCK")

#: The folder of the compiled modules (make bench).
_OUR_PYTHON = {name: os.environ[name] for name in ("PYTHONPATH", "PYTHONSAFEPATH") if name in os.environ}


class CannotRun(Exception):
    """A peer or a measurement is left out; the message says why."""


@dataclass(frozen=True)
class Door:
    """Where requests for an app enter, and the headers that they carry. `contracts`: how many different ones
    wrk sends in turn."""

    port: int
    headers: Mapping[str, str]
    path: str = "/"
    contracts: int = 1


@dataclass
class Stage:
    """The processes of a run and the folder for their files; everything ends with the block."""

    folder: Path
    tools: Path
    problems: Mapping[str, str]
    _ends: contextlib.ExitStack
    _names: dict[int, str] = field(default_factory=dict)

    def run(
        self, name: str, *command: str | Path, env: Mapping[str, str] | None = None, pty: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start a process with little of our environment; its output goes to NAME.log."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), **_OUR_PYTHON, **(env or {})}
        with self.log(name).open("wb") as log:
            process = subprocess.Popen(
                [str(each) for each in command],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.PIPE if pty else subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._names[process.pid] = name
        self._ends.callback(stop, process)
        return process

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o600)
        return path

    def program(self, name: str) -> str:
        """Where a Debian program or a tool built for the bench is. Raises CannotRun."""
        path = f"{self.tools}:{os.environ['PATH']}:/usr/sbin:/sbin"
        if found := shutil.which(name, path=path):
            return found
        raise CannotRun(self.problems.get(name) or f"{name} is not installed")

    def until_answers(self, door: Door, *processes: subprocess.Popen[bytes]) -> None:
        """Wait for a 1 KB response over the whole path. Raises CannotRun if a process ends before."""
        problem = ""
        for _ in range(int(START_SECONDS / POLL_SECONDS)):
            try:
                return _ask(door)
            except (OSError, http.client.HTTPException, ValueError) as error:
                problem = str(error) or type(error).__name__
            for process in processes:
                self.alive(process)
            pause(processes[-1], POLL_SECONDS)
        raise CannotRun(f"no response in {START_SECONDS:.0f} s: {problem}")

    def until_listening(self, port: int, process: subprocess.Popen[bytes]) -> None:
        """Raises CannotRun when the process ends or nothing listens."""
        for _ in range(int(START_SECONDS / POLL_SECONDS)):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            self.alive(process)
            pause(process, POLL_SECONDS)
        raise CannotRun(f"nothing listens on port {port} after {START_SECONDS:.0f} s")

    def alive(self, process: subprocess.Popen[bytes]) -> None:
        """Raises CannotRun for a process that has ended."""
        if process.poll() is not None:
            name = self._names[process.pid]
            output = self.log(name).read_text(encoding="utf-8", errors="replace").strip()[-LOG_TAIL:]
            raise CannotRun(f"{name} ended with status {process.returncode}: {output}")


@contextlib.contextmanager
def stage(tools: Path, problems: Mapping[str, str]) -> Iterator[Stage]:
    """`tools`: the folder of programs built for the bench. `problems`: why some could not be built."""
    with tempfile.TemporaryDirectory(prefix="devroute-bench-") as folder, contextlib.ExitStack() as ends:
        yield Stage(Path(folder), tools, problems, ends)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def pause(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Wait for so many seconds, or until the process ends."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that are free now."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _ask(door: Door) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", door.port, timeout=2)
    with contextlib.closing(connection):
        connection.request("GET", "/1024", headers=dict(door.headers))
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200 or len(body) != 1024:
            raise ValueError(f"status {answer.status}, {len(body)} bytes: {body[:160]!r}")


# --- /proc --------------------------------------------------------------------------------------------------


def _family(pids: Sequence[int]) -> list[list[str]]:
    """The fields of /proc/PID/stat, from the third on, of these processes and their descendants."""
    children: dict[int, list[int]] = {}
    fields: dict[int, list[str]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                stat = Path("/proc", entry, "stat").read_text(encoding="utf-8", errors="replace")
                pid, after_name = int(entry), stat.rpartition(")")[2].split()
                fields[pid] = after_name
                children.setdefault(int(after_name[1]), []).append(pid)
    found, todo = [], list(pids)
    while todo:
        pid = todo.pop()
        todo += children.get(pid, [])
        if pid in fields:
            found.append([str(pid), *fields[pid]])
    return found


def cpu_seconds(pids: Sequence[int], *, ended_children: bool = False) -> float:
    """User and system time of processes and their descendants, in steps of 10 ms."""
    last = 16 if ended_children else 14  # utime, stime; cutime, cstime
    return sum(int(each) for stat in _family(pids) for each in stat[12:last]) / _TICKS


def peak_mib(pids: Sequence[int]) -> float:
    """The most that these processes and their descendants had resident, each at its own peak."""
    total = 0
    for stat in _family(pids):
        with contextlib.suppress(OSError):
            for line in Path("/proc", stat[0], "status").read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1])
    return total / 1024


def resident_kib(pid: int) -> int:
    for line in Path("/proc", str(pid), "status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def busy_seconds() -> float:
    """Busy time of all cores since boot."""
    user, nice, system, _idle, _wait, irq, softirq, steal, *_ = (
        int(each) for each in Path("/proc/stat").read_text(encoding="utf-8").splitlines()[0].split()[1:]
    )
    return (user + nice + system + irq + softirq + steal) / _TICKS
