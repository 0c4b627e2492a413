"""Which `devroute up` of this user run, and how to reach each: a file each in the state folder.

A process writes its file once its socket listens, and removes it before it ends. One that was killed leaves
its file: the next reader finds that nothing listens, and removes it.
"""

import hashlib
import json
import os
import socket as sockets
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from devroute import private_files
from devroute.platforms import is_to_own_process

if TYPE_CHECKING:  # devroute down needs no settings, and no pydantic
    from devroute.agent.settings import AgentSettings

#: In the state folder.
FOLDER: Final = "agents"
#: Bytes of a file that are read.
MAX_BYTES: Final = 16 * 1024
#: Processes that are looked at: a subject has 16 at most, and a user few servers.
MAX_RUNNING: Final = 256


@dataclass(frozen=True, slots=True)
class Running:
    """A `devroute up`. `wanted`: the name that its settings ask for, `name`: the one that it has. `identity`:
    what identity_of returns for its settings. It listens at `socket` or, on systems without such sockets, at
    the loopback port `port`, where `token` has to be sent. `log`: the file of its output if it is detached.
    `started`: seconds since the epoch."""

    pid: int
    server: str
    wanted: str | None
    name: str
    identity: str
    started: float
    socket: str | None = None
    port: int | None = None
    token: str = ""
    log: str | None = None

    def connect(self, seconds: float) -> sockets.socket:
        """Raises OSError, PermissionError if another user's process listens there: one who owns a folder
        above may have put its own socket in the place of this one."""
        if self.socket is None:
            return sockets.create_connection(("127.0.0.1", self.port or 0), seconds)
        family = getattr(sockets, "AF_UNIX")  # noqa: B009  # not on every system
        connection = sockets.socket(family, sockets.SOCK_STREAM)
        try:
            connection.settimeout(seconds)
            connection.connect(self.socket)
            if not is_to_own_process(connection):
                raise PermissionError(13, "another user's process listens there", self.socket)
        except BaseException:
            connection.close()
            raise
        return connection


#: Settings in which the services of one process may differ.
_OF_ITS_OWN: Final = {"services", "command", "takeover", "output"}


def identity_of(settings: "AgentSettings") -> str:
    """A digest of the settings that two processes must share, of which nothing can be learned: services with
    the same one may be served by one process, for the same person at the same server, in the same way."""
    text = repr((settings.model_dump(exclude=_OF_ITS_OWN), settings.token.get_secret_value()))
    return hashlib.sha256(b"devroute agent\n" + text.encode()).hexdigest()[:32]


def own_folder(state_folder: Path) -> Path:
    """The folder of the files, which no one else may read. Raises OSError, PermissionError if it is another
    user's."""
    folder = state_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    about = folder.lstat()
    if hasattr(os, "getuid") and (about.st_uid != os.getuid() or not stat.S_ISDIR(about.st_mode)):
        raise PermissionError(13, "it is another user's", str(folder))
    if stat.S_IMODE(about.st_mode) & 0o077:
        folder.chmod(0o700)
    return folder


def write(file: Path, running: Running) -> None:
    """Raises OSError."""
    private_files.replace(file, json.dumps({"version": 1, **asdict(running)}).encode())


def all_running(state_folder: Path | None) -> list[Running]:
    """The oldest first."""
    if state_folder is None:
        return []
    return sorted(_found(state_folder / FOLDER), key=lambda each: (each.started, each.pid))


def _found(folder: Path) -> Iterator[Running]:
    with suppress(OSError):
        for file in sorted(folder.glob("*.json"))[:MAX_RUNNING]:
            running = _read(file)
            if running is None:
                continue
            try:
                running.connect(1.0).close()
            except (ConnectionRefusedError, FileNotFoundError):
                _remove(file)
            except OSError:
                continue  # it may be busy, or another user's
            else:
                yield running


def _remove(file: Path) -> None:
    """What a killed process has left."""
    for each in (file, file.with_suffix(".sock")):
        with suppress(OSError):
            each.unlink()


def _read(file: Path) -> Running | None:
    """None for what is not ours, or of another version."""
    try:
        with file.open("rb") as stream:
            about = os.fstat(stream.fileno())
            if hasattr(os, "getuid") and about.st_uid != os.getuid():
                return None
            document: dict[str, Any] = json.loads(stream.read(MAX_BYTES))
        if document.pop("version") != 1:
            return None
        return Running(**{name: document[name] for name in Running.__dataclass_fields__})
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
