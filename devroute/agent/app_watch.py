"""Watches whether the app of each service listens: reports one that does not, and once more when it does.

Opens a connection and closes it, until one is accepted; then never again.
"""

import asyncio
import socket
from collections.abc import Callable, Sequence
from typing import Final

from devroute.contract.service_spec import ServiceSpec
from devroute.tasks import TaskOwner
from devroute.upstream.dialer import connect_first

#: Between two attempts, and for one of them, in seconds.
PAUSE_SECONDS: Final = 0.5
CONNECT_SECONDS: Final = 2.0
#: How long an app that `devroute up` itself starts may take before it is reported, in seconds.
START_SECONDS: Final = 10.0


class AppWatch:
    """`report(spec, problem)` gets what an app lacks to be connected to, and None once it can be."""

    def __init__(
        self, services: Sequence[ServiceSpec], report: Callable[[ServiceSpec, str | None], None]
    ) -> None:
        self._services = services
        self._report = report
        self._tasks = TaskOwner()
        self._watched: dict[str, asyncio.Task[None]] = {}
        #: Services whose app has accepted a connection.
        self.listening: set[str] = set()

    def start(self, patience: float) -> None:
        """Report what does not listen within `patience` seconds. Apps that the mesh reaches directly are not
        looked at: they may listen on that address alone."""
        for spec in self._services:
            self.add(spec, patience)

    def add(self, spec: ServiceSpec, patience: float = 0.0) -> None:
        """The same for one."""
        if spec.direct is None:
            self._watched[spec.service] = self._tasks.start(self._watch(spec, patience))

    def remove(self, service: str) -> None:
        self.listening.discard(service)
        if (watching := self._watched.pop(service, None)) is not None:
            watching.cancel()

    def listens(self, spec: ServiceSpec) -> bool:
        """Whether its app has accepted a connection, or is not looked at."""
        return spec.direct is not None or spec.service in self.listening

    async def all_listen(self) -> None:
        """Return once every app that is looked at has accepted a connection."""
        if self._watched:
            await asyncio.wait(list(self._watched.values()))

    async def close(self) -> None:
        await self._tasks.close()

    async def _watch(self, spec: ServiceSpec, patience: float) -> None:
        clock = asyncio.get_running_loop().time
        deadline, reported = clock() + patience, False
        while (problem := await _problem(spec)) is not None:
            if not reported and clock() >= deadline:
                reported = True
                self._report(spec, problem)
            await asyncio.sleep(PAUSE_SECONDS)
        self.listening.add(spec.service)
        if reported:
            self._report(spec, None)


async def _problem(spec: ServiceSpec) -> str | None:
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            sock = await connect_first(spec.host, spec.port)
    except socket.gaierror:
        return "is a name that does not resolve"
    except TimeoutError:
        return "does not accept connections"
    except OSError:
        return "does not listen"
    sock.close()
    return None
