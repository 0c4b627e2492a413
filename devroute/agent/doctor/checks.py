"""`devroute doctor`: what stands between this laptop and its first request, checked in the order in which it
matters, each with its remedy. Owns the checks; cli/doctor.py prints them.
"""

import asyncio
import os
import secrets
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Final, Literal
from urllib.parse import urlsplit

import aiohttp

from devroute import __version__
from devroute.agent.api_client import fetch
from devroute.agent.doctor.tunnel import NETWORK, STEP_SECONDS, Echo, trial
from devroute.agent.settings import AgentSettings
from devroute.agent.tls import tls_for_server
from devroute.agent.token_source import with_fetched_token
from devroute.errors import (
    AppUnreachable,
    ConfigInvalid,
    DevrouteError,
    LaptopOffline,
    ServerUnreachable,
)
from devroute.headers import CONTRACT, REASON, RESULT
from devroute.tunnel.agent_link import AgentLink

#: Clocks that differ by more make tokens and signed contracts fail; in seconds.
MAX_SKEW: Final = 30.0

#: A certificate that ends sooner is worth a word; in days.
CERTIFICATE_DAYS: Final = 14

#: What to do about a certificate, by OpenSSL's codes (x509_vfy.h); others come of an authority nobody knows.
_CERTIFICATE_REMEDIES: Final = {
    9: "it holds from a later time on: is this laptop's clock right?",
    10: "tell the platform team that it has expired, unless this laptop's clock is wrong",
    62: "it is for another name: is the server's URL right (devroute init)?",
    64: "it is for another address: is the server's URL right (devroute init)?",
}

#: The service under which the tunnel is tried where none is configured.
PLACEHOLDER: Final = "devroute-doctor"


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
            raise ServerUnreachable(f"the name '{host}' does not resolve", hint=NETWORK) from None
        except TimeoutError:
            raise ServerUnreachable(f"no answer about the name '{host}'", hint=NETWORK) from None
        return Finding("dns", "ok", f"{host} is {found[0][4][0]}")

    async def _tls(self) -> Finding:
        host, port, secure = self._place
        context = tls_for_server(self._settings) or (ssl.create_default_context() if secure else None)
        try:
            async with asyncio.timeout(STEP_SECONDS):
                transport, _ = await asyncio.get_running_loop().create_connection(
                    asyncio.Protocol, host, port, ssl=context if secure else None
                )
        except TimeoutError:
            raise ServerUnreachable(f"{host}:{port} does not answer", hint=NETWORK) from None
        except ssl.SSLCertVerificationError as error:
            raise ServerUnreachable(
                f"the certificate of {host} is not trusted: {error.verify_message}",
                hint=_CERTIFICATE_REMEDIES.get(
                    error.verify_code, "a private CA? Name its file with --ca-file"
                ),
            ) from None
        except ssl.SSLError as error:
            raise ServerUnreachable(f"TLS fails: {error.reason}", hint="is it https or http?") from None
        except OSError as error:
            why = os.strerror(error.errno) if error.errno else str(error)
            raise ServerUnreachable(f"{host}:{port}: {why}", hint=NETWORK) from None
        certificate = transport.get_extra_info("peercert")
        transport.abort()
        if not secure:
            return Finding("tls", "ok", f"{host}:{port} answers, in plain http")
        days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
        if days < CERTIFICATE_DAYS:
            left = f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"
            return Finding(
                "tls", "warn", f"the server's certificate ends in {left}", "tell the platform team"
            )
        return Finding("tls", "ok", f"the certificate is trusted, for {days:.0f} more days")

    async def _token(self) -> Finding:
        token = (await with_fetched_token(self._settings)).token  # a token_command runs once
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
                session.get(url + "/api/status", ssl=tls_for_server(self._settings) or True) as answer,
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
        echo = Echo(name.encode())
        listening = self._apps()
        try:
            async with trial(self._settings, name, self._service, echo) as link:
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

    async def _mesh(self, url: str, name: str, echo: Echo) -> Finding:
        if self._service == PLACEHOLDER:
            return Finding("mesh", "skip", "no service is configured", "devroute init --project SERVICE=PORT")
        headers = {CONTRACT: f'{{"{self._service}": "{name}"}}'}
        began = time.monotonic()
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2 * STEP_SECONDS)) as session,
                session.get(url, headers=headers) as answer,
            ):
                result, reason = (answer.headers.get(name) for name in (RESULT, REASON))
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            why = str(error) or "no answer in time"
            return failed("mesh", ServerUnreachable(f"{url}: {why}", hint="is it a URL of the mesh?"))
        if echo.requests:
            took = (time.monotonic() - began) * 1000
            return Finding("mesh", "ok", f"a request for {self._service} came here and back in {took:.0f} ms")
        said = f"{result}: {reason}" if reason else result or "no sidecar saw the contract"
        hint = f"devroute trace -- curl -H 'X-devroute: {headers[CONTRACT]}' {url}"
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
            await link.heartbeat.ping()
    except TimeoutError:
        return failed("tunnel", ServerUnreachable("the tunnel opens, but nothing comes back", hint=NETWORK))
    took = (link.heartbeat.round_trip or 0) * 1000
    return Finding("tunnel", "ok", f"opens, and answers in {f'{took:.0f}' if took >= 1 else 'under 1'} ms")


def unconfigured(error: ConfigInvalid) -> list[Finding]:
    return [failed("configuration", error), Finding("dns", "skip", "nor anything else, without a server")]
