"""The control port's API for people and the CLI, by aiohttp; loaded for its first client
(pages/lazy_server.py).

Owns the form of the responses. Decides nothing and knows no sockets: proxy/app.py listens.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import asdict, replace
from typing import Final

from aiohttp import web

from devroute import __version__
from devroute.auth.identity import Identity
from devroute.contract.name import SIGN
from devroute.errors import BodyTooLarge, DevrouteError, NotFound, RequestMalformed
from devroute.policy.rules import written_ports
from devroute.proxy.control.contract_store import LocalContracts
from devroute.proxy.control.contracts import ContractsApi
from devroute.proxy.control.control import PORT, Control
from devroute.proxy.control.http import error_response, failure, peer_certificate, sent, shared_routes
from devroute.proxy.control.sidecars import sidecar_routes
from devroute.proxy.ports.limits import MAX_BODY_BYTES, REQUEST_SECONDS
from devroute.proxy.ports.routes import no_such_path, not_allowed
from devroute.proxy.telemetry.audit_events import refusal_fields
from devroute.routing.trace import Hop, Reports, is_trace_id

#: Paths whose responses last as long as the client reads them.
STREAMS: Final = ("/dashboard/events",)


class Api:
    """The handlers."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def trace(self, request: web.Request) -> web.Response:
        """GET /api/traces/ID: the hops that were reported, and the services whose sidecars are known. Raises
        RequestMalformed."""
        await self.authorise(request)
        trace_id, others = request.match_info["id"], list[Reports]()
        if not is_trace_id(trace_id):  # it is about to stand in the head of a request to other replicas
            raise RequestMalformed("a trace's id is 32 hexadecimal digits in lower case")
        self._control.traces.announce(trace_id, time.monotonic())
        if self._control.shared_reports is not None:
            others = await self._control.shared_reports.traces(trace_id)
        hops = self._control.traces.hops(trace_id, time.monotonic(), others)
        services = {*self._control.services, *(name for each in others for name in each.services)}
        expanded = [self._expanded(hop) for hop in hops]
        return web.json_response({"hops": [asdict(hop) for hop in expanded], "services": sorted(services)})

    def _expanded(self, hop: Hop) -> Hop:
        """With what a name stands for, so that clients know the services and targets."""
        name = hop.contract.removeprefix(SIGN)
        found = self._control.names.get(name, self._control.clock()) if name != hop.contract else None
        return hop if found is None else replace(hop, stands_for=found.text)

    async def laptops(self, request: web.Request) -> web.Response:
        """GET /api/laptops: the laptops that are online, with their services."""
        await self.authorise(request)
        return web.json_response({"laptops": list(self._control.directory.listing())})

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/status: version, policy and uptime; `you` is the token's subject."""
        identity = await self.authorise(request)
        policy, who = self._control.policy(), (identity.subject, identity.groups)
        expires_in = identity.expires_in(time.time())
        return web.json_response(
            {
                "version": __version__,
                "you": identity.subject,
                "groups": sorted(identity.groups),
                "token_expires_s": None if expires_in is None else round(expires_in),
                "uptime_s": round(time.monotonic() - self._control.started, 1),
                "laptops": self._control.directory.count(),
                **self._control.replicas(),
                "policy": {
                    "networks": [str(network) for network in policy.networks],
                    "ports": written_ports(policy.ports),
                    "services": list(policy.services),
                    "signed_contracts_only": policy.require_signed,
                },
                "you_may_register": list(policy.may_register(*who)),
                "you_may_reach": [rule.permitted() for rule in policy.may_reach(*who)],
                "entries": dict(self._control.entries),
            }
        )

    async def login_settings(self, request: web.Request) -> web.Response:
        """GET /api/login: how `devroute login` gets a token, for everyone. Raises NotFound."""
        if self._control.login is None:
            raise NotFound(
                "this server has no login", hint="ask the platform team for a token, or for oidc_client_id"
            )
        return web.json_response(self._control.login)

    def _refused(self, at: str, error: DevrouteError, request: web.Request) -> None:
        self._control.record("refusal", at=at, **refusal_fields(error, peer=request.remote))

    async def authorise(self, request: web.Request) -> Identity:
        """Raises what is wrong with the token, once that is in the audit trail."""
        try:
            return await self._control.authenticate(
                request.headers.get("authorization", ""), peer_certificate(request)
            )
        except DevrouteError as error:
            self._refused("api", error, request)
            raise


def create_app(control: Control, more: Iterable[web.RouteDef] = ()) -> web.Application:
    """`more`: routes beside the API's own and those of sidecars."""
    api = Api(control)
    app = web.Application(middlewares=[errors_as_json], client_max_size=MAX_BODY_BYTES)
    app.router.add_routes(more)
    app.router.add_routes(shared_routes(sidecar_routes(control)))
    app.router.add_get("/api/traces/{id}", api.trace)
    app.router.add_get("/api/laptops", api.laptops)
    app.router.add_get("/api/status", api.status)
    app.router.add_get("/api/login", api.login_settings)
    ContractsApi(
        control.names,
        control.contracts or LocalContracts(control.names, control.clock),
        control.policy,
        control.read,
        api.authorise,
        control.record,
        control.clock,
    ).add_routes(app.router)
    return app


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The only place of this application where errors become responses."""
    try:
        async with asyncio.timeout(None if request.path in STREAMS else REQUEST_SECONDS):
            return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        return sent(not_allowed(request.method, request.path, error.allowed_methods))
    except web.HTTPNotFound:
        return error_response(no_such_path(request.path, PORT))
    except web.HTTPRequestEntityTooLarge:
        return error_response(BodyTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes"), close=True)
    except web.HTTPException:
        raise
    except Exception as error:  # noqa: BLE001  # `failure` logs it
        return failure(error, request.path)
