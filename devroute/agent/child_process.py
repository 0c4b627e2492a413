"""The app as a child of `devroute up`: started, waited for, ended. It shares our terminal, so that a debugger
in it works and a Ctrl-C reaches it by itself. Knows nothing of tunnels.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Final

from devroute.errors import ConfigInvalid
from devroute.platforms import exit_code, runnable

#: Our secret, as the environment has it.
TOKEN_VARIABLE: Final = "DEVROUTE_TOKEN"

#: Seconds between asking the app to end and killing it: below the 10 s of docker stop.
GRACE_SECONDS: Final = 5.0


def environment() -> dict[str, str]:
    """Ours for a child, without the token: an app has no need of it, and some print their environment."""
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
                hint="what stands after -- is run as the app",
            ) from None
        except OSError as error:
            raise ConfigInvalid(f"cannot run '{command[0]}': {error.strerror}") from None

    async def wait(self) -> int:
        """The exit code, as a shell gives it: 128 + N for a child that signal N ended."""
        return exit_code(await self._process.wait())

    async def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Ask it to end, kill it if it does not within `grace` seconds, and return when it has."""
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
