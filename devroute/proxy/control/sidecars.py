"""What sidecars and gateways ask the control port: /resolve, /contract, and the reports /trace and /compare.

Owns the form of the responses. Decides nothing (routing/decision.py does) and knows no sockets and no server:
ports/connection.py serves these paths before aiohttp is loaded, and aiohttp those on its own connections.
"""

import asyncio
import time

from devroute import headers
from devroute.contract.mesh_identity import sender_namespace
from devroute.errors import ConnectionUsed, DevrouteError, RequestMalformed, TargetUnreachable
from devroute.proxy.control.control import PORT, Control
from devroute.proxy.ports.message import Request, Response, error_response, lines_response, no_content
from devroute.proxy.ports.routes import Handler, Outcome, Routes, no_such_path
from devroute.proxy.telemetry.audit_events import REFUSAL_STATUSES, refusal_fields
from devroute.routing.contract_report import report_contract
from devroute.routing.decision import TTL_MS, Decision, decide
from devroute.routing.resolve_codec import encode
from devroute.routing.shadow.assignment import Assignment, assign_shadow_traffic
from devroute.routing.shadow.comparison import ID_LENGTH, parse_service_response
from devroute.routing.trace import split_names


def sidecar_routes(control: Control) -> Routes:
    """All paths of the control port that are no person's."""
    sidecars = Sidecars(control)
    routes = Routes(PORT)
    routes.get("/resolve", _for_sidecars(sidecars.resolve))
    routes.get("/contract", _for_sidecars(sidecars.contract))
    routes.post("/trace", _for_sidecars(sidecars.traced))
    routes.post("/compare", _for_sidecars(sidecars.compared))
    routes.get("/tunnel", _late_tunnel)
    return routes


class Sidecars:
    """The handlers."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def resolve(self, request: Request) -> Outcome:
        """GET /resolve: the decision for one contract at one service (routing/SIDECAR.md has its format);
        without a contract, which laptops get shadow traffic of the service (routing/shadow/assignment.py)."""
        started = time.monotonic()
        control = self._control
        candidates = split_names(request.value(headers.CANDIDATES))
        control.services.add(candidates)
        contracts = request.values(headers.CONTRACT)
        namespace = request.value(headers.NAMESPACE) or None
        if not contracts:
            sender = _sender_namespace(request)
            assigned = assign_shadow_traffic(candidates, control.policy(), control.shadow, namespace, sender)
            return self._resolved(assigned, started)
        decision = decide(
            # A repeated field is one list (RFC 9110 §5.3), which the parser rejects as two contracts.
            ", ".join(contracts),
            candidates,
            namespace,
            control.policy(),
            control.directory,
            read=control.read,
            now=control.clock(),
        )
        upstream = decision.upstream
        if decision.address is None and (upstream is None or upstream.responded_just_now):
            return self._decided(decision, request, started)  # at once, so without a task
        return self._decided_once_probed(decision, request, started)

    async def _decided_once_probed(self, decision: Decision, request: Request, started: float) -> Response:
        return self._decided(await self._probed(decision), request, started)

    def _decided(self, decision: Decision, request: Request, started: float) -> Response:
        if (error := decision.error) is not None and error.status in REFUSAL_STATUSES:
            self._control.record("refusal", at="resolve", **refusal_fields(error, peer=request.peer))
        return self._resolved(decision, started)

    def _resolved(self, resolved: Decision | Assignment, started: float) -> Response:
        self._control.resolved(resolved, time.monotonic() - started)
        return lines_response(encode(resolved))

    async def _probed(self, decision: Decision) -> Decision:
        """The decision, by another of the laptop's links if the first one does not lead to it; or the one
        instead of a detour whose target cannot be reached."""
        seconds = self._control.probe_timeout
        other = decision.by_other_link(self._control.directory, self._control.policy())
        if other is None:
            return await self._probed_within(decision, seconds)
        found = await self._probed_within(decision, seconds / 2)
        return found if found is decision else await self._probed_within(other, seconds / 2)

    async def _probed_within(self, decision: Decision, seconds: float) -> Decision:
        address, upstream = decision.address, decision.upstream
        try:
            if address is not None:
                async with asyncio.timeout(seconds):
                    await self._control.probe(address, decision.service)
            elif upstream is not None:
                await upstream.check_reachable(seconds)
        except TimeoutError:
            late = TargetUnreachable(
                f"service '{decision.service}': {address} did not respond within {seconds:g} s",
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

    def contract(self, request: Request) -> Response:
        """GET /contract: what a contract says, for a gateway that keeps it in a browser's cookie."""
        control = self._control
        raw = ", ".join(request.values(headers.CONTRACT))
        return lines_response(report_contract(raw, control.read, control.policy(), control.clock()))

    def traced(self, request: Request) -> Response:
        """POST /trace: a sidecar's report on a request that `devroute trace` has sent."""
        self._control.services.add(split_names(request.value(headers.CANDIDATES)))
        self._control.traces.add_hop(request.fields(), time.monotonic())
        return no_content()

    def compared(self, request: Request) -> Response:
        """POST /compare: a sidecar's report on the service's response to a shadow request. Raises
        RequestMalformed."""
        control = self._control
        key = request.value(headers.COMPARE)
        if not (key.isascii() and key.isalnum() and len(key) <= ID_LENGTH):
            raise RequestMalformed("the header X-devroute-compare is missing or is not an id")
        response = parse_service_response(request.body, whole=request.value(headers.WHOLE) == "yes")
        expected = control.shadow.comparisons.add_service_response(key, response)
        if not expected and control.shared_reports is not None:
            control.shared_reports.pass_on(key)
        return no_content()


def _sender_namespace(request: Request) -> str | None:
    """The namespace of the workload whose sidecar asks, if the proxy's own sidecar has verified it."""
    fields = request.values("x-forwarded-client-cert")
    head = "".join(f"\r\nx-forwarded-client-cert: {each}" for each in fields)
    return sender_namespace(f"{head}\r\n".encode("latin-1", "replace"))


def _for_sidecars(handler: Handler) -> Handler:
    """Serve only on the plain port, which the mesh guards, not on the TLS port, which laptops reach: sidecars
    send no token, and their requests make the proxy connect to targets."""

    def guarded(request: Request) -> Outcome:
        if request.over_tls:
            raise no_such_path(request.path, PORT)
        return handler(request)

    return guarded


def _late_tunnel(request: Request) -> Response:
    """GET /tunnel on a connection that has served another request before: an ingress pools its connections.
    Closed, so that the agent's next attempt gets another one."""
    return error_response(ConnectionUsed("this connection has served another request before"), close=True)
