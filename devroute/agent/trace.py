"""Runs a program whose request carries a trace's id, and collects the hops of that request (`devroute trace`,
`devroute curl`).

Owns the run of the program and the wait for the reports of the sidecars. Never prints.
"""

import asyncio
import secrets
import shlex
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from pathlib import PurePath
from typing import IO, Final

from pydantic import TypeAdapter

from devroute.agent.api_client import fetch
from devroute.agent.child_process import ChildProcess
from devroute.agent.settings import ClientSettings
from devroute.agent.token_source import with_fetched_token
from devroute.agent.trace_report import TraceResult, is_complete
from devroute.contract.trace_id import ID_PREFIX
from devroute.errors import ConfigInvalid, DevrouteError, ServerUnreachable
from devroute.headers import TRACE, TRACEPARENT
from devroute.quoting import quote, visible
from devroute.routing.trace import Hop

#: Seconds between two queries for hops, and the number of equal responses after which the trace is complete.
POLL_SECONDS: Final = 0.2
QUIET_POLLS: Final = 3
#: Bytes of the program's output in a document.
MAX_OUTPUT: Final = 1024 * 1024

#: How each program takes a header, NAME and VALUE, as its last arguments.
_PROGRAMS: Final = {
    **dict.fromkeys(("curl", "wget"), ("--header", "NAME: VALUE")),
    **dict.fromkeys(("http", "https", "xh"), ("NAME:VALUE",)),
}
#: The exit code of what sent a request, and what that wrote, None if that was not captured.
Sent = tuple[int, str | None]

_HOP_FIELDS: Final = {field.name for field in fields(Hop)}
_HOP: Final = TypeAdapter(Hop)


def new_trace() -> str:
    return ID_PREFIX + secrets.token_hex(16)[len(ID_PREFIX) :]


def trace_headers(trace: str) -> dict[str, str]:
    """For sidecars and for tracing systems."""
    return {TRACE: trace, TRACEPARENT: f"00-{trace}-{secrets.token_hex(8)}-01"}


def with_trace_headers(command: Sequence[str], trace: str) -> list[str]:
    """The command with the headers of a trace. Raises ConfigInvalid."""
    if not command:
        raise ConfigInvalid("no command to trace", hint="devroute trace -- curl -H 'X-devroute: …' http://a/")
    if "://" in command[0]:
        raise ConfigInvalid(
            f"{quote(command[0])} is no command", hint=f"devroute trace -- curl {shlex.join(command)}"
        )
    name = PurePath(command[0]).name.removesuffix(".exe")
    if name not in _PROGRAMS:
        raise ConfigInvalid(
            f"'{name}' is not a program that can be traced: {', '.join(_PROGRAMS)}",
            hint=f"send '{TRACE}: <32 hex digits>' yourself, then look at /api/traces/<the same>",
        )
    arguments = [
        part.replace("NAME", key).replace("VALUE", value)
        for key, value in trace_headers(trace).items()
        for part in _PROGRAMS[name]
    ]
    return [*command, *arguments]


async def run(
    settings: ClientSettings | None, trace: str, arguments: Sequence[str], *, capture: bool = False
) -> TraceResult:
    """Run a program whose request carries the trace's id, and collect the request's hops. `capture`: its
    standard output too, instead of letting it through. Raises ConfigInvalid, and as `send_traced`."""

    async def run_program() -> Sent:
        with tempfile.TemporaryFile() as output:
            code = await _ended(arguments, output if capture else None)
            return code, _text(output) if capture else None

    return await send_traced(settings, trace, run_program)


async def send_traced(
    settings: ClientSettings | None, trace: str, send: Callable[[], Awaitable[Sent]]
) -> TraceResult:
    """Have a request sent that carries the trace's id, and collect its hops; without `settings` none. Raises
    what `send` does, or before it what `fetch` does."""
    if settings is not None:
        settings = await with_fetched_token(settings)
        await reported(settings, trace)  # announces it
    began = time.monotonic()
    code, text = await send()
    total_ms = round((time.monotonic() - began) * 1000, 1)
    if settings is None:
        return TraceResult(trace, [], None, total_ms, code, text)
    try:
        hops, services = await collected(settings, trace)
    except DevrouteError as error:
        return TraceResult(trace, [], None, total_ms, code, text, error)
    return TraceResult(trace, hops, services, total_ms, code, text)


async def _ended(arguments: Sequence[str], output: IO[bytes] | None) -> int:
    child = await ChildProcess.start(arguments, output)
    try:
        return await child.wait()
    finally:
        await child.stop()


def _text(output: IO[bytes]) -> str:
    output.seek(0)
    return output.read(MAX_OUTPUT).decode("utf-8", "replace")


async def collected(settings: ClientSettings, trace: str) -> tuple[list[Hop], list[str] | None]:
    """As `reported`, once the trace is complete or nothing more is reported."""
    hops, services = await reported(settings, trace)
    quiet = 0
    while quiet < QUIET_POLLS and not is_complete(hops):
        await asyncio.sleep(POLL_SECONDS)
        now, services = await reported(settings, trace)
        quiet = quiet + 1 if now == hops else 0
        hops = now
    return hops, services


async def reported(settings: ClientSettings, trace: str) -> tuple[list[Hop], list[str] | None]:
    """The hops so far, and the services whose sidecars the server knows, None if it does not state them.
    Fields of a later server are left out. Raises as `fetch`."""
    document = await fetch(settings, f"/api/traces/{trace}")
    listed, services = document.get("hops"), document.get("services")
    known = [str(each) for each in services] if isinstance(services, list) else None
    try:
        hops = [_hop(each) for each in listed] if isinstance(listed, list) else []
    except (ValueError, AttributeError):
        raise ServerUnreachable(
            "the server's response is not understood: does the server run another release of devroute?"
        ) from None
    return hops, known


def _hop(document: dict[str, object]) -> Hop:
    """Any workload can report: its texts are made fit for a terminal. Raises ValidationError, which is a
    ValueError."""
    given = {name: _visible(value) for name, value in document.items() if name in _HOP_FIELDS}
    return _HOP.validate_python(given)


def _visible(value: object) -> object:
    if isinstance(value, list):
        return [_visible(each) for each in value]
    return visible(value.replace("\t", " ")) if isinstance(value, str) else value
