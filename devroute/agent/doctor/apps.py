"""Checks whether the app of a service serves, and which one: `localhost` may lead to two.

Sends no request, except where two addresses of a name accept connections: then a HEAD to each.
"""

import asyncio
import contextlib
import re
import socket
from typing import Final, NamedTuple

from devroute.agent.app_advice import speaks_tls
from devroute.agent.doctor.finding import Finding, failure
from devroute.contract.service_spec import ServiceSpec
from devroute.contract.target import Address
from devroute.errors import AppUnreachable
from devroute.quoting import printable
from devroute.upstream.dialer import CLOSED_HINT

#: Seconds to connect, and for the response to HEAD.
STEP_SECONDS: Final = 2.0

#: Seconds for which a connection is watched: the port of a container accepts it, and closes it once it finds
#: that the app inside does not listen yet.
WATCH_SECONDS: Final = 0.2

#: What tells apps apart; they differ in their dates too.
_FIELDS: Final = re.compile(r"^(server|x-powered-by|content-type|location):[ \t]*(.{0,60})", re.I | re.M)


class _Seen(NamedTuple):
    """An address; whether it accepts connections, and keeps them open."""

    address: str
    accepts: bool
    serves: bool


async def examine_app(spec: ServiceSpec) -> Finding:
    service, host, port = spec.service, spec.host, spec.port
    place = f"{host}:{port}"
    check = f"app {service}"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        error = AppUnreachable(f"the name '{host}' does not resolve", hint="check the service's address")
        return failure(check, error)
    addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
    seen = await asyncio.gather(*(_look(address, port) for address in addresses))
    serving = [each.address for each in seen if each.serves]
    if serving:
        return await _examine_served(check, spec, place, serving)
    if any(each.accepts for each in seen):
        error = AppUnreachable(
            f"{place} accepts connections and closes them at once",
            hint=CLOSED_HINT,
        )
    else:
        error = AppUnreachable(f"nothing listens on {place}", hint=f"start the app of '{service}'")
    return failure(check, error)


async def _examine_served(check: str, spec: ServiceSpec, place: str, addresses: list[str]) -> Finding:
    if (tls := await speaks_tls(addresses[0], spec.port)) is not spec.tls:
        problem = f"{place} {'speaks TLS' if tls else 'does not speak TLS'}"
        return failure(check, AppUnreachable(problem, hint=f"write {spec.service}={spec.other_place}"))
    if len(addresses) > 1 and not tls:
        return await _compare(check, spec.service, place, addresses, spec.port)
    return Finding(check, "ok", f"{place} listens{', with TLS' if tls else ''}")


async def _look(address: str, port: int) -> _Seen:
    try:
        async with asyncio.timeout(STEP_SECONDS):
            reader, writer = await asyncio.open_connection(address, port)
    except (OSError, TimeoutError):
        return _Seen(address, False, False)
    try:
        async with asyncio.timeout(WATCH_SECONDS):
            return _Seen(address, True, bool(await reader.read(1)))
    except TimeoutError:
        return _Seen(address, True, True)
    except OSError:
        return _Seen(address, True, False)
    finally:
        writer.transport.abort()


async def _compare(check: str, service: str, place: str, addresses: list[str], port: int) -> Finding:
    """One app may listen on all of a name's addresses, or each may have another."""
    responses = await asyncio.gather(*(_ask(address, port) for address in addresses))
    if len(set(responses)) == 1:
        return Finding(check, "ok", f"{place} listens")
    apps = " and ".join(f"{address} ({text})" for address, text in zip(addresses, responses, strict=True))
    remedy = f"name the address of the one that is meant: --service {service}={Address(addresses[0], port)}"
    return Finding(check, "warn", f"{place} has two apps: {apps}", remedy)


async def _ask(address: str, port: int) -> str:
    """The status of a HEAD request, and the fields that tell apps apart."""
    text = ""
    with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        async with asyncio.timeout(STEP_SECONDS):
            reader, writer = await asyncio.open_connection(address, port)
            try:
                writer.write(b"HEAD / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
                text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").replace("\r", "")
            finally:
                writer.transport.abort()
    if not text.startswith("HTTP/1."):
        return "no HTTP/1.1"
    start = text.partition("\n")[0].partition(" ")[2]
    fields = sorted(f"{name.lower()}: {value.strip()}" for name, value in _FIELDS.findall(text))
    return printable(", ".join([start, *fields]))
