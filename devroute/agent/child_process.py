"""The app as a child process of `devroute up`. It shares the terminal, so that a debugger works in it and a
Ctrl-C reaches it directly; all that it has started ends with it. Knows nothing of tunnels.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import IO, Any, Final

from devroute.agent.process_group import POLL_SECONDS, ProcessGroup, new_group
from devroute.errors import ConfigInvalid
from devroute.platforms import exit_code, runnable
from devroute.tasks import TaskOwner, ends_within

#: The variable with the token.
TOKEN_VARIABLE: Final = "DEVROUTE_TOKEN"

#: Seconds between SIGTERM and SIGKILL: less than the 10 s of docker stop.
GRACE_SECONDS: Final = 5.0
#: Seconds for what is killed to end; the kernel may keep one that waits for a device.
KILL_SECONDS: Final = 2.0


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
    """The command, and `group` of all that it starts."""

    def __init__(self, process: asyncio.subprocess.Process, group: ProcessGroup) -> None:
        self._process = process
        self._group = group

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        output: IO[bytes] | None = None,
        variables: Mapping[str, str] = MappingProxyType({}),
    ) -> "ChildProcess":
        """`output` takes what it writes to standard output; None: this process' own. `variables`: of its
        environment, besides this process' own. Raises ConfigInvalid if the command cannot be run. If it is
        cancelled, what has started meanwhile ends first."""
        name, hint = f"cannot run '{command[0]}'", "the words after -- are run as the app"
        group = new_group()
        env = environment() | dict(variables)
        creation = start_process(name, command, hint, env=env, stdout=output, **group.options())
        owner = TaskOwner()
        starting = owner.start(creation)
        try:
            # Cancelled itself, asyncio would kill the command alone, and leave what it has started by then.
            process = await asyncio.shield(starting)
        except asyncio.CancelledError:
            process = await starting
            group.started(process)
            await cls(process, group).stop()
            raise
        group.started(process)
        return cls(process, group)

    async def wait(self) -> int:
        """The exit code as in a shell: 128 + N for a child that signal N ended."""
        return exit_code(await self._process.wait())

    async def stop(self, grace: float = GRACE_SECONDS) -> None:
        """Terminate it and what it has started, kill what is left after `grace` seconds, and return when all
        have ended."""
        group = self._group
        group.terminate()
        if not await ends_within(self._ended(), grace):
            await ends_within(self._ended(group.kill), KILL_SECONDS)
        await self._process.wait()

    async def _ended(self, each_time: Callable[[], object] = lambda: None) -> None:
        while self._group.alive():  # no event announces the end of another one's child
            each_time()
            await asyncio.sleep(POLL_SECONDS)
