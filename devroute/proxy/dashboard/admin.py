"""What administrators may do: end registrations, and block subjects for a time, on all replicas. Each action
is written to the audit trail; everyone else gets AdminRequired."""

import time
from collections.abc import Callable
from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from devroute.auth.blocks import MAX_REASON, MAX_SECONDS, MIN_SECONDS, Blocks
from devroute.auth.identity import Identity
from devroute.contract.target import Malformed, check_subject
from devroute.errors import AdminRequired, NotFound, RegistrationEnded, RequestMalformed
from devroute.policy.policy import Policy
from devroute.proxy.control.tunnels import Tunnels
from devroute.proxy.dashboard.access import Access
from devroute.proxy.dashboard.links import end_blocked
from devroute.proxy.dashboard.shared import SharedTeam
from devroute.proxy.telemetry.audit_events import RecordEvent, refusal_fields


class _Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    reason: Annotated[str, Field(max_length=MAX_REASON)] = ""


class _BlockWanted(_Wanted):
    seconds: Annotated[int, Field(ge=MIN_SECONDS, le=MAX_SECONDS)]


class Admin:
    """The handlers of the API for administrators. `policy()` is the one in force."""

    def __init__(
        self,
        access: Access,
        policy: Callable[[], Policy],
        tunnels: Tunnels,
        blocks: Blocks,
        shared: SharedTeam,
        record: RecordEvent,
    ) -> None:
        self._access = access
        self._policy = policy
        self._tunnels = tunnels
        self._blocks = blocks
        self._record = record
        self._shared = shared

    def routes(self) -> list[web.RouteDef]:
        return [
            web.delete("/api/laptops/{name}", self.end),
            web.get("/api/blocks", self.blocks),
            web.put("/api/blocks/{subject}", self.block),
            web.delete("/api/blocks/{subject}", self.unblock),
        ]

    def may(self, identity: Identity) -> bool:
        return self._policy().is_admin(identity.subject, identity.groups)

    async def _authorise(self, request: web.Request, *, changes: bool) -> Identity:
        identity = await self._access.identify(request, changes=changes)
        try:
            self._policy().permit_admin(identity.subject, identity.groups)
        except AdminRequired as error:
            fields = refusal_fields(error, subject=identity.subject, peer=request.remote)
            self._record("refusal", at="api", **fields)
            raise
        return identity

    async def end(self, request: web.Request) -> web.Response:
        """DELETE /api/laptops/NAME?generation=N: end a process of a laptop; all of them without
        `generation`."""
        identity = await self._authorise(request, changes=True)
        reason = (await _read(request, _Wanted)).reason
        name, wanted = request.match_info["name"], request.query.get("generation")
        links = self._tunnels.registry.processes(name)
        ended = {each.process for each in links if wanted in (None, str(each.generation))}
        found = [each for each in links if each.process in ended]
        if not found:
            raise NotFound(f"laptop '{name}' is not online" + ("" if wanted is None else " by that process"))
        why = f": {reason}" if reason else ""
        for each in found:
            each.link.reject(RegistrationEnded(f"'{identity.subject}' has ended this registration{why}"))
        self._recorded(request, identity, "end", found[0].subject, reason, laptop=name)
        return web.json_response({"ended": len(ended)})

    async def blocks(self, request: web.Request) -> web.Response:
        """GET /api/blocks: the subjects that are blocked."""
        await self._authorise(request, changes=False)
        return web.json_response({"blocks": [each.as_dict() for each in self._blocks.current(time.time())]})

    async def block(self, request: web.Request) -> web.Response:
        """PUT /api/blocks/SUBJECT, with `seconds` and `reason`: its tokens are refused, and its laptops and
        pages end. `laptops`: how many of its processes were online, at all replicas; none may mean that the
        name is mistyped."""
        identity = await self._authorise(request, changes=True)
        subject, wanted = _subject(request), await _read(request, _BlockWanted)
        laptops = sum(each.get("subject") == subject for each in self._tunnels.registry.listing())
        if subject == identity.subject:
            raise RequestMalformed("you would lock yourself out", hint="another administrator can block you")
        block = self._blocks.add(subject, wanted.seconds, identity.subject, wanted.reason, time.time())
        end_blocked(self._tunnels, block)
        self._shared.spread_blocks()
        self._recorded(request, identity, "block", subject, wanted.reason, until=block.ends)
        return web.json_response(block.as_dict() | {"laptops": laptops})

    async def unblock(self, request: web.Request) -> web.Response:
        """DELETE /api/blocks/SUBJECT"""
        identity = await self._authorise(request, changes=True)
        subject = _subject(request)
        if self._blocks.lift(subject, identity.subject, time.time()) is None:
            raise NotFound(f"'{subject}' is not blocked")
        self._shared.spread_blocks()
        self._recorded(request, identity, "unblock", subject, "")
        return web.json_response({})

    def _recorded(
        self, request: web.Request, by: Identity, action: str, of: str, reason: str, **more: Any
    ) -> None:
        fields = {"laptop": None, "until": None, **more}
        self._record(
            "admin",
            subject=by.subject,
            action=action,
            affected=of,
            reason=reason,
            peer=request.remote,
            **fields,
        )


def _subject(request: web.Request) -> str:
    """Raises RequestMalformed."""
    try:
        return check_subject(request.match_info["subject"])
    except Malformed as problem:
        raise RequestMalformed(f"the subject: {problem}") from None


async def _read(request: web.Request, model: type[Any]) -> Any:
    """The request's JSON; an empty body is `{}`. Raises RequestMalformed."""
    raw = await request.read()
    try:
        return model.model_validate_json(raw or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise RequestMalformed(f"the body: {place + ': ' if place else ''}{first['msg']}") from None
