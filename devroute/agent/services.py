"""The services that a `devroute up` serves, of which some are added and taken away while it runs.

Owns the upstreams of their apps. link_keeper.py offers each change to the server by a new link; the app of a
service that was taken away is closed once the links that offered it have ended.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any, Final, Literal

from devroute.agent.link_keeper import LinkKeeper
from devroute.contract.service_spec import MAX_SERVICES, ServiceSpec
from devroute.errors import LastService, NameTaken, NotFound, RequestMalformed, ServerUnreachable
from devroute.inspector.recorder import App
from devroute.tasks import TaskOwner
from devroute.tunnel.agent_link import AgentLink
from devroute.upstream.local_app import load_for

Change = Literal["added", "removed"]

#: Seconds for which an app that was taken away stays connected for the requests that are open.
CLOSE_SECONDS: Final = 3600.0


class Services:
    """`specs`: those that are served now, by name. `make(spec)` makes an app's upstream, which is put into
    `upstreams`; `changed(what, specs)` is awaited after each change."""

    def __init__(
        self,
        specs: Sequence[ServiceSpec],
        make: Callable[[ServiceSpec], App],
        changed: Callable[[Change, Sequence[ServiceSpec]], Awaitable[None]],
    ) -> None:
        self.specs = {spec.service: spec for spec in specs}
        self.upstreams = {spec.service: make(spec) for spec in specs}
        self.added: set[str] = set()  # while it runs
        self._make = make
        self._changed = changed
        self._lock = asyncio.Lock()
        self._tasks = TaskOwner()

    async def add(self, keeper: LinkKeeper, specs: Sequence[ServiceSpec]) -> None:
        """Serve these, too. Raises NameTaken for one that is served already, or why the server refuses them;
        then none is served."""
        async with self._lock:
            for spec in specs:
                if (present := self.specs.get(spec.service)) is not None:
                    raise NameTaken(
                        f"this devroute up serves '{spec.service}' already, from {present.place}",
                        hint="take it away first, or start another devroute up with --takeover",
                    )
            if len(self.specs) + len(specs) > MAX_SERVICES:
                raise RequestMalformed(f"at most {MAX_SERVICES} services are allowed")
            await load_for(specs)
            apps = {spec.service: self._make(spec) for spec in specs}
            self.upstreams.update(apps)  # requests come with the new link
            try:
                await keeper.offer([*self.specs.values(), *specs])
            except BaseException:
                for service, app in apps.items():
                    del self.upstreams[service]
                    await app.close()
                raise
            self.specs.update({spec.service: spec for spec in specs})
            self.added.update(apps)
            await self._changed("added", specs)

    async def remove(self, keeper: LinkKeeper, services: Collection[str]) -> None:
        """Serve these no longer; their requests that are open go on. Without a tunnel, the next one is made
        without them. Raises NotFound, and LastService where none would be left."""
        async with self._lock:
            for service in services:
                if service not in self.specs:
                    served = ", ".join(sorted(self.specs))
                    raise NotFound(f"'{service}' is not served", hint=f"this devroute up serves {served}")
            left = [spec for service, spec in self.specs.items() if service not in services]
            if not left:
                raise LastService("a devroute up without services has nothing to do")
            before = keeper.links
            try:
                await keeper.offer(left)
            except ServerUnreachable:
                keeper.registrar.offer(left)
            gone = [self.specs.pop(service) for service in services]
            for spec in gone:
                self.added.discard(spec.service)
                self._tasks.start(_close_after(before, self.upstreams.pop(spec.service)))
            await self._changed("removed", gone)

    def as_json(self, listening: Collection[str]) -> list[dict[str, Any]]:
        """`listening`: those whose app has accepted a connection."""
        return [
            {
                **spec.as_json(),
                "added": spec.service in self.added,
                "listening": None if spec.direct else spec.service in listening,
            }
            for spec in self.specs.values()
        ]

    def taken_over(self, services: Collection[str]) -> None:
        """Another process has these services now."""
        for service in services:
            self.specs.pop(service, None)
            self.added.discard(service)

    async def close(self) -> None:
        await self._tasks.close()
        for app in self.upstreams.values():
            await app.close()


async def _close_after(links: Sequence[AgentLink], app: App) -> None:
    try:
        if links:
            await asyncio.wait([link.close_reason for link in links], timeout=CLOSE_SECONDS)
    finally:
        await app.close()
