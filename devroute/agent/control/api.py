"""The requests of the control API, version 1, and the inspector's API below /v1/inspector.

docs/control-api.md describes them. server.py controls access, and turns each DevrouteError into a response.
"""

import asyncio
from collections.abc import Collection, Coroutine, Sequence
from typing import Any, Final, Protocol

from aiohttp import web

from devroute import __version__
from devroute.agent.control.follower import Follower
from devroute.agent.ui.fan_out import FanOut
from devroute.contract.service_spec import ServiceSpec
from devroute.contract.target import Malformed
from devroute.errors import DevrouteError, RequestMalformed, TooManyFollowers
from devroute.inspector.api import add_api
from devroute.inspector.api.body import json_object, truth
from devroute.inspector.inspection import Inspection
from devroute.quoting import quote
from devroute.tasks import TaskOwner, is_set_within

#: Of the paths; another one stands beside it if a request changes its meaning.
VERSION: Final = 1
#: Clients that follow events at a time.
MAX_FOLLOWERS: Final = 64
#: Seconds without an event after which an empty line is sent, so that both sides notice a broken connection.
QUIET_SECONDS: Final = 15.0
#: Lines are sent so many seconds after the first of them.
BATCH_SECONDS: Final = 0.05
#: Members of POST /v1/services.
_TO_ADD: Final = ("services", "follow")


class Controlled(Protocol):
    """A `devroute up`. `add` and `remove` change its services, and raise why they cannot."""

    reporters: FanOut
    inspection: Inspection | None

    def status(self) -> dict[str, Any]: ...
    async def add(self, specs: Sequence[ServiceSpec]) -> None: ...
    async def remove(self, services: Collection[str]) -> None: ...
    def stop(self) -> None: ...


class Api:
    def __init__(self, agent: Controlled) -> None:
        self._agent = agent
        self._followers: set[Follower] = set()
        self._changes = TaskOwner()  # of services; they go on when their client leaves
        self._closing = asyncio.Event()

    def add_to(self, app: web.Application) -> None:
        app.router.add_routes(
            [
                web.get("/v1", self.status),
                web.get("/v1/services", self.services),
                web.post("/v1/services", self.add),
                web.delete("/v1/services/{service}", self.remove),
                web.get("/v1/events", self.events),
                web.post("/v1/stop", self.stop),
            ]
        )
        if self._agent.inspection is not None:
            inspector = web.Application()
            add_api(inspector, self._agent.inspection)
            app.add_subapp("/v1/inspector", inspector)
        app.on_shutdown.append(self._end)

    async def _end(self, app: web.Application) -> None:
        self._closing.set()
        await self._changes.close()
        for follower in self._followers:
            follower.lines.close()

    # --- what runs

    async def status(self, request: web.Request) -> web.Response:
        """GET /v1"""
        return web.json_response({"version": VERSION, "devroute": __version__, **self._agent.status()})

    async def stop(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/stop: end as with SIGTERM. The response ends once everything else has ended."""
        response = web.StreamResponse(headers={"content-type": "application/json"})
        await response.prepare(request)
        await response.write(b'{"stopping": true}\n')
        self._agent.stop()
        await self._closing.wait()
        return response

    # --- services

    async def services(self, request: web.Request) -> web.Response:
        """GET /v1/services"""
        return web.json_response({"services": self._agent.status()["services"]})

    async def add(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/services {"services": ["c=8002"], "follow": false}. With `follow`, the response goes on
        with the events of these services, which are removed when the client closes the connection."""
        document = await json_object(request)
        if unknown := document.keys() - {*_TO_ADD}:
            known = " and ".join(_TO_ADD)
            raise RequestMalformed(f"there is no member {quote(min(unknown))}", hint=f"there are {known}")
        specs, follow = _specs(document), "follow" in document and truth(document, "follow")
        services = [spec.service for spec in specs]
        follower = self._follow(services) if follow else None
        adding = self._start(self._agent.add(specs))
        try:
            await asyncio.wait({adding})
            adding.result()
        except BaseException as error:
            if follower is not None:
                self._unfollow(follower)
            if isinstance(error, asyncio.CancelledError):  # the client has gone
                self._changes.start(self._take_back(adding, services))
            raise
        if follower is None:
            return web.json_response({"services": self._agent.status()["services"]}, status=201)
        try:
            return await self._send(request, follower, status=201)
        finally:
            self._changes.start(self._remove_quietly(services))

    def _start(self, change: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Cancelled half-way, it would leave this process and the server with different services."""
        task = self._changes.start(change)
        task.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # maybe no one waits
        return task

    async def _take_back(self, adding: "asyncio.Task[None]", services: list[str]) -> None:
        await asyncio.wait({adding})
        if not adding.cancelled() and adding.exception() is None:
            await self._remove_quietly(services)

    async def _remove_quietly(self, services: list[str]) -> None:
        """They may have been removed or taken over meanwhile."""
        for service in services:
            try:
                await self._agent.remove([service])
            except DevrouteError:
                continue

    async def remove(self, request: web.Request) -> web.Response:
        """DELETE /v1/services/SERVICE"""
        removing = self._start(self._agent.remove([request.match_info["service"]]))
        await asyncio.wait({removing})
        removing.result()
        return web.json_response({"services": self._agent.status()["services"]})

    # --- events

    async def events(self, request: web.Request) -> web.StreamResponse:
        """GET /v1/events, GET /v1/events?service=b&service=c"""
        return await self._send(request, self._follow(request.query.getall("service", None)))

    def _follow(self, services: Collection[str] | None) -> Follower:
        if len(self._followers) >= MAX_FOLLOWERS:
            raise TooManyFollowers(f"{MAX_FOLLOWERS} clients follow this devroute up already")
        follower = Follower(services)
        self._followers.add(follower)
        self._agent.reporters.add(follower)
        return follower

    def _unfollow(self, follower: Follower) -> None:
        self._agent.reporters.remove(follower)
        self._followers.discard(follower)

    async def _send(self, request: web.Request, follower: Follower, status: int = 200) -> web.StreamResponse:
        """Lines of JSON until the client or `devroute up` ends."""
        lines = follower.lines
        response = web.StreamResponse(status=status, headers={"content-type": "application/x-ndjson"})
        try:
            await response.prepare(request)
            while not lines.closed:
                if not await is_set_within(lines.awake, QUIET_SECONDS):
                    await response.write(b"\n")
                    continue
                if not lines.closed:
                    await asyncio.sleep(BATCH_SECONDS)
                await response.write(lines.take())
            await response.write(lines.take())  # what came just before the end
        except ConnectionError:
            pass  # the client has gone
        finally:
            self._unfollow(follower)
        return response


def _specs(document: dict[str, Any]) -> list[ServiceSpec]:
    """Raises RequestMalformed."""
    texts = document.get("services")
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        raise RequestMalformed('"services" has to be a list such as ["c=8002"]')
    try:
        specs = [ServiceSpec.parse(text) for text in texts]
    except Malformed as problem:
        raise RequestMalformed(str(problem)) from None
    if len({spec.service for spec in specs}) != len(specs):
        raise RequestMalformed("a service is given twice")
    return specs
