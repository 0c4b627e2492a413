"""The running `devroute up` of this user, and its inspector, by the control API (docs/control-api.md)."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from devroute.agent.control import client
from devroute.agent.control.running import Running, all_running
from devroute.errors import ConfigInvalid, NotFound

_API: Final = "/v1/inspector/api/"


async def running_laptop(state_folder: Path | None, name: str | None = None) -> Running:
    """The one that runs, or the one of this name. Raises NotFound, and ConfigInvalid where there are more."""
    running = await asyncio.to_thread(all_running, state_folder)
    if name is not None:
        running = [each for each in running if each.name == name]
    if not running:
        named = "" if name is None else f" as '{name}'"
        raise NotFound(
            f"no devroute up of yours runs on this machine{named}", hint="start it: devroute up SERVICE=PORT"
        )
    if len(running) > 1:
        names = ", ".join(each.name for each in running)
        raise ConfigInvalid(
            f"{len(running)} devroute up of yours run: {names}", hint="name one: devroute mcp --laptop NAME"
        )
    return running[0]


@dataclass(frozen=True, slots=True)
class Inspector:
    """Every request raises the error in the response, ServerUnreachable if `devroute up` has ended, and
    NotFound if it has no inspector."""

    of: Running

    async def ask(self, path: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The JSON object at a path of the API, such as exchanges/1."""
        return await self._request("GET", _with(path, query))

    async def send(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        return await self._request("POST", path, document)

    async def data(self, path: str, query: Mapping[str, str]) -> bytes:
        return await asyncio.to_thread(client.data, self.of, _API + _with(path, query))

    async def _request(
        self, method: str, path: str, document: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        try:
            return await asyncio.to_thread(client.request, self.of, method, _API + path, document)
        except NotFound:
            if path != "status":
                await self._check()
            raise

    async def _check(self) -> None:
        """Raises NotFound where there is no inspector, for any path."""
        try:
            await self.ask("status")
        except NotFound:
            raise NotFound(
                f"the devroute up of '{self.of.name}' has no inspector",
                hint="start it without inspector: off",
            ) from None


def _with(path: str, query: Mapping[str, str] | None) -> str:
    return f"{path}?{urlencode(query)}" if query else path
