"""The app as a child process of `devroute up`. It shares the terminal, so that a debugger works in it and a
Ctrl-C reaches it directly. Knows nothing of tunnels.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Final

from devroute.errors import ConfigInvalid
from devroute.platforms import exit_code, runnable

#: The variable with the token.
TOKEN_VARIABLE: Final = "DEVROUTE_TOKEN"

#: Seconds between SIGTERM and SIGKILL: less than the 10 s of docker stop.
GRACE_SECONDS: Final = 5.0


def environment() -> dict[str, str]:
    """The environment of a child: without the token, which an app does not need and may print."""
    return {name: value for name, value in os.environ.items() if name.upper() != TOKEN_VARIABLE}


async def start_process(
    name: str, command: Sequence[str], hint: str = "", **options: Any
) -> asyncio.subprocess.Process:
    """Raises ConfigInvalid that begins with `name`. `hint`: where there is no such command."""
    try:
        return await asyncio.create_subprocess_exec(*runnable(command), **options)
    except FileNotFoundError:
        raise ConfigInvalid(f"{name}: there is no such command", hint=hint) from None
    except OSError as error:
        raise ConfigInvalid(f"{name}: {error.strerror}") from None


class ChildProcess:
    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, command: Sequence[str]) -> "ChildProcess":
        """Raises ConfigInvalid if the command cannot be run."""
        name, hint = f"cannot run '{command[0]}'", "the words after -- are run as the app"
        return cls(await start_process(name, command, hint, env=environment()))

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
