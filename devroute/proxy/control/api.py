"""The control port's HTTP application: /resolve for sidecars, /contract for gateways, /api for people and the
CLI.

Owns the form of the responses. Decides nothing (routing/decision.py does) and knows no sockets: proxy/app.py
listens, and proxy/control/listener.py takes GET /tunnel before it gets here.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Final, Protocol

import structlog
from aiohttp import web

from devroute import __version__, headers
from devroute.auth.identity import Authenticate, Identity
from devroute.contract.grammar import Contract, parse
from devroute.contract.mesh_identity import sender_namespace
from devroute.contract.name import SIGN
from devroute.contract.target import Address
from devroute.errors import (
    BodyTooLarge,
    ConnectionUsed,
    DevrouteError,
    MethodNotAllowed,
    NotFound,
    RequestMalformed,
    RequestTimeout,
    TargetUnreachable,
)
from devroute.policy.policy import Policy
from devroute.policy.rules import written_ports
from devroute.proxy.control.contracts import ContractsApi, ContractStore, LocalContracts
from devroute.proxy.control.http import MAX_BODY_BYTES, REQUEST_SECONDS, error_response, peer_certificate
from devroute.proxy.telemetry.audit_events import REFUSAL_STATUSES, RecordEvent, discard_event, refusal_fields
from devroute.routing.contract_report import report_contract
from devroute.routing.decision import TTL_MS, Decision, Directory, decide
from devroute.routing.named_contracts import NamedContracts
from devroute.routing.resolve_codec import encode
from devroute.routing.shadow.assignment import Assignment, assign_shadow_traffic
from devroute.routing.shadow.comparison import ID_LENGTH, parse_service_response
from devroute.routing.shadow.traffic import ShadowTraffic
from devroute.routing.trace import Hop, KnownServices, Reports, Traces, is_trace_id, split_names

log = structlog.stdlib.get_logger("devroute.control")


class Listing(Directory, Protocol):
    """The laptops that are online, for the sidecars and for people."""

    def listing(self) -> Sequence[Mapping[str, object]]:
        """A JSON object for each laptop. The registry chooses its keys; one is `name`."""

    def count(self) -> int:
        """How many objects `listing` has."""


class SharedReports(Protocol):
    """Reports of sidecars that have reached other replicas, or are for them (replicas/reports.py)."""

    async def traces(self, trace_id: str) -> list[Reports]:
        """What the other replicas know of a trace."""

    def pass_on(self, key: str) -> None:
        """A service's response has been reported here, and the copy of its request is not known here."""


#: Paths whose responses last as long as the client reads them.
STREAMS: Final = ("/dashboard/events",)

#: Connects to a direct target for a service: an IP address, or a name whose addresses policy has to permit.
#: Raises TargetUnreachable or TargetDenied.
Probe = Callable[[Address, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Control:
    """What the application depends on. `policy()` is called for each request, so that a reload takes effect;
    `probe` may take `probe_timeout` seconds. `resolved` is called with each decision and its duration.
    `names` are the saved contracts, `contracts` changes them; `read` reads contracts, also by those names.
    `entries`: the entry URLs by name."""

    directory: Listing
    policy: Callable[[], Policy]
    authenticate: Authenticate
    probe: Probe
    probe_timeout: float
    traces: Traces = field(default_factory=Traces)
    services: KnownServices = field(default_factory=KnownServices)
    shadow: ShadowTraffic = field(default_factory=lambda: ShadowTraffic(time.monotonic))
    read: Callable[[str], Contract] = parse
    record: RecordEvent = discard_event
    names: NamedContracts = field(default_factory=NamedContracts)
    contracts: ContractStore | None = None
    shared_reports: SharedReports | None = None
    replicas: Callable[[], Mapping[str, object]] = dict
    clock: Callable[[], float] = time.time
    resolved: Callable[[Decision | Assignment, float], None] = lambda resolved, seconds: None
    #: What GET /api/login responds with; None if there is no login.
    login: Mapping[str, object] | None = None
    entries: Mapping[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    async def resolve(self, request: web.Request) -> web.Response:
        """GET /resolve: the decision for one contract at one service (routing/SIDECAR.md has its format);
        without a contract, which laptops get shadow traffic of the service (routing/shadow/assignment.py)."""
        started = time.monotonic()
        resolved = await self._resolved(request)
        self.resolved(resolved, time.monotonic() - started)
        return _lines(encode(resolved))

    async def _resolved(self, request: web.Request) -> Decision | Assignment:
        candidates = split_names(request.headers.get(headers.CANDIDATES, ""))
        self.services.add(candidates)
        contracts = request.headers.getall(headers.CONTRACT, [])
        namespace = request.headers.get(headers.NAMESPACE) or None
        if not contracts:
            sender = _sender_namespace(request)
            return assign_shadow_traffic(candidates, self.policy(), self.shadow, namespace, sender)
        decision = decide(
            # A repeated field is one list (RFC 9110 §5.3), which the parser rejects as two contracts.
            ", ".join(contracts),
            candidates,
            namespace,
            self.policy(),
            self.directory,
            read=self.read,
            now=self.clock(),
        )
        decision = await self._probed(decision)
        if (error := decision.error) is not None and error.status in REFUSAL_STATUSES:
            self._refused("resolve", error, request)
        return decision

    async def _probed(self, decision: Decision) -> Decision:
        """The decision, by another of the laptop's links if the first one does not lead to it; or the one
        instead of a detour whose target cannot be reached."""
        other = decision.by_other_link(self.directory, self.policy())
        if other is None:
            return await self._probed_within(decision, self.probe_timeout)
        found = await self._probed_within(decision, self.probe_timeout / 2)
        return found if found is decision else await self._probed_within(other, self.probe_timeout / 2)

    async def _probed_within(self, decision: Decision, seconds: float) -> Decision:
        address, upstream = decision.address, decision.upstream
        try:
            if address is not None:
                async with asyncio.timeout(seconds):
                    await self.probe(address, decision.service)
            elif upstream is not None:
                await upstream.check_reachable(seconds)
        except TimeoutError:
            late = TargetUnreachable(
                f"service '{decision.service}': {address} did not answer within {seconds:g} s",
                hint="is the app running, and is the laptop on the network (VPN, firewall)?",
                service=decision.service,
                target=decision.target,
            )
            return decision.unreachable(late, TTL_MS)  # the next request would wait as long
        except DevrouteError as error:
            if upstream is not None:
                error.at(decision.service, decision.target)
            return decision.unreachable(error)
        return decision

    async def contract(self, request: web.Request) -> web.Response:
        """GET /contract: what a contract says, for a gateway that keeps it in a browser's cookie."""
        raw = ", ".join(request.headers.getall(headers.CONTRACT, []))
        return _lines(report_contract(raw, self.read, self.policy(), self.clock()))

    async def traced(self, request: web.Request) -> web.Response:
        """POST /trace: a sidecar's report on a request that `devroute trace` has sent."""
        self.services.add(split_names(request.headers.get(headers.CANDIDATES, "")))
        self.traces.add_hop(
            {name.lower(): value for name, value in request.headers.items()}, time.monotonic()
        )
        return web.Response(status=204)

    async def compared(self, request: web.Request) -> web.Response:
        """POST /compare: a sidecar's report on the service's response to a shadow request. Raises
        RequestMalformed."""
        key = request.headers.get(headers.COMPARE, "")
        if not (key.isascii() and key.isalnum() and len(key) <= ID_LENGTH):
            raise RequestMalformed("the header X-devroute-compare is missing or is not an id")
        response = parse_service_response(
            await request.read(), whole=request.headers.get(headers.WHOLE) == "yes"
        )
        expected = self.shadow.comparisons.add_service_response(key, response)
        if not expected and self.shared_reports is not None:
            self.shared_reports.pass_on(key)
        return web.Response(status=204)

    async def trace(self, request: web.Request) -> web.Response:
        """GET /api/traces/ID: the hops that were reported, and the services whose sidecars are known. Raises
        RequestMalformed."""
        await self.authorise(request)
        trace_id, others = request.match_info["id"], list[Reports]()
        if not is_trace_id(trace_id):  # it is about to stand in the head of a request to other replicas
            raise RequestMalformed("a trace's id is 32 hexadecimal digits in lower case")
        self.traces.announce(trace_id, time.monotonic())
        if self.shared_reports is not None:
            others = await self.shared_reports.traces(trace_id)
        hops = self.traces.hops(trace_id, time.monotonic(), others)
        services = {*self.services, *(name for each in others for name in each.services)}
        expanded = [self._expanded(hop) for hop in hops]
        return web.json_response({"hops": [asdict(hop) for hop in expanded], "services": sorted(services)})

    def _expanded(self, hop: Hop) -> Hop:
        """With what a name stands for, so that clients know the services and targets."""
        name = hop.contract.removeprefix(SIGN)
        found = self.names.get(name, self.clock()) if name != hop.contract else None
        return hop if found is None else replace(hop, stands_for=found.text)

    async def laptops(self, request: web.Request) -> web.Response:
        """GET /api/laptops: the laptops that are online, with their services."""
        await self.authorise(request)
        return web.json_response({"laptops": list(self.directory.listing())})

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/status: version, policy and uptime; `you` is the token's subject."""
        identity = await self.authorise(request)
        policy, who = self.policy(), (identity.subject, identity.groups)
        expires_in = identity.expires_in(time.time())
        return web.json_response(
            {
                "version": __version__,
                "you": identity.subject,
                "groups": sorted(identity.groups),
                "token_expires_s": None if expires_in is None else round(expires_in),
                "uptime_s": round(time.monotonic() - self.started, 1),
                "laptops": self.directory.count(),
                **self.replicas(),
                "policy": {
                    "networks": [str(network) for network in policy.networks],
                    "ports": written_ports(policy.ports),
                    "services": list(policy.services),
                    "signed_contracts_only": policy.require_signed,
                },
                "you_may_register": list(policy.may_register(*who)),
                "you_may_reach": [rule.permitted() for rule in policy.may_reach(*who)],
                "entries": dict(self.entries),
            }
        )

    async def login_settings(self, request: web.Request) -> web.Response:
        """GET /api/login: how `devroute login` gets a token, for everyone. Raises NotFound."""
        if self.login is None:
            raise NotFound(
                "this server has no login", hint="ask the platform team for a token, or for oidc_client_id"
            )
        return web.json_response(self.login)

    def _refused(self, at: str, error: DevrouteError, request: web.Request) -> None:
        self.record("refusal", at=at, **refusal_fields(error, peer=request.remote))

    async def authorise(self, request: web.Request) -> Identity:
        """Raises what is wrong with the token, once that is in the audit trail."""
        try:
            return await self.authenticate(
                request.headers.get("authorization", ""), peer_certificate(request)
            )
        except DevrouteError as error:
            self._refused("api", error, request)
            raise


def create_app(control: Control, more: Iterable[web.RouteDef] = ()) -> web.Application:
    """`more`: routes beside the API's own."""
    app = web.Application(middlewares=[_errors_as_json], client_max_size=MAX_BODY_BYTES)
    app.router.add_routes(more)
    app.router.add_get("/resolve", _for_sidecars(control.resolve))
    app.router.add_get("/contract", _for_sidecars(control.contract))
    app.router.add_post("/trace", _for_sidecars(control.traced))
    app.router.add_post("/compare", _for_sidecars(control.compared))
    app.router.add_get("/api/traces/{id}", control.trace)
    app.router.add_get("/api/laptops", control.laptops)
    app.router.add_get("/api/status", control.status)
    app.router.add_get("/api/login", control.login_settings)
    app.router.add_get("/tunnel", _late_tunnel)
    ContractsApi(
        control.names,
        control.contracts or LocalContracts(control.names, control.clock),
        control.policy,
        control.read,
        control.authorise,
        control.record,
        control.clock,
    ).add_routes(app.router)
    return app


def _sender_namespace(request: web.Request) -> str | None:
    """The namespace of the workload whose sidecar asks, if the proxy's own sidecar has verified it."""
    fields = request.headers.getall("x-forwarded-client-cert", [])
    head = "".join(f"\r\nx-forwarded-client-cert: {each}" for each in fields)
    return sender_namespace(f"{head}\r\n".encode("latin-1", "replace"))


def _lines(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="text/plain", charset="us-ascii")


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def _for_sidecars(handler: Handler) -> Handler:
    """Serve only on the plain port, which the mesh guards, not on the TLS port, which laptops reach: sidecars
    send no token, and their requests make the proxy connect to targets."""

    async def guarded(request: web.Request) -> web.StreamResponse:
        transport = request.transport
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            raise web.HTTPNotFound
        return await handler(request)

    return guarded


async def _late_tunnel(request: web.Request) -> web.Response:
    """GET /tunnel on a connection that aiohttp has because it served another request before: an ingress pools
    its connections. Closed, so that the agent's next attempt gets another one."""
    return error_response(ConnectionUsed("this connection has served another request before"), close=True)


@web.middleware
async def _errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The only place of this application where errors become responses."""
    try:
        async with asyncio.timeout(None if request.path in STREAMS else REQUEST_SECONDS):
            return await handler(request)
    except TimeoutError:
        late = RequestTimeout(f"the request was not complete after {REQUEST_SECONDS:g} s")
        return error_response(late, close=True)
    except DevrouteError as error:
        return error_response(error)
    except web.HTTPMethodNotAllowed as error:
        response = error_response(MethodNotAllowed(f"{request.method} is not for {request.path}"))
        response.headers["allow"] = ", ".join(sorted(error.allowed_methods))
        return response
    except web.HTTPNotFound:
        return error_response(NotFound(f"there is no {request.path}", hint="this is devroute's control port"))
    except web.HTTPRequestEntityTooLarge:
        return error_response(BodyTooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes"), close=True)
    except web.HTTPException:
        raise
    except Exception as error:  # a defect must not close the port for others
        log.error("control.failed", path=request.path, exc_info=error)
        return error_response(DevrouteError("devroute made a mistake; its log says more"))
