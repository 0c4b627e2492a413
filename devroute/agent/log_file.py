"""The file that a `devroute up` in the background and its app write to. Bounded: what is older is moved to a
second file, in place of what that has."""

import asyncio
import contextlib
import os
import shutil
import time
from pathlib import Path
from typing import Final, NoReturn

from devroute import private_files

#: Bytes of a log; the second file has as many.
MAX_BYTES: Final = 16 * 1024 * 1024
#: Seconds between two looks at its size.
LOOK_SECONDS: Final = 5.0
#: Logs that are kept, of all that have run.
MAX_LOGS: Final = 20


def new_log(folder: Path) -> Path:
    """An empty file for a process that is about to start, which has to lock it; the oldest ones that no
    process has locked go. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    logs = sorted(folder.glob("up-*.log"), key=lambda file: file.stat().st_mtime, reverse=True)
    for file in logs[MAX_LOGS - 1 :]:
        _delete_unless_in_use(file)
    file = folder / f"up-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return file


def _delete_unless_in_use(file: Path) -> None:
    with contextlib.suppress(OSError):  # another user's, as after sudo
        held = private_files.hold(file)
        if held is not None:
            with held:
                file.unlink(missing_ok=True)
                _older(file).unlink(missing_ok=True)


async def keep_small(
    file: Path, max_bytes: int = MAX_BYTES, look: float = LOOK_SECONDS, output: int = 1
) -> NoReturn:
    """Until cancelled. `output`: a descriptor of the file, which may be deleted. All writers have to have
    opened it to append."""
    while True:
        await asyncio.sleep(look)
        with contextlib.suppress(OSError):
            if os.fstat(output).st_size > max_bytes:
                if file.exists():  # noqa: ASYNC240
                    private_files.append(_older(file), b"")  # so that it is only its owner's to read
                    shutil.copyfile(file, _older(file))
                os.ftruncate(output, 0)


def _older(file: Path) -> Path:
    return file.with_suffix(".log.1")
