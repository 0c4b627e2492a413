"""`devroute trace -- curl …`: sends one request with a mark, and finds out where it went. Owns the command's
run and the wait for the sidecars' word; prints nothing itself.
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

#: Seconds between two looks for more hops, and how often nothing new has to be there before it is all.
POLL_SECONDS: Final = 0.2
QUIET_POLLS: Final = 3


def _as_option(name: str, value: str) -> list[str]:
    return ["--header", f"{name}: {value}"]


def _as_item(name: str, value: str) -> list[str]:
    return [f"{name}:{value}"]


#: How programs take a header, behind everything else.
_PROGRAMS: Final = {
    "curl": _as_option,
    "wget": _as_option,
    "http": _as_item,
    "https": _as_item,
    "xh": _as_item,
}


@dataclass(frozen=True, slots=True)
class TraceResult:
    """What came of it. `exit_code` is the command's."""

    trace: str
    hops: list[Hop]
    total_ms: float
    exit_code: int


def with_trace_headers(command: Sequence[str], trace: str, span: str) -> list[str]:
    """The command with headers that mark its request, for sidecars and for tracing. Raises ConfigInvalid."""
    if not command:
        raise ConfigInvalid("no command is given", hint="devroute trace -- curl -H 'X-devroute: …' http://a/")
    name = PurePath(command[0]).name.removesuffix(".exe")
    if name not in _PROGRAMS:
        raise ConfigInvalid(
            f"'{name}' is not one of the programs that can be traced: {', '.join(_PROGRAMS)}",
            hint=f"send '{TRACE}: <32 hex digits>' yourself, then look at /api/traces/<the same>",
        )
    headers = {TRACE: trace, "traceparent": f"00-{trace}-{span}-01"}
    return [*command, *(part for key, value in headers.items() for part in _PROGRAMS[name](key, value))]


async def run(settings: ClientSettings, command: Sequence[str]) -> TraceResult:
    """Run it, and gather what is told of it. Raises ConfigInvalid, or what `fetch` does."""
    settings = await with_fetched_token(settings)
    trace = secrets.token_hex(16)
    arguments = with_trace_headers(command, trace, secrets.token_hex(8))
    await _hops_of(settings, trace)  # a server that cannot be asked is known before the request is sent
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
        told = await _hops_of(settings, trace)
        quiet = quiet + 1 if told == hops else 0
        hops = told
    return TraceResult(trace, hops, total_ms, code)


async def _hops_of(settings: ClientSettings, trace: str) -> list[Hop]:
    listed = (await fetch(settings, f"/api/traces/{trace}")).get("hops")
    try:
        return [Hop(**each) for each in listed] if isinstance(listed, list) else []
    except TypeError:
        raise ServerUnreachable("the server's answer was not understood: is it of another release?") from None
