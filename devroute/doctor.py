"""`devroute doctor`: what stands between this laptop and its first request, checked in the order in which it
matters, each with its remedy. Owns the checks; cli_doctor.py prints them.

The tunnel is a real one, under a name of its own, which nobody else is sent to and which goes with it.
"""

import asyncio
import os
import secrets
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Any, Final, Literal
from urllib.parse import urlsplit

import aiohttp

from devroute import __version__
from devroute.agent import why_turned_away
from devroute.client import fetch
from devroute.errors import (
    AppUnreachable,
    ConfigInvalid,
    DevrouteError,
    LaptopOffline,
    ServerUnreachable,
)
from devroute.heads import RequestHead
from devroute.http1 import parse_response_head
from devroute.settings import AgentSettings
from devroute.tls import for_server
from devroute.token_source import settled
from devroute.tunnel import hello
from devroute.tunnel.agent_end import AgentLink
from devroute.tunnel.dial import dial
from devroute.upstream import ResponseSink

#: Seconds for each step: a person waits.
STEP_SECONDS: Final = 5.0

#: Clocks that differ by more make tokens and signed contracts fail; in seconds.
MAX_SKEW: Final = 30.0

#: A certificate that ends sooner is worth a word; in days.
CERTIFICATE_DAYS: Final = 14

#: The service under which the tunnel is tried where none is configured.
PLACEHOLDER: Final = "devroute-doctor"

_NETWORK: Final = "is the VPN up, and is the server's URL right (devroute init)?"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found. `error` is there where it failed, and says which exit code that is."""

    check: str
    result: Literal["ok", "warn", "fail", "skip"]
    text: str
    remedy: str = ""
    error: DevrouteError | None = None

    def as_dict(self) -> dict[str, object]:
        found = asdict(replace(self, error=None))
        found["error"] = self.error.code if self.error is not None else None
        return found


def failed(check: str, error: DevrouteError) -> Finding:
    return Finding(check, "fail", error.message, error.hint, error)


class Doctor:
    """`url`: of a service in the mesh, for the round trip."""

    def __init__(self, settings: AgentSettings, url: str | None) -> None:
        self._settings = settings
        self._url = url
        self._status: dict[str, object] = {}
        self._service = settings.services[0].service if settings.services else PLACEHOLDER

    async def examine(self) -> AsyncIterator[Finding]:
        """Every check after the configuration's. What cannot be checked any more is left out, and said."""
        rest = ["dns", "tls", "token", "version"]
        for check in (self._dns, self._tls, self._token, self._version):
            try:
                found = await check()
            except DevrouteError as error:
                found = failed(rest[0], error)
            yield found
            rest.pop(0)
            if found.result == "fail":
                left = [*rest, "tunnel", "mesh", "clock"]
                yield Finding(left[0], "skip", f"not checked, nor {', '.join(left[1:])}")
                async for finding in self._apps():
                    yield finding
                return
        async for finding in self._through_the_tunnel():
            yield finding
        yield await self._clock()

    # --- the server

    @property
    def _place(self) -> tuple[str, int, bool]:
        url = urlsplit(self._settings.server)
        secure = url.scheme in ("https", "wss")
        return url.hostname or "", url.port or (443 if secure else 80), secure

    async def _dns(self) -> Finding:
        host, port, _ = self._place
        try:
            async with asyncio.timeout(STEP_SECONDS):
                found = await asyncio.get_running_loop().getaddrinfo(host, port)
        except (OSError, UnicodeError):
            raise ServerUnreachable(f"the name '{host}' does not resolve", hint=_NETWORK) from None
        except TimeoutError:
            raise ServerUnreachable(f"no answer about the name '{host}'", hint=_NETWORK) from None
        return Finding("dns", "ok", f"{host} is {found[0][4][0]}")

    async def _tls(self) -> Finding:
        host, port, secure = self._place
        context = for_server(self._settings) or (ssl.create_default_context() if secure else None)
        try:
            async with asyncio.timeout(STEP_SECONDS):
                transport, _ = await asyncio.get_running_loop().create_connection(
                    asyncio.Protocol, host, port, ssl=context if secure else None
                )
        except TimeoutError:
            raise ServerUnreachable(f"{host}:{port} does not answer", hint=_NETWORK) from None
        except ssl.SSLCertVerificationError as error:
            raise ServerUnreachable(
                f"the certificate of {host} is not trusted: {error.verify_message}",
                hint="a private CA? Name its file with --ca-file",
            ) from None
        except ssl.SSLError as error:
            raise ServerUnreachable(f"TLS fails: {error.reason}", hint="is it https or http?") from None
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise ServerUnreachable(f"{host}:{port}: {why}", hint=_NETWORK) from None
        certificate = transport.get_extra_info("peercert")
        transport.abort()
        if not secure:
            return Finding("tls", "ok", f"{host}:{port} answers, in plain http")
        days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
        if days < CERTIFICATE_DAYS:
            remedy = "tell the platform team"
            return Finding("tls", "warn", f"the server's certificate ends in {days:.0f} days", remedy)
        return Finding("tls", "ok", f"the certificate is trusted, for {days:.0f} more days")

    async def _token(self) -> Finding:
        token = (await settled(self._settings)).token  # a token_command runs once
        self._settings = self._settings.model_copy(update={"token": token, "token_command": ()})
        self._status = await fetch(self._settings, "/api/status")
        return Finding("token", "ok", f"you are {self._status.get('you')}")

    async def _version(self) -> Finding:
        theirs = str(self._status.get("version"))
        if theirs.split(".")[:2] == __version__.split(".")[:2]:
            return Finding("version", "ok", f"devroute {__version__} here, {theirs} at the server")
        remedy = f"pip install --upgrade devroute=={theirs}"
        return Finding("version", "warn", f"devroute {__version__} here, but {theirs} at the server", remedy)

    async def _clock(self) -> Finding:
        server = self._settings.server
        url = server.replace("ws", "http", 1) if server.startswith("ws") else server
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=STEP_SECONDS)) as session,
                session.get(url + "/api/status", ssl=for_server(self._settings) or True) as answer,
            ):
                date = parsedate_to_datetime(answer.headers["date"])
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError):
            return Finding("clock", "skip", "the server does not say what time it is")
        skew = time.time() - date.timestamp()
        if abs(skew) > MAX_SKEW:
            way = f"is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'}"
            text = f"this laptop's clock {way} the server's"
            return Finding("clock", "warn", text, "let it be set by the network: tokens depend on it")
        return Finding("clock", "ok", "as the server's")

    # --- the tunnel

    async def _through_the_tunnel(self) -> AsyncIterator[Finding]:
        name = f"{self._status.get('you')}-doctor-{secrets.token_hex(3)}"
        echo = _Echo(name.encode())
        listening = self._apps()
        try:
            async with _tunnel(self._settings, name, self._service, echo) as link:
                yield await _round_trip(link)
                async for finding in listening:
                    yield finding
                if self._url is not None:
                    yield await self._mesh(self._url, name, echo)
                else:
                    yield Finding("mesh", "skip", "give a URL of the mesh: devroute doctor http://...")
        except DevrouteError as error:
            yield failed("tunnel", error)
            async for finding in listening:
                yield finding
            yield Finding("mesh", "skip", "not checked without a tunnel")

    async def _mesh(self, url: str, name: str, echo: "_Echo") -> Finding:
        if self._service == PLACEHOLDER:
            return Finding("mesh", "skip", "no service is configured", "devroute init --project SERVICE=PORT")
        headers = {"x-devroute": f'{{"{self._service}": "{name}"}}'}
        began = time.monotonic()
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2 * STEP_SECONDS)) as session,
                session.get(url, headers=headers) as answer,
            ):
                result, reason = (answer.headers.get(f"x-devroute-{key}") for key in ("result", "reason"))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            why = str(error) or "no answer in time"
            return failed("mesh", ServerUnreachable(f"{url}: {why}", hint="is it a URL of the mesh?"))
        if echo.requests:
            took = (time.monotonic() - began) * 1000
            return Finding("mesh", "ok", f"a request for {self._service} came here and back in {took:.0f} ms")
        said = f"{result}: {reason}" if reason else result or "no sidecar saw the contract"
        hint = f"devroute trace -- curl -H 'X-devroute: {headers['x-devroute']}' {url}"
        return failed("mesh", LaptopOffline(f"the request did not come here ({said})", hint=hint))

    # --- the laptop

    async def _apps(self) -> AsyncIterator[Finding]:
        for spec in self._settings.services:
            yield await self._local(spec.service, spec.host, spec.port)

    async def _local(self, service: str, host: str, port: int) -> Finding:
        place = f"{host}:{port}"
        try:
            async with asyncio.timeout(STEP_SECONDS):
                transport, _ = await asyncio.get_running_loop().create_connection(
                    asyncio.Protocol, host, port
                )
        except (OSError, TimeoutError):
            error = AppUnreachable(f"nothing listens on {place}", hint=f"start the app of '{service}'")
            return failed(f"app {service}", error)
        transport.abort()
        return Finding(f"app {service}", "ok", f"{place} listens")


async def _round_trip(link: AgentLink) -> Finding:
    try:
        async with asyncio.timeout(STEP_SECONDS):
            await link.ask()
    except TimeoutError:
        return failed("tunnel", ServerUnreachable("the tunnel opens, but nothing comes back", hint=_NETWORK))
    return Finding("tunnel", "ok", f"opens, and answers in {(link.round_trip or 0) * 1000:.0f} ms")


@asynccontextmanager
async def _tunnel(
    settings: AgentSettings, name: str, service: str, echo: "_Echo"
) -> AsyncIterator[AgentLink]:
    """A tunnel that is welcome. Raises why there is none."""
    greeting = hello.Hello(agent=__version__, name=name, services=(hello.Offer(service=service),)).encode()

    def make(websocket: Any, loop: asyncio.AbstractEventLoop) -> AgentLink:
        link = AgentLink(websocket, loop, {service: echo}, lambda finished: None)
        link.session.send_hello(greeting)
        return link

    secret = settings.token.get_secret_value()
    link = await dial(settings.server, secret, make, tls=for_server(settings), seconds=STEP_SECONDS)
    link.wake()
    try:
        async with asyncio.timeout(STEP_SECONDS):
            await asyncio.wait({link.welcome})
        if link.welcome.cancelled():
            raise why_turned_away(link)
        yield link
    except TimeoutError:
        raise ServerUnreachable("the server does not welcome the tunnel", hint=_NETWORK) from None
    finally:
        link.leave("leaving", "devroute doctor has ended")
        link.end(DevrouteError("devroute doctor has ended"))
        await asyncio.wait({link.disconnected}, timeout=STEP_SECONDS)


class _Echo:
    """Answers every request with who it is; implements devroute.upstream.Upstream and its stream."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.requests = 0

    def open(self, head: RequestHead, sink: ResponseSink) -> "_Echo":
        self.requests += 1
        asyncio.get_running_loop().call_soon(self._answer, head, sink)
        return self

    def _answer(self, head: RequestHead, sink: ResponseSink) -> None:
        raw = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n" % len(self._body)
        sink.on_head(parse_response_head(raw, head.method))
        if head.method != b"HEAD":
            sink.on_data(self._body)
        sink.on_end([])

    def send_data(self, data: bytes) -> None: ...
    def send_end(self, trailers: object) -> None: ...
    def cancel(self) -> None: ...
    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...


def unconfigured(error: ConfigInvalid) -> list[Finding]:
    return [failed("configuration", error), Finding("dns", "skip", "nor anything else, without a server")]
