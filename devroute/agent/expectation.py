"""Waits until the responses to a request come from whom they are expected from (`devroute expect`)."""

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from devroute.agent.mesh_request import MeshRequest, send
from devroute.agent.settings import ClientSettings
from devroute.agent.token_source import with_fetched_token
from devroute.agent.trace_report import SERVICE, TraceResult, unmet_expectations
from devroute.errors import ServerUnreachable

#: Seconds between two requests.
PAUSE: Final = 0.5

#: A service as a contract names it, and who has to answer there: a laptop's name, an address,
#: "version:NAME" or "service".
Expectation = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Awaited:
    """What the last request showed. `unmet`: a sentence for each service at which another one responded."""

    traced: TraceResult
    unmet: list[str]
    requests: int
    waited_s: float


def contract_for(expected: Sequence[Expectation]) -> str:
    """The contract by which these would respond."""
    return json.dumps({service: who for service, who in expected if who != SERVICE})


async def wait_for(
    settings: ClientSettings, request: MeshRequest, expected: Sequence[Expectation], seconds: float
) -> Awaited:
    """Send the request until everything is as expected, or `seconds` are over. Raises as
    mesh_request.send: ServerUnreachable only at the end."""
    settings = await with_fetched_token(settings)
    began, count = time.monotonic(), 0
    last = began + seconds - PAUSE
    while True:
        count += 1
        try:
            _, traced = await send(settings, request)
            if traced.problem is not None:
                raise traced.problem
        except ServerUnreachable:
            if time.monotonic() > last:
                raise
        else:
            unmet, now = unmet_expectations(traced.hops, expected), time.monotonic()
            if not unmet or now > last:
                return Awaited(traced, unmet, count, round(now - began, 1))
        await asyncio.sleep(PAUSE)
