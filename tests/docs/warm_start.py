"""Runs many devroute commands at the price of one start: a process that has imported devroute forks for each.

Read one request a line on standard input, `{"argv", "cwd", "env", "output"}` (the last is a
path), and report on standard output `{"pid"}` at once and `{"pid", "code"}` when it has ended.
"""

import asyncio
import gc
import importlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

from devroute.cli.main import run

#: What commands import when they run.
PRELOADED = (
    "agent.app",
    "agent.doctor.checks",
    "agent.trace",
    "inspector.server",
    "proxy.app",
    "mesh.manifests.folder",
)


def _child(request: dict[str, object]) -> NoReturn:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(str(request["output"]), os.O_WRONLY | os.O_APPEND), 1)
        os.dup2(1, 2)
        os.chdir(str(request["cwd"]))
        os.environ.clear()
        os.environ.update(request["env"])  # type: ignore[call-overload]
        words = list(map(str, request["argv"]))  # type: ignore[call-overload]
        sys.argv = ["devroute", *words]
        code = run(words, os.environ)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def _serve() -> None:
    """Fork for each request until standard input ends, and report each end."""
    children: set[int] = set()
    for name in PRELOADED:
        importlib.import_module(f"devroute.{name}")
    gc.freeze()

    def report() -> None:
        for pid in list(children):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                children.discard(pid)
                print(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}), flush=True)

    signal.signal(signal.SIGCHLD, lambda *_: report())
    for line in sys.stdin:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        pid = os.fork()
        if pid == 0:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
            _child(json.loads(line))
        children.add(pid)
        print(json.dumps({"pid": pid}), flush=True)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})


class Run:
    """A command that has been started; `output` has all that it wrote so far."""

    def __init__(self, pid: int, output: Path) -> None:
        self.pid = pid
        self._output = output
        self.code: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def output(self) -> str:
        return self._output.read_text(encoding="utf-8")

    def interrupt(self) -> None:
        """What Ctrl-C does."""
        os.kill(self.pid, signal.SIGINT)


class WarmStart:
    """Starts devroute commands; see `warm_start()`."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._runs: dict[int, Run] = {}
        self._starting: asyncio.Future[Run] | None = None
        self._output = folder
        self._count = 0

    async def start(self, argv: list[str], cwd: Path, env: dict[str, str]) -> Run:
        """One at a time."""
        assert self._process.stdin is not None
        assert self._starting is None
        self._count += 1
        self._output = self._folder / f"output-{self._count}"
        self._output.touch()
        request = {"argv": argv, "cwd": str(cwd), "env": env, "output": str(self._output)}
        self._starting = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        run = await self._starting
        self._starting = None
        return run

    async def report(self) -> None:
        """Read the reports of the process until it ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            report = json.loads(line)
            if "code" in report:
                self._runs[report["pid"]].code.set_result(report["code"])
            else:
                assert self._starting is not None
                run = self._runs[report["pid"]] = Run(report["pid"], self._output)
                self._starting.set_result(run)


@asynccontextmanager
async def warm_start(folder: Path) -> AsyncIterator[WarmStart]:
    """What runs is killed with the block, if it has not ended."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.docs.warm_start"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    warm = WarmStart(process, folder)
    async with asyncio.TaskGroup() as group:
        reports = group.create_task(warm.report())
        try:
            yield warm
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
            await reports


if __name__ == "__main__":
    _serve()
