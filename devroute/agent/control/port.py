"""Where the control API of a `devroute up` listens, and the file by which others find it.

A Unix socket in a folder of the user's own; where the system has none, a loopback port and a token, which the
file of the user's own holds. What serves it is loaded for the first client (pages/lazy_server.py).
"""

import contextlib
import os
import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

from devroute.agent.control import running
from devroute.pages.lazy_server import LazyServer
from devroute.platforms import has_unix_sockets, listen

if TYPE_CHECKING:
    from devroute.agent.control.api import Controlled

#: Bytes of a socket's path that every system permits.
MAX_PATH: Final = 100


class ControlPort:
    """`agent` is the process that is controlled, `state_folder` where others look for it."""

    def __init__(self, agent: "Controlled", state_folder: Path) -> None:
        self._agent = agent
        self._state_folder = state_folder
        self._token = secrets.token_urlsafe(32)
        self._server: LazyServer | None = None
        self._files: list[Path] = []

    def start(self, identity: str, wanted: str | None) -> str:
        """Listen, and be found by others. Returns why that is impossible, "" if it is not."""
        try:
            folder = running.own_folder(self._state_folder)
            file = folder / f"{os.getpid()}-{secrets.token_hex(4)}.json"
            path, port = self._listen(file.with_suffix(".sock"))
            self._files.append(file)
            status = self._agent.status()
            about = running.Running(
                **{name: status[name] for name in ("pid", "server", "name", "started", "log")},
                wanted=wanted,
                identity=identity,
                socket=path,
                port=port,
                token="" if path else self._token,
            )
            running.write(file, about)
        except OSError as error:
            self._forget()
            return f"{error.filename or self._state_folder}: {error.strerror}"
        return ""

    def _listen(self, file: Path) -> tuple[str | None, int | None]:
        """The socket's path, or the port."""
        path, port = None, None
        if has_unix_sockets() and len(os.fsencode(file)) <= MAX_PATH:
            path = str(file)
            listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._files.append(file)
        else:
            listening = listen("127.0.0.1", 0)
            port = int(listening.getsockname()[1])
        self._server = LazyServer(
            listening,
            "devroute.agent.control.server",
            lambda server: server.create_runner(self._agent, port, self._token),
        )
        if path is not None:
            listening.setblocking(False)
            listening.bind(path)
            os.chmod(path, 0o600)
            listening.listen()
        self._server.start()
        return path, port

    def _forget(self) -> None:
        for each in self._files:
            with contextlib.suppress(OSError):
                each.unlink()

    async def close(self) -> None:
        """Not to be found any more, end all events, and close."""
        self._forget()
        if self._server is not None:
            await self._server.close()
