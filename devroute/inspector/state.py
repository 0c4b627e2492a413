"""What the inspector remembers from one `devroute up` to the next, in files of the user's own: the secret of
its cookies and the port, so that an open page goes on after a restart, and where the history is.

Without a folder, or where it cannot be written, nothing is remembered: the page has to be opened again.
"""

import hashlib
import os
import secrets
import stat
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from devroute import private_files

SECRET_BYTES: Final = 32
#: Seconds after which a new secret is made, and every browser needs a new link: a week. A program on another
#: port of 127.0.0.1 that the browser visits receives the cookie (access.py), so it must expire.
SECRET_SECONDS: Final = 7 * 24 * 3600
#: Characters of a remembered port's file that are read.
MAX_KEY: Final = 64


class InspectorState:
    """The state of one `devroute up`, which `server`, `name` and `services` identify. `folder`: of the states
    of all of them, None for none."""

    def __init__(
        self,
        folder: Path | None = None,
        server: str = "",
        name: str | None = None,
        services: Iterable[str] = (),
    ) -> None:
        text = "\n".join((server, name or "", *sorted(services)))
        self._key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._folder = None if folder is None else folder / "inspector"

    @property
    def history(self) -> Path | None:
        """The file of the history, in a folder that exists. None where there can be none; raises OSError."""
        if self._folder is None:
            return None
        return _made(self._folder) / f"history-{self._key}.jsonl"

    def secret(self) -> bytes:
        """The secret of this user's inspectors."""
        if self._folder is None:
            return secrets.token_bytes(SECRET_BYTES)
        file = self._folder / "secret"
        with suppress(OSError):
            found = _own(file)
            if found is not None:
                return found
        made = secrets.token_bytes(SECRET_BYTES)
        with suppress(OSError):
            private_files.replace(_made(self._folder) / file.name, made)
        return made

    def ports(self, candidates: Iterable[int]) -> list[int]:
        """The ports in the order in which to try them: that of last time, those of no one, and those of
        others, the one that was used longest ago first."""

        def order(port: int) -> tuple[int, float]:
            if self._folder is None:
                return 1, 0.0
            file = self._folder / f"port-{port}"
            try:
                with file.open("rb") as stream:
                    key = stream.read(MAX_KEY)
                return (0, 0.0) if key == self._key.encode() else (2, file.stat().st_mtime)
            except OSError:
                return 1, 0.0

        return sorted(candidates, key=order)

    def used(self, port: int) -> None:
        """Remember the port that this one has now. Only the process that has a port writes its file."""
        if self._folder is not None:
            with suppress(OSError):
                private_files.replace(_made(self._folder) / f"port-{port}", self._key.encode())


def _made(folder: Path) -> Path:
    """A folder, which is made for its owner only if there is none. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _own(file: Path) -> bytes | None:
    """The secret in a file, unless it is too old, malformed, or another user's to read. Raises OSError."""
    with file.open("rb") as stream:
        about = os.fstat(stream.fileno())
        found = stream.read(SECRET_BYTES + 1)
    own = not hasattr(os, "getuid") or (
        about.st_uid == os.getuid() and not stat.S_IMODE(about.st_mode) & 0o077
    )
    fresh = 0 <= time.time() - about.st_mtime < SECRET_SECONDS
    return found if own and fresh and len(found) == SECRET_BYTES else None
