"""Decides when a `devroute up` is ready: at once when it is online or, with --wait, once its apps listen,
too.

Owns the time that this may take, and reports it to the command that started it in the background.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from devroute.agent.app_watch import AppWatch
from devroute.agent.second_link import Held
from devroute.contract.service_spec import ServiceSpec
from devroute.errors import AppNotListening, DevrouteError, ServerUnreachable
from devroute.tasks import TaskOwner

#: What to do about an app that does not listen; and about one that this process has started.
START_IT: Final = "start it, or let devroute up start it: devroute up b=8001 -- COMMAND"
_STARTED: Final = "it runs: does it listen at another address, or does it take longer (--timeout SECONDS)?"

#: Between two attempts to reach a server that may be starting, in seconds.
PAUSE_SECONDS: Final = 0.5


class Readiness:
    """`wait`: seconds for server and apps, None where neither is waited for. `ready(status)` is called once,
    with what the control API says."""

    def __init__(
        self, wait: float | None = None, ready: Callable[[Mapping[str, Any]], None] = lambda status: None
    ) -> None:
        self._wait = wait
        self._ready = ready
        self._deadline = 0.0
        #: About an app that does not listen in time.
        self.hint = START_IT
        self._tasks = TaskOwner()

    def app_started(self, log: Path | None) -> None:
        """By this process; `log` is the file of its output, None where that is a terminal's."""
        self.hint = _STARTED if log is None else f"{_STARTED} Its output is in {log}"

    async def first(self, dial: Callable[[], Awaitable[Held]]) -> Held:
        """The first link. With `wait`, a server that cannot be reached is tried again. Raises as `dial`."""
        clock = asyncio.get_running_loop().time
        self._deadline = clock() + (self._wait or 0.0)
        while True:
            try:
                return await dial()
            except ServerUnreachable:
                if clock() + PAUSE_SECONDS >= self._deadline:
                    raise
            await asyncio.sleep(PAUSE_SECONDS)

    def start(
        self,
        services: Sequence[ServiceSpec],
        watch: AppWatch,
        status: Callable[[], Mapping[str, Any]],
        failed: Callable[[DevrouteError], None],
    ) -> None:
        """It is online; `watch` looks for the apps. `failed` gets AppNotListening if they take too long."""
        if self._wait is None:
            self._ready(status())
        else:
            self._tasks.start(self._until_all_listen(services, watch, status, failed))

    async def _until_all_listen(
        self,
        services: Sequence[ServiceSpec],
        watch: AppWatch,
        status: Callable[[], Mapping[str, Any]],
        failed: Callable[[DevrouteError], None],
    ) -> None:
        try:
            async with asyncio.timeout_at(self._deadline):
                await watch.all_listen()
        except TimeoutError:
            missing = [f"'{each.service}' at {each.place}" for each in services if not watch.listens(each)]
            failed(
                AppNotListening(
                    f"the app of {' and '.join(missing)} did not listen within {self._wait:g} s",
                    hint=self.hint,
                )
            )
        else:
            self._ready(status())

    async def close(self) -> None:
        await self._tasks.close()
