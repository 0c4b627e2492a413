"""Where the user's requests enter the demo's mesh, in place of an ingress: it passes each one on to the first
service's sidecar, and gives it a trace's id: in the contract, so that the journal knows the request whatever
an app on its way passes on, and in `traceparent` where there is no contract.
"""

import secrets
import time

import aiohttp
from aiohttp import web

from devroute.contract.trace_id import ID_PREFIX, with_trace
from devroute.headers import CONTRACT
from devroute.mesh.demo.journal import Journal, trace_of
from devroute.mesh.demo.services import HOP_BY_HOP, copied, forwarded, outcome
from devroute.mesh.istio.sidecar import Endpoint


class Entry:
    """`sidecar` is the one of `service`, once it runs."""

    def __init__(self, service: str, journal: Journal, session: aiohttp.ClientSession) -> None:
        self.sidecar: Endpoint | None = None
        self._service = service
        self._journal = journal
        self._session = session

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_route("*", "/{path:.*}", self.enter)

    async def enter(self, request: web.Request) -> web.StreamResponse:
        if self.sidecar is None:
            return web.Response(status=503, text="the demo's mesh is still starting\n")
        headers = request.headers.copy()
        for name in (*HOP_BY_HOP, "host"):
            headers.popall(name, None)
        contract = ", ".join(headers.getall(CONTRACT, ()))
        if not (trace := trace_of(headers)):
            trace = ID_PREFIX + secrets.token_hex(16 - len(ID_PREFIX) // 2)
            headers["traceparent"] = f"00-{trace}-{secrets.token_hex(8)}-01"
            if len(headers.getall(CONTRACT, ())) == 1:
                headers[CONTRACT] = with_trace(contract, trace)
        self._journal.enter(trace, request.method, request.raw_path, contract, time.time())
        hop = self._journal.send(trace, self._service, time.time())
        sent = headers.items()
        async with forwarded(request, self._session, self.sidecar, self._service, sent) as response:
            if response is None:
                self._journal.answer(hop, None, "", "", time.time())
                return web.Response(status=502, text="the first sidecar cannot be reached\n")
            self._journal.answer(hop, response.status, *outcome(response.headers), time.time())
            names = {name.lower() for name in response.headers} - HOP_BY_HOP
            return await copied(request, response, sorted(names))
