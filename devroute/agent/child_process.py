"""The app as a child process of `devroute up`. It shares the terminal, so that a debugger works in it and a
Ctrl-C reaches it directly. Knows nothing of tunnels.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Final

from devroute.errors import ConfigInvalid
from devroute.platforms import exit_code, runnable

#: The variable with the token.
TOKEN_VARIABLE: Final = "DEVROUTE_TOKEN"

#: Seconds between SIGTERM and SIGKILL: less than the 10 s of docker stop.
GRACE_SECONDS: Final = 5.0


def environment() -> dict[str, str]:
    """The environment of a child: without the token, which an app does not need and may print."""
    return {name: value for name, value in os.environ.items() if name.upper() != TOKEN_VARIABLE}


class ChildProcess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str]) -> "ChildProcess":
        """Raises ConfigInvalid if the command cannot be run."""
        try:
            return cls(await asyncio.create_subprocess_exec(*runnable(command), env=environment()))
        except FileNotFoundError:
            raise ConfigInvalid(
                f"cannot run '{command[0]}': there is no such command",
                hint="the words after -- are run as the app",
            ) from None
        except OSError as error:
            raise ConfigInvalid(f"cannot run '{command[0]}': {error.strerror}") from None

    async def wait(self) -> int:
        """The exit code as in a shell: 128 + N for a child that signal N ended."""
        return exit_code(await self._process.wait())

    async def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Terminate it, kill it after `grace` seconds, and return when it has ended."""
        if self._process.returncode is not None:
            return
        try:
            self._process.terminate()
            async with asyncio.timeout(grace):
                await self._process.wait()
        except ProcessLookupError:
            pass
        except TimeoutError:
            self._process.kill()
        await self._process.wait()
