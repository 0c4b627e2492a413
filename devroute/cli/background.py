"""`devroute up --detach`: the command returns once its process in the background is ready, or has failed.

The process is a fork of the command, in a session of its own and without a terminal, so that it starts with
what the command has read. Both ends of a pipe join them until then.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import typer

from devroute.agent.json_text import json_object
from devroute.cli.exit_codes import FAILURE, exit_code_for, print_error
from devroute.errors import ConfigInvalid, DevrouteError
from devroute.platforms import Ended, lock, signals_raise
from devroute.quoting import visible

#: Takes what calls it with the status of a process that is ready; returns the exit code.
Run = Callable[[Callable[[Mapping[str, Any]], None]], int]

#: Bytes of what the process in the background reports.
MAX_REPORT: Final = 1024 * 1024
#: Bytes and lines at the end of its log that are shown where it ended before it was ready.
MAX_SHOWN: Final = 4096
LINES_SHOWN: Final = 10


def run_in_background(run: Run, log: Path) -> tuple[dict[str, Any], int]:
    """Fork, and call `run` in the new process, whose output goes to the file `log`. Returns the status with
    which it is ready and 0, or {} and its exit code once its error is printed. A signal that ends the command
    before that ends the process, too. Raises ConfigInvalid where there is no fork."""
    if not hasattr(os, "fork"):
        raise ConfigInvalid("detach: this system cannot do that", hint="start devroute up as a service of it")
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    blocked = _block_signals()  # one before the handlers below would end this process alone, so it waits
    process = os.fork()
    if process == 0:
        os.close(reading)
        _be_in_the_background(run, log, writing, blocked)
    os.close(writing)
    try:
        with signals_raise(), os.fdopen(reading, "rb") as pipe:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            report = json_object(pipe.readline(MAX_REPORT)) or {}
    except (KeyboardInterrupt, Ended) as end:  # no one would know of a process that is ready later
        os.kill(process, signal.SIGTERM)
        os.waitpid(process, 0)
        if isinstance(end, Ended):
            return {}, 128 + signal.SIGTERM
        raise
    if "ready" in report:
        return report["ready"], 0
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    if "error" in report:
        print_error(DevrouteError(report["error"], hint=report["hint"]))
    else:
        typer.echo(
            f"devroute: it has ended with {code} before it was ready; its output is in {log}", err=True
        )
        for line in _last_lines(log):
            typer.echo(f"  {visible(line)}", err=True)
    return {}, code if code > 0 else 128 - code if code else FAILURE  # an app may end with 0


def _block_signals() -> set[int]:
    """Those that end a process; returns those that were blocked before."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})


def _last_lines(log: Path) -> list[str]:
    """Of a runner that is gone soon, this is all that one sees."""
    with suppress(OSError), log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - MAX_SHOWN))
        return stream.read(MAX_SHOWN).decode(errors="replace").splitlines()[-LINES_SHOWN:]
    return []


def _be_in_the_background(run: Run, log: Path, writing: int, blocked: set[int]) -> None:
    """In the new process; does not return. `blocked`: the signals that are to be blocked while it runs."""
    code, pipe = FAILURE, os.fdopen(writing, "wb")
    try:
        os.setsid()
        _use_as_output(log)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        code = run(lambda status: _report(pipe, {"ready": dict(status)}))
    except DevrouteError as error:
        print_error(error)
        _report(pipe, {"error": error.message, "hint": error.hint})
        code = exit_code_for(error)
    except BaseException:  # noqa: BLE001  # it has no caller
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _use_as_output(log: Path) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    lock(output)  # until this process and its app have ended
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    for each in (output, nothing):
        os.close(each)


def _report(pipe: BinaryIO, document: Mapping[str, Any]) -> None:
    """Once: the command ends when it has read it. One that was ready before it failed has closed the pipe."""
    if not pipe.closed:
        with suppress(OSError), pipe:  # the command may have been killed
            pipe.write(json.dumps(document).encode() + b"\n")
