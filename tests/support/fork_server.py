"""Starts `python -m devroute` in a fifth of the time: by a fork of a process that has imported everything.

Hundreds of tests run a command as a process of its own, and most of what that costs is the import of the same
modules. `install` makes subprocess.Popen, and so asyncio, fork such commands from a server, which each test
process starts on first use. All else starts as ever, and so does everything where this is not Linux.

The server's heap is frozen. Else each process would visit all of it whenever it collects garbage, at the
latest at its end, and would so get a copy of its own. For the same reason it ends without freeing its modules
(`end_at_once`). Both together are 95 % of what a short command would cost.

The processes are real: each has its own environment, folder, files and session. They are children of the
test's process and not of the server (CLONE_PARENT of clone(2)), so that it can wait for them.
"""

import atexit
import ctypes
import gc
import importlib
import inspect
import json
import os
import pkgutil
import platform
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from devroute.platforms import freeze_heap
from tests.support.paths import ROOT

COMMAND: Final = [sys.executable, "-m", "devroute"]
#: Variables that Python or its libraries read when they start or are imported, and which the server has not.
READ_AT_START: Final = ("PYTHON", "LC_", "LANG", "SSL_", "OPENSSL_", "TZ", "LD_", "MALLOC_")
#: Some of them change nothing here: output is as the child's own environment says, the rest is the server's.
HARMLESS: Final = ("PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "PYTHONSAFEPATH")
#: What changes nothing with the value that it has: Python without a locale takes this one; and of the
#: certificates that this machine trusts only aiohttp's own contexts know, which no test on loopback uses.
UNCHANGED: Final = {"LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "LC_CTYPE": "C.UTF-8"} | {
    key: value for key, value in os.environ.items() if key in ("SSL_CERT_FILE", "SSL_CERT_DIR")
}
CLONE_PARENT: Final = 0x8000
#: Number of the system call clone, by machine.
CLONE: Final = {"x86_64": 56, "aarch64": 220}.get(platform.machine())
MAX_REQUEST: Final = 1 << 20


class ForkServer:
    """The server's side that starts processes."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._socket, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_REQUEST)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                env={key: value for key, value in os.environ.items() if not _is_read_at_start(key)},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )

    def start(
        self, arguments: list[str], cwd: str, environment: Mapping[str, str], files: list[int], session: bool
    ) -> int:
        """The process of `devroute ARGUMENTS`, with these as its standard input, output and error. It ignores
        SIGHUP where this process does now, as nohup has it; the server may have been started before."""
        ignores_hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        request = json.dumps([arguments, cwd, dict(environment), session, ignores_hangup]).encode()
        socket.send_fds(self._socket, [request], files)
        pid = int(self._socket.recv(32) or b"0")
        if not pid:
            raise OSError(f"the fork server ended with status {self._process.wait()}")
        return pid


def install() -> None:
    """For the rest of this process."""
    if sys.platform != "linux" or CLONE is None:
        return
    plain = subprocess.Popen._execute_child  # type: ignore[attr-defined]
    signature = inspect.signature(plain)
    servers: list[ForkServer] = []

    def execute_child(process: Any, *args: Any, **more: Any) -> None:
        given = signature.bind(process, *args, **more).arguments
        cwd = os.fspath(given["cwd"] or os.getcwd())
        environment = os.environ if given["env"] is None else given["env"]
        if not (_is_ours(given) and _is_usual(environment) and Path(cwd).is_dir()):
            plain(process, *args, **more)
            return
        if not servers:
            servers.append(ForkServer())
        files = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
        files = [own if file == -1 else file for own, file in enumerate(files)]
        words = [os.fsdecode(each) for each in given["args"]][len(COMMAND) :]
        process.pid = servers[0].start(words, cwd, environment, files, given["start_new_session"])
        process._child_created = True
        pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        process._close_pipe_fds(*(given[name] for name in pipes))

    subprocess.Popen._execute_child = execute_child  # type: ignore[attr-defined]


def _is_ours(given: Mapping[str, Any]) -> bool:
    words = given["args"]
    return (
        isinstance(words, list | tuple)
        and [*words[: len(COMMAND)]] == COMMAND
        and given["executable"] in (None, sys.executable)
        and not (given["shell"] or given["preexec_fn"] or given["pass_fds"])
        and given["close_fds"]
    )


def _is_usual(environment: Mapping[str, str]) -> bool:
    return all(
        isinstance(key, str)
        and isinstance(value, str)
        and (UNCHANGED.get(key) == value or not _is_read_at_start(key))
        for key, value in environment.items()
    )


def _is_read_at_start(name: str) -> bool:
    return name.startswith(READ_AT_START) and name not in HARMLESS


# --- the server ---------------------------------------------------------------------------------------------


def serve(requests: socket.socket) -> list[str]:
    """Answer each request with the number of a new process, until the test's process ends. Returns in each
    new process, with the arguments of its command."""
    gc.disable()
    import_everything()
    freeze_heap()
    gc.enable()
    while True:
        request, files, _, _ = socket.recv_fds(requests, MAX_REQUEST, 3)
        if not request:
            os._exit(0)
        is_ready, ready = os.pipe()
        if pid := clone():
            for file in (*files, ready):
                os.close(file)
            os.read(is_ready, 1)  # its end: the process has its session and files, as after exec(2)
            os.close(is_ready)
            requests.send(str(pid).encode())
            continue
        requests.close()
        os.close(is_ready)
        arguments, cwd, environment, session, ignores_hangup = json.loads(request)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignores_hangup else signal.SIG_DFL)
        become(files, cwd, environment, session)
        os.close(ready)
        return [*map(str, arguments)]


def import_everything() -> None:
    import devroute

    for found in pkgutil.walk_packages(devroute.__path__, "devroute."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)


def clone() -> int:
    """fork(2), but the child's parent is this process's parent. 0 in the child. Only for one thread."""
    libc, python = ctypes.PyDLL(None, use_errno=True), ctypes.pythonapi  # PyDLL: as os.fork, it keeps the GIL
    python.PyOS_BeforeFork()
    pid: int = libc.syscall(CLONE, CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(ctypes.get_errno(), "clone")
    return pid


def become(files: list[int], cwd: str, environment: Mapping[str, str], session: bool) -> None:
    """Make this process what a new one would be."""
    if session:
        os.setsid()
    for own, file in enumerate(files):
        os.dup2(file, own)
    for file in files:
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    unbuffered = "PYTHONUNBUFFERED" in environment
    sys.stdin = sys.__stdin__ = os.fdopen(0, encoding="utf-8", closefd=False)  # type: ignore[misc]
    sys.stdout = sys.__stdout__ = _output(1, "strict", unbuffered)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = _output(2, "backslashreplace", True)  # type: ignore[misc]


def _output(file: int, errors: str, unbuffered: bool) -> Any:
    stream = os.fdopen(file, "w", encoding="utf-8", errors=errors, closefd=False)
    stream.reconfigure(line_buffering=os.isatty(file), write_through=unbuffered)
    return stream


#: The exit code of this process's command, once it has ended.
ended_with: list[int] = []


def end_at_once() -> None:
    """Called when all else that Python does at its end is done, but for freeing its modules: a process would
    copy each page of them for that. What has been left to the collector is still reported."""
    if not ended_with:
        return  # the command ended by an error
    gc.collect()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        return  # which Python reports
    os._exit(ended_with[0])


if __name__ == "__main__":
    atexit.register(end_at_once)  # the first to be registered, so the last to be called
    sys.argv[1:] = serve(socket.socket(fileno=int(sys.argv[1])))
    sys.argv[0] = "devroute"
    from devroute.cli.main import main

    try:
        main()
    except SystemExit as end:
        if isinstance(end.code, int):
            ended_with.append(end.code)
        raise
