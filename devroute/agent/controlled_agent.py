"""The state and actions of a `devroute up` that its control API (agent/control) gives to other processes of
the same user.
"""

import os
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devroute.agent.app_watch import AppWatch
from devroute.agent.control.port import ControlPort
from devroute.agent.control.running import identity_of
from devroute.agent.invitation import Invitation, invitation
from devroute.agent.link_keeper import LinkKeeper
from devroute.agent.services import Change, Services
from devroute.agent.settings import AgentSettings
from devroute.agent.ui.fan_out import FanOut
from devroute.contract.service_spec import ServiceSpec
from devroute.inspector.inspection import About, Inspection
from devroute.inspector.port import InspectorPort
from devroute.platforms import shell_in_use
from devroute.tunnel.protocol.handshake import Welcome

if TYPE_CHECKING:
    from devroute.agent.reach.laptop_reach import LaptopReach


@dataclass(eq=False)
class ControlledAgent:
    """Implements devroute.agent.control.api.Controlled. `end()` ends the process as SIGTERM does. `inspector`
    is None where there is none; `log` the file of its output if it is detached."""

    settings: AgentSettings
    reporters: FanOut
    services: Services
    keeper: LinkKeeper
    watch: AppWatch
    about: About
    inspection: Inspection | None
    end: Callable[[], None]
    reach: "LaptopReach | None" = None
    inspector: InspectorPort | None = None
    log: Path | None = None
    contract: str = ""
    started: float = field(default_factory=lambda: round(time.time(), 3))  # seconds since the epoch
    _welcome: Welcome | None = None
    _port: ControlPort | None = None

    def open(self, state_folder: Path | None) -> None:
        """Serve the inspector and, unless there is no `state_folder`, be found by others: once online."""
        if self.inspector is not None:
            self.inspector.start()
        if state_folder is not None:
            self._port = ControlPort(self, state_folder)
            problem = self._port.start(identity_of(self.settings), self.settings.name)
            if problem:
                self.reporters.no_control(problem)

    async def close(self) -> None:
        if self._port is not None:
            await self._port.close()

    def invite(self, welcome: Welcome) -> Invitation:
        """How to send requests to what is served now; the inspector shows it, too."""
        served, about = list(self.services.specs.values()), self.about
        invited = invitation(welcome, served, shell_in_use())
        about.services = {spec.service: spec.url for spec in served}
        about.name, about.entries = welcome.name, welcome.entries
        about.command, about.link = invited.command, invited.link
        self._welcome, self.contract = welcome, invited.contract
        return invited

    def status(self) -> dict[str, Any]:
        """What the control API shows of this process."""
        about = self.about
        return {
            "pid": os.getpid(),
            "started": self.started,
            "log": None if self.log is None else str(self.log),
            "name": about.name,
            "server": self.settings.server,
            "online": self.keeper.online,
            "links": len(self.keeper.links),
            "services": self.services.as_json(self.watch.listening),
            "reach": None if self.reach is None else self.reach.as_json(),
            "contract": self.contract,
            "curl": about.command,
            "link": about.link,
            "inspector": None
            if self.inspector is None
            else f"http://127.0.0.1:{self.inspector.access.port}/",
        }

    def status_with_link(self) -> dict[str, Any]:
        """The same with the link that opens the inspector, for the user who has started this process."""
        link = None if self.inspector is None else self.inspector.access.url
        return self.status() | {"inspector": link}

    async def add(self, specs: Sequence[ServiceSpec]) -> None:
        await self.services.add(self.keeper, specs)

    async def remove(self, services: Collection[str]) -> None:
        await self.services.remove(self.keeper, services)

    def stop(self) -> None:
        self.end()

    async def changed(self, what: Change, specs: Sequence[ServiceSpec]) -> None:
        """These have been added or removed."""
        assert self._welcome is not None
        served = list(self.services.specs.values())
        if self.inspection is not None:
            await self.inspection.decoder.serve(served)
        for spec in specs:
            if what == "added":
                self.watch.add(spec)
            else:
                self.watch.remove(spec.service)
        self.reporters.changed(what, specs, served, self.invite(self._welcome))
