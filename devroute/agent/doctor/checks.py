"""`devroute doctor`: everything that this laptop's first request needs, checked in that order, with remedies.

Owns the checks; cli/doctor.py prints them.
"""

import asyncio
import secrets
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from typing import Final, cast

import aiohttp

from devroute import __version__
from devroute.agent.api_client import failure_in_words, fetch, through_proxy, web_url
from devroute.agent.doctor.apps import examine_app
from devroute.agent.doctor.finding import Finding, failure
from devroute.agent.doctor.tunnel import NETWORK, STEP_SECONDS, Echo, examine_replicas, open_tunnel
from devroute.agent.settings import AgentSettings
from devroute.agent.tls import tls_for_server
from devroute.agent.token_source import with_fetched_token
from devroute.auth.identity import PeerCertificate
from devroute.errors import ConfigInvalid, DevrouteError, LaptopOffline, ServerUnreachable
from devroute.headers import CONTRACT, REASON, RESULT
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import connect, server_place, unreachable
from devroute.tunnel.protocol.handshake import Welcome, decode

#: Seconds by which clocks may differ before tokens and signed contracts fail.
MAX_SKEW: Final = 30.0

#: A certificate that expires sooner is reported, in days.
CERTIFICATE_DAYS: Final = 14

#: Where the replica that was asked has lost what it shares with the others.
UNSHARED: Final = Finding(
    "registry",
    "warn",
    "the server's replicas do not learn of each other's new laptops: one that dials now is known to its own"
    " replica alone, and gets only some of its requests",
    "inform the platform team: /readyz on the proxy's admin port has the problem",
)

#: The service that is offered where none is configured.
PLACEHOLDER: Final = "devroute-doctor"


class Doctor:
    """`url`: a service in the mesh, for the round trip."""

    def __init__(self, settings: AgentSettings, url: str | None) -> None:
        self._settings = settings
        self._url = url
        self._status: dict[str, object] = {}
        self._service = settings.services[0].service if settings.services else PLACEHOLDER

    async def examine(self) -> AsyncGenerator[Finding, None]:
        """All checks after the one of the configuration. Those that cannot run are reported as skipped."""
        rest = ["dns", "tls", "token", "version"]
        for check in (self._dns, self._tls, self._token, self._version):
            try:
                found = await check()
            except DevrouteError as error:
                found = failure(rest[0], error)
            yield found
            rest.pop(0)
            if found.result == "fail":
                left = [*rest, "tunnel", "mesh", "clock"]
                yield Finding(left[0], "skip", f"not checked, nor are {', '.join(left[1:])}")
                async for finding in self._apps():
                    yield finding
                return
        if self._settings.reaches:
            yield examine_reach(self._status.get("you_may_reach"))
        async with aclosing(self._through_the_tunnel()) as findings:
            async for finding in findings:
                yield finding
        yield await self._clock()

    # --- the server

    async def _dns(self) -> Finding:
        host, port, _ = server_place(self._settings.server)
        proxy = self._settings.proxy_for_server()
        if proxy is not None:  # it resolves the server's name
            host, port = proxy.host, proxy.port
        try:
            async with asyncio.timeout(STEP_SECONDS):
                found = await asyncio.get_running_loop().getaddrinfo(host, port)
        except (OSError, UnicodeError):
            raise ServerUnreachable(f"the name '{host}' does not resolve", hint=NETWORK) from None
        except TimeoutError:
            raise ServerUnreachable(f"the name server did not respond for '{host}'", hint=NETWORK) from None
        of_proxy = "" if proxy is None else "; it is the proxy to the server, and resolves its name"
        return Finding("dns", "ok", f"{host} is {found[0][4][0]}{of_proxy}")

    async def _tls(self) -> Finding:
        server = self._settings.server
        host, port, _ = server_place(server)
        tls = tls_for_server(self._settings)
        try:
            async with asyncio.timeout(STEP_SECONDS):
                transport = await connect(
                    server, asyncio.Protocol, tls=tls, proxy=self._settings.proxy_for_server()
                )
        except TimeoutError:
            raise ServerUnreachable(f"{host}:{port} does not respond", hint=NETWORK) from None
        except OSError as error:
            raise unreachable(server, error) from None
        certificate: PeerCertificate | None = transport.get_extra_info("peercert")
        cast(asyncio.Transport, transport).abort()
        if certificate is None:
            return Finding("tls", "ok", f"{host}:{port} responds, in plain http")
        days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()) / 86400
        if days < CERTIFICATE_DAYS:
            left = f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"
            return Finding(
                "tls", "warn", f"the server's certificate expires in {left}", "inform the platform team"
            )
        return Finding("tls", "ok", f"the certificate is trusted, and valid for {days:.0f} more days")

    async def _token(self) -> Finding:
        self._settings = await with_fetched_token(self._settings)  # a token_command runs once
        self._status = await fetch(self._settings, "/api/status")
        return Finding("token", "ok", f"you are {self._status.get('you')}")

    async def _version(self) -> Finding:
        theirs = str(self._status.get("version"))
        if theirs.split(".")[:2] == __version__.split(".")[:2]:
            return Finding("version", "ok", f"devroute {__version__} here, {theirs} at the server")
        remedy = f"pip install --upgrade devroute=={theirs}"
        return Finding("version", "warn", f"devroute {__version__} here, but {theirs} at the server", remedy)

    async def _clock(self) -> Finding:
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=STEP_SECONDS)) as session,
                session.get(
                    web_url(self._settings) + "/api/status",
                    allow_redirects=False,
                    ssl=tls_for_server(self._settings) or True,
                    **through_proxy(self._settings, {}),
                ) as response,
            ):
                date = parsedate_to_datetime(response.headers["date"])
        except (aiohttp.ClientError, TimeoutError, KeyError, ValueError):
            return Finding("clock", "skip", "the server reports no time")
        skew = time.time() - date.timestamp()
        if abs(skew) > MAX_SKEW:
            way = f"is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'}"
            text = f"this laptop's clock {way} the server's"
            return Finding("clock", "warn", text, "synchronise it with the network: tokens depend on it")
        return Finding("clock", "ok", "the same as the server's")

    # --- the tunnel

    async def _through_the_tunnel(self) -> AsyncGenerator[Finding, None]:
        name = f"{self._status.get('you')}--doctor-{secrets.token_hex(3)}"
        echo = Echo(name.encode())
        listening = self._apps()
        try:
            async with open_tunnel(self._settings, name, self._service, echo) as link:
                yield await _round_trip(link)
                if (replicas := await examine_replicas(self._settings, link)) is not None:
                    yield replicas
                if self._status.get("registry") == "unavailable":
                    yield UNSHARED
                async for finding in listening:
                    yield finding
                if self._url is not None:
                    yield await self._mesh(self._url, name, echo)
                else:
                    yield Finding("mesh", "skip", "give a URL in the mesh: devroute doctor http://...")
        except DevrouteError as error:
            yield failure("tunnel", error)
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
                session.get(url, headers=headers) as response,
            ):
                result, reason = (response.headers.get(name) for name in (RESULT, REASON))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            why = failure_in_words(error)
            return failure(
                "mesh", ServerUnreachable(f"{url}: {why}", hint="check that it is a URL in the mesh")
            )
        if echo.requests:
            took = (time.monotonic() - began) * 1000
            return Finding(
                "mesh",
                "ok",
                f"a request for {self._service} reached this laptop and returned in {took:.0f} ms",
            )
        outcome = f"{result}: {reason}" if reason else result or "no sidecar has seen the contract"
        hint = f"devroute trace -- curl -H 'X-devroute: {headers[CONTRACT]}' {url}"
        return failure("mesh", LaptopOffline(f"the request did not reach this laptop ({outcome})", hint=hint))

    # --- the laptop

    async def _apps(self) -> AsyncIterator[Finding]:
        for spec in self._settings.services:
            yield await examine_app(spec)


def examine_reach(rules: object) -> Finding:
    """Whether the policy lets this laptop reach anything, as GET /api/status has its rules."""
    if not isinstance(rules, list):
        text, remedy = "the server does not say what you may reach: it is older", "ask for an upgrade"
    elif not rules:
        text = "the policy lets you reach no service of the mesh"
        remedy = "ask the platform team for a rule of reach"
    else:
        return Finding("reach", "ok", "the policy has rules for you: devroute status shows them")
    return Finding("reach", "warn", text, remedy)


async def _round_trip(link: AgentLink) -> Finding:
    try:
        async with asyncio.timeout(STEP_SECONDS):
            await link.heartbeat.ping()
    except TimeoutError:
        return failure(
            "tunnel", ServerUnreachable("the tunnel opens, but does not respond to a ping", hint=NETWORK)
        )
    took = (link.heartbeat.round_trip or 0) * 1000
    welcome = decode(Welcome, link.welcome.result())
    one = "" if welcome.replica is None else f"; to the replica {welcome.replica}, one of {welcome.replicas}"
    return Finding(
        "tunnel", "ok", f"opens; its round trip takes {f'{took:.0f}' if took >= 1 else 'under 1'} ms{one}"
    )


def unconfigured(error: ConfigInvalid) -> list[Finding]:
    return [
        failure("configuration", error),
        Finding("dns", "skip", "not checked, nor is anything else"),
    ]
