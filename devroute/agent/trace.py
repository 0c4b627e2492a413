"""`devroute trace -- curl …`: runs a command whose request carries a trace id, and collects its hops.

Owns the run of the command and the wait for the reports of the sidecars. Never prints.
"""

import asyncio
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Final

from devroute.agent.api_client import fetch
from devroute.agent.child_process import ChildProcess
from devroute.agent.settings import ClientSettings
from devroute.agent.token_source import with_fetched_token
from devroute.errors import ConfigInvalid, ServerUnreachable
from devroute.headers import TRACE
from devroute.routing.trace import Hop

#: Seconds between two queries for hops, and the number of equal answers after which the trace is complete.
POLL_SECONDS: Final = 0.2
QUIET_POLLS: Final = 3


#: How each program takes a header, NAME and VALUE, as its last arguments.
_PROGRAMS: Final = {
    **dict.fromkeys(("curl", "wget"), ("--header", "NAME: VALUE")),
    **dict.fromkeys(("http", "https", "xh"), ("NAME:VALUE",)),
}


@dataclass(frozen=True, slots=True)
class TraceResult:
    """`exit_code` is the command's."""

    trace: str
    hops: list[Hop]
    total_ms: float
    exit_code: int


def with_trace_headers(command: Sequence[str], trace: str, span: str) -> list[str]:
    """The command with the headers of a trace, for sidecars and for tracing systems. Raises ConfigInvalid."""
    if not command:
        raise ConfigInvalid("no command to trace", hint="devroute trace -- curl -H 'X-devroute: …' http://a/")
    name = PurePath(command[0]).name.removesuffix(".exe")
    if name not in _PROGRAMS:
        raise ConfigInvalid(
            f"'{name}' is not a program that can be traced: {', '.join(_PROGRAMS)}",
            hint=f"send '{TRACE}: <32 hex digits>' yourself, then look at /api/traces/<the same>",
        )
    headers = {TRACE: trace, "traceparent": f"00-{trace}-{span}-01"}
    arguments = [
        part.replace("NAME", key).replace("VALUE", value)
        for key, value in headers.items()
        for part in _PROGRAMS[name]
    ]
    return [*command, *arguments]


async def run(settings: ClientSettings, command: Sequence[str]) -> TraceResult:
    """Run the command, and collect the hops of its request. Raises ConfigInvalid, or what `fetch` does."""
    settings = await with_fetched_token(settings)
    trace = secrets.token_hex(16)
    arguments = with_trace_headers(command, trace, secrets.token_hex(8))
    await _hops_of(settings, trace)  # fails before the request is sent if the server is unreachable
    began = time.monotonic()
    child = await ChildProcess.start(arguments)
    try:
        code = await child.wait()
    finally:
        await child.stop()
    total_ms = round((time.monotonic() - began) * 1000, 1)
    hops: list[Hop] = []
    quiet = 0
    while quiet < QUIET_POLLS:
        await asyncio.sleep(POLL_SECONDS)
        reported = await _hops_of(settings, trace)
        quiet = quiet + 1 if reported == hops else 0
        hops = reported
    return TraceResult(trace, hops, total_ms, code)


async def _hops_of(settings: ClientSettings, trace: str) -> list[Hop]:
    listed = (await fetch(settings, f"/api/traces/{trace}")).get("hops")
    try:
        return [Hop(**each) for each in listed] if isinstance(listed, list) else []
    except TypeError:
        raise ServerUnreachable(
            "the server's response is not understood: does it run another release?"
        ) from None
