"""Programs of the rig: each with a log, and ended with its block."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from devroute.mesh.testbed import Command

_STOP_S = 5.0


@asynccontextmanager
async def program(
    arguments: Sequence[str | Path],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> AsyncIterator[Command]:
    """Runs with the block; `environment` is added to ours. Its whole process group is ended, since a wrapper
    may have put programs of its own beside it."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *arguments,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Command(process, log)
    finally:
        await stop(process)


async def stop(process: asyncio.subprocess.Process) -> None:
    """SIGTERM for its group, then SIGKILL for what is left of it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_S)
