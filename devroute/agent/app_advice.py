"""Advice on mistakes between devroute and the app, recognised by the app's response: a dev server that
refuses the host name or the origin, and a server that speaks TLS.

Owns what has been reported, each kind once for a service. Opens a connection to the app only to find out
whether it speaks TLS, after a request to it has failed.
"""

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from devroute.contract.service_spec import ServiceSpec
from devroute.errors import UpstreamInvalid, UpstreamReset
from devroute.quoting import printable
from devroute.tasks import TaskOwner
from devroute.tunnel.served_stream import Finished

#: Seconds for a handshake, and least time between two attempts for one service.
HANDSHAKE_SECONDS: Final = 2.0
PAUSE_SECONDS: Final = 10.0

#: The frameworks' own responses with status 400 or 403: what refuses, what of the
#: request, the response's text, and the setting that permits it.
_REFUSALS: Final[tuple[tuple[str, str, re.Pattern[bytes], str], ...]] = (
    (
        "Vite",
        "host",
        re.compile(rb"Blocked request\. This host \(.{0,300}\) is not allowed"),
        "server.allowedHosts",
    ),
    ("webpack-dev-server", "host", re.compile(rb"\A\s*Invalid Host(?:/Origin)? header"), "allowedHosts"),
    (
        "Django",
        "host",
        re.compile(rb"DisallowedHost|Invalid HTTP_HOST header|<h1>Bad Request \(400\)</h1>"),
        "ALLOWED_HOSTS",
    ),
    ("Rails", "host", re.compile(rb"Blocked hosts?: "), "config.hosts"),
    ("Django", "origin", re.compile(rb"CSRF verification failed"), "CSRF_TRUSTED_ORIGINS"),
    ("Next.js", "origin", re.compile(rb"\AUnauthorized\Z"), "allowedDevOrigins"),
)

#: How nginx, Go and Apache answer plain HTTP on a port with TLS.
_PLAIN_TO_TLS: Final = re.compile(
    rb"plain HTTP request was sent to HTTPS port|HTTP request to an HTTPS server"
    rb"|speaking plain HTTP to an SSL-enabled server port"
)

_FIELD: Final = {
    "host": re.compile(rb"\r\nhost:[ \t]*([^\r]*)", re.IGNORECASE),
    "origin": re.compile(rb"\r\norigin:[ \t]*([^\r]*)", re.IGNORECASE),
}


@dataclass(eq=False)
class AppAdvisor:
    """`advise(service, text)` gets each advice. `host_header`: the setting."""

    services: Mapping[str, ServiceSpec]
    host_header: str
    advise: Callable[[str, str], None]
    _advised: set[tuple[str, str]] = field(default_factory=set)
    _next_attempt: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._tasks = TaskOwner()
        self._loop = asyncio.get_running_loop()

    def observe(self, finished: Finished) -> None:
        """Each request that has ended."""
        if finished.refusal:
            self._read_refusal(finished)
        elif finished.code in (UpstreamReset.code, UpstreamInvalid.code):
            self._look_for_tls(finished.service)

    async def close(self) -> None:
        await self._tasks.close()

    def _advise_once(self, service: str, kind: str, text: str) -> None:
        if (service, kind) not in self._advised:
            self._advised.add((service, kind))
            self.advise(service, text)

    # --- host and origin

    def _read_refusal(self, finished: Finished) -> None:
        if _PLAIN_TO_TLS.search(finished.refusal):
            self._advise_tls(finished.service)
            return
        for framework, what, text, setting in _REFUSALS:
            found = _FIELD[what].search(finished.head)
            if found is None or not text.search(finished.refusal):
                continue
            value = printable(found[1].decode("latin-1"))
            remedy = f"permit it in {setting}"
            if self.host_header == "keep":
                remedy = f"start devroute up with --host-header app, or {remedy}"
            elif what == "host":
                value = self.host_header if self.host_header != "app" else "of its own address"
            refuses = f"{framework} refuses the {what} {value} ({finished.status}): {remedy}"
            self._advise_once(finished.service, what, f"{finished.service}: {refuses}")
            return

    # --- TLS

    def _look_for_tls(self, service: str) -> None:
        spec = self.services.get(service)
        now = self._loop.time()
        if spec is None or spec.tls or now < self._next_attempt.get(service, 0.0):
            return
        self._next_attempt[service] = now + PAUSE_SECONDS
        self._tasks.start(self._try_tls(spec))

    async def _try_tls(self, spec: ServiceSpec) -> None:
        if await speaks_tls(spec.host, spec.port):
            self._advise_tls(spec.service)

    def _advise_tls(self, service: str) -> None:
        spec = self.services.get(service)
        if spec is not None and not spec.tls:
            text = f"the app of '{service}' speaks TLS: start devroute up with {service}={spec.other_place}"
            self._advise_once(service, "tls", text)


async def speaks_tls(host: str, port: int) -> bool:
    """Whether a server accepts a TLS handshake, with whatever certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(HANDSHAKE_SECONDS):
            transport, _ = await asyncio.get_running_loop().create_connection(
                asyncio.Protocol, host, port, ssl=context
            )
    except (OSError, TimeoutError):
        return False
    transport.abort()
    return True
