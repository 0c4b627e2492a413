"""The apps of the demo, in the mesh and on its laptops. Each calls the next service, as apps do: it passes on
the request's method, path and body, and the headers of contract and trace.
"""

import contextlib
import json
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from aiohttp import web

from devroute.headers import CONTRACT, PREFIX, REASON, RESULT
from devroute.mesh import testbed
from devroute.mesh.demo.journal import Journal, trace_of
from devroute.mesh.istio.sidecar import Endpoint

#: For one request of the demo itself, which takes milliseconds.
TIMEOUT: Final = aiohttp.ClientTimeout(total=5.0)
#: For those of its user, whose app may sit at a breakpoint.
PATIENT: Final = aiohttp.ClientTimeout(total=None, connect=5.0)

#: The header that only responses of the demo's own apps have, and its value in this run.
_OWN: Final = "demo-hops"
_NONCE: Final = secrets.token_hex(8)

#: What an app passes on besides devroute's own headers.
_CARRIED: Final = ("baggage", "traceparent", "tracestate", "content-type", "content-length")
#: Of a connection, not of a message (RFC 9110 §7.6.1).
HOP_BY_HOP: Final = frozenset(
    ("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade")
)


@dataclass
class DemoApp:
    """An app of `service`, which responds with its name and, after them, the hops of the next service. The
    response of an app that is not the demo's is passed on as it is.

    `calls` is the next service, and `through` the sidecar's listener to which iptables would redirect the
    call.
    """

    service: str
    who: str
    journal: Journal
    calls: str = ""
    through: Endpoint | None = None
    session: aiohttp.ClientSession = field(init=False, repr=False)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        trace = trace_of(request.headers)
        self.journal.receive(trace, self.service, self.who, time.time())
        own = {"service": self.service, "who": self.who}
        if self.through is None:
            return _hops_response([own])
        carried = [
            (name, value)
            for name, value in request.headers.items()
            if name.lower().startswith(PREFIX) or name.lower() in _CARRIED
        ]
        hop = self.journal.send(trace, self.calls, time.time())
        async with forwarded(request, self.session, self.through, self.calls, carried) as response:
            if response is None:
                self.journal.answer(hop, None, "", "", time.time())
                return web.json_response({"message": f"'{self.calls}' cannot be reached"}, status=502)
            self.journal.answer(hop, response.status, *outcome(response.headers), time.time())
            hops = await _hops_in(response)
            if hops is None:
                return await copied(request, response, ["content-type"])
            return _hops_response([own, *hops], response.status)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Endpoint]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.answer)
        async with (
            aiohttp.ClientSession(timeout=PATIENT, auto_decompress=False) as self.session,
            testbed.app(application) as at,
        ):
            yield at


@asynccontextmanager
async def forwarded(
    request: web.Request,
    session: aiohttp.ClientSession,
    to: Endpoint,
    host: str,
    headers: Iterable[tuple[str, str]],
) -> AsyncIterator[aiohttp.ClientResponse | None]:
    """The same request with these headers, and its body as it arrives; None where there is no response."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            response = await stack.enter_async_context(
                session.request(
                    request.method,
                    f"http://{to.host}:{to.port}{request.raw_path}",
                    headers=[*headers, ("host", host)],
                    data=request.content if request.can_read_body else None,
                    allow_redirects=False,
                )
            )
        except (aiohttp.ClientError, OSError):
            response = None
        yield response


async def copied(
    request: web.Request, response: aiohttp.ClientResponse, names: Iterable[str]
) -> web.StreamResponse:
    """A response with its status, its headers of these names, and its body as it arrives."""
    copy = web.StreamResponse(status=response.status, reason=response.reason)
    for name in names:
        copy.headers.extend((name, value) for value in response.headers.getall(name, ()))
    await copy.prepare(request)
    async for piece in response.content.iter_any():
        await copy.write(piece)
    return copy


def outcome(headers: Mapping[str, str]) -> tuple[str, str]:
    """Result and reason in a response's headers, "" without."""
    return headers.get(RESULT, ""), headers.get(REASON, "")


async def ask(
    session: aiohttp.ClientSession, at: Endpoint, contract: str | None, host: str
) -> dict[str, Any]:
    """The body of one request of the demo itself. The response's own result and reason are in its first hop,
    or in the body where there are no hops."""
    headers = {"host": host} | ({} if contract is None else {CONTRACT: contract})
    async with session.get(f"http://{at.host}:{at.port}/", headers=headers) as response:
        hops = await _hops_in(response)
        if hops is not None:
            return {"hops": hops}
        result, reason = outcome(response.headers)
        return {"message": await response.text(), "result": result, "reason": reason}


def _hops_response(hops: list[dict[str, Any]], status: int = 200) -> web.Response:
    text = json.dumps({"hops": hops}) + "\n"
    return web.json_response(text=text, status=status, headers={_OWN: _NONCE})


async def _hops_in(response: aiohttp.ClientResponse) -> list[dict[str, Any]] | None:
    """The hops in a response of the demo's own apps, the first with the response's result and reason; None
    for another one, whose body is not read."""
    if response.headers.get(_OWN) != _NONCE:
        return None
    result, reason = outcome(response.headers)
    first, *rest = json.loads(await response.read())["hops"]
    return [first | {"result": result, "reason": reason}, *rest]
