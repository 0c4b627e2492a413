"""The inspector's port on loopback, which is taken before anything is served there: `devroute up` shows the
link when it is online, and what serves it is loaded for the first browser (pages/lazy_server.py).
"""

import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol

from devroute.errors import ConfigInvalid, DevrouteError
from devroute.inspector.access import AccessControl
from devroute.inspector.inspection import Inspection
from devroute.inspector.state import InspectorState
from devroute.pages.lazy_server import LazyServer
from devroute.platforms import listen

HOST: Final = "127.0.0.1"
PORT: Final = 4040
#: Ports that are tried, PORT first: one for each `devroute up` on the laptop.
PORTS: Final = 10


class InspectorReporter(Protocol):
    """Shows the inspector's link in the terminal."""

    def inspector(self, url: str) -> None:
        """The previous link was used; this is the next one."""

    def no_inspector(self, error: DevrouteError) -> None: ...


class InspectorPort:
    """The `url` of `access` opens the inspector once it is started. On `port`, else on that of last time or
    the first free one from PORT on. `renewed` gets the next URL when one has been used. Raises ConfigInvalid
    where no port is free."""

    def __init__(
        self,
        inspection: Inspection,
        renewed: Callable[[str], None],
        port: int | None = None,
        state: InspectorState | None = None,
    ) -> None:
        state = state or InspectorState()
        self.access = AccessControl(0, renewed, state.secret())
        listening = _listen(state.ports(range(PORT, PORT + PORTS)) if port is None else [port])
        self.access.port = listening.getsockname()[1]
        self._server = LazyServer(
            listening,
            "devroute.inspector.server",
            lambda server: server.create_runner(inspection, self.access),
        )
        state.used(self.access.port)

    def start(self) -> None:
        """Serve page and API from now on."""
        self._server.start()

    async def close(self) -> None:
        await self._server.close()


@asynccontextmanager
async def taken_as_configured(
    inspection: Inspection | None,
    wanted: bool | int,
    reporter: InspectorReporter,
    state: InspectorState | None = None,
) -> AsyncIterator[InspectorPort | None]:
    """The inspector as the settings define it, not started yet: on port `wanted`, on the first free one
    (True), or none (False). With True, a lack of free ports is reported, and `devroute up` continues."""
    opened = None
    if inspection is not None and wanted is not False:
        port = None if wanted is True else wanted
        try:
            opened = InspectorPort(inspection, reporter.inspector, port, state)
        except ConfigInvalid as error:
            if port is not None:
                raise
            reporter.no_inspector(error)
    try:
        yield opened
    finally:
        if opened is not None:
            await opened.close()


def _listen(ports: Sequence[int]) -> socket.socket:
    for port in ports:
        with suppress(OSError):
            return listen(HOST, port)
    raise ConfigInvalid(
        f"inspector: port {ports[0]} is in use"
        if len(ports) == 1
        else f"inspector: ports {min(ports)} to {max(ports)} are in use",
        hint="choose another port with inspector: PORT, or turn it off with inspector: false",
    )
