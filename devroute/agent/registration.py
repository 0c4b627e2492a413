"""Registers a laptop: dials the server, sends HELLO with its offers, and waits for WELCOME.

Owns the renewal of each link's token: a newer one is fetched before the old one expires, and sent on the
link itself, so that no request is interrupted. `register` makes one attempt; link_keeper.py decides when to
try again.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from devroute import __version__
from devroute.agent.settings import AgentSettings
from devroute.agent.tls import tls_for_server
from devroute.agent.token_source import LEAST_PAUSE, UNKNOWN_LIFETIME, TokenSource, renewal_delay
from devroute.contract.offer_options import DEFAULT_OPTIONS
from devroute.contract.service_spec import ServiceSpec
from devroute.errors import (
    BY_CODE,
    DevrouteError,
    LinkReplaced,
    NotSupported,
    ProtocolError,
    ServerUnreachable,
    TokenInvalid,
)
from devroute.tasks import TaskOwner
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import MakeLink, dial
from devroute.tunnel.protocol import handshake
from devroute.tunnel.protocol.websocket import WebSocket

#: How long the server may take to reply to HELLO, in seconds: less than AGENT_LIVENESS.ping_after, since a
#: PING is not allowed before WELCOME.
WELCOME_SECONDS: Final = 9.0
#: How long the server may take to verify a token, in seconds: it may have to fetch the issuer's keys.
ANSWER_SECONDS: Final = 15.0
#: Longest delay after a failed attempt, in seconds.
RETRY_SECONDS: Final = 15.0


@dataclass(eq=False)
class Registrar:
    """`make_link` makes the link of a connection; `dialled` receives each link before its WELCOME;
    `not_renewed` receives every failed renewal. `reach`: the laptop reaches services of the mesh."""

    settings: AgentSettings
    source: TokenSource
    make_link: MakeLink
    dialled: Callable[[AgentLink], None]
    not_renewed: Callable[[DevrouteError], None]
    reach: bool = False

    def __post_init__(self) -> None:
        settings = self.settings
        self._hello = handshake.Hello(
            agent=__version__,
            name=settings.name,
            services=self._offers(settings.services),
            instance=secrets.token_hex(16),
            takeover=settings.takeover,
            reach=self.reach,
            windows=True,
        )
        self._tls = tls_for_server(settings)
        self._renewals = TaskOwner()
        #: How often each link has registered, by its number.
        self.registrations = Counter[int]()

    def _offers(self, services: Sequence[ServiceSpec]) -> tuple[handshake.Offer, ...]:
        return tuple(
            handshake.Offer(
                service=spec.service,
                scheme="grpc" if spec.scheme in ("grpc", "grpcs") else "http",  # TLS ends at the agent
                direct=spec.direct,
                terms=self.settings.offer_options,
            )
            for spec in services
        )

    def offer(self, services: Sequence[ServiceSpec]) -> Callable[[], None]:
        """Links that are made from now on offer these services. The result takes that back."""
        before = self._hello.services
        self._hello = self._hello.model_copy(update={"services": self._offers(services)})

        def restore() -> None:
            self._hello = self._hello.model_copy(update={"services": before})

        return restore

    def drop(self, services: Collection[str]) -> None:
        """Another process has these services: do not offer them again."""
        kept = tuple(offer for offer in self._hello.services if offer.service not in services)
        self._hello = self._hello.model_copy(update={"services": kept})

    async def register(
        self, number: int = 0, *, beside: bool = False, other_than: Collection[str] = ()
    ) -> tuple[AgentLink, handshake.Welcome]:
        """A link that the server has welcomed, with its WELCOME; it replaces the one with the same `number`
        or, unless it is to stand `beside` the other one, all. Raises the reason that there is none,
        SameReplica if it would lead to one of `other_than`."""
        link = await self._dial({"link": number, "beside": beside}, other_than)
        self.dialled(link)
        try:
            welcome = handshake.decode(handshake.Welcome, await receive_welcome(link, WELCOME_SECONDS))
            self._check_supported(welcome)
        except DevrouteError as error:
            link.close_with(error)
            if isinstance(error, ProtocolError):
                error.hint = self._hint_for_older() or error.hint
            raise
        except asyncio.CancelledError:
            link.close_with(DevrouteError("the agent is ending"))
            raise
        if self.reach and handshake.REACH in welcome.features:
            link.enable_reach()
        if "windows" in welcome.features:
            link.enable_windows()
        if self.source.renewable and "renew" in welcome.features:
            renewing = self._renewals.start(
                keep_renewed(link, self.source, welcome.expires_in, self.not_renewed)
            )
            link.close_reason.add_done_callback(lambda _: renewing.cancel())
        # Once: what another process takes over later is not taken back when this one dials again.
        self._hello = self._hello.model_copy(update={"takeover": False})
        self.registrations[number] += 1
        return link, welcome

    async def _dial(self, which: Mapping[str, object], other_than: Collection[str]) -> AgentLink:
        """A link; if a cached token is refused, with a newer one."""
        if self.settings.client_cert is not None:
            self._tls = tls_for_server(self.settings)  # short-lived certificates are replaced
        token = await self.source.get()
        try:
            return await self._dial_with(token, which, other_than)
        except TokenInvalid:
            if self.source.fresh or not self.source.renewable:
                raise
        return await self._dial_with(await self.source.newer(token), which, other_than)

    async def _dial_with(
        self, token: str, which: Mapping[str, object], other_than: Collection[str]
    ) -> AgentLink:
        settings = self.settings

        def greeting(websocket: WebSocket, loop: asyncio.AbstractEventLoop) -> AgentLink:
            link = self.make_link(websocket, loop)
            link.send_hello(self._hello.model_copy(update=which).encode())
            return link

        return await dial(
            settings.server,
            token,
            greeting,
            tls=self._tls,
            proxy=settings.proxy_for_server(),
            other_than=other_than,
        )

    def _hint_for_older(self) -> str:
        """What an older server may not understand of the HELLO."""
        if not self._hello.services:
            return "an older server lets no laptop reach the mesh: ask the platform team for an upgrade"
        if any("." in each.service for each in self._hello.services):
            return "an older server knows no namespaces: leave them out, or ask for an upgrade"
        return ""

    async def close(self) -> None:
        """End the renewal of all links' tokens."""
        await self._renewals.close()

    def _check_supported(self, welcome: handshake.Welcome) -> None:
        """Raises NotSupported for an option that the server would ignore."""
        if self.settings.offer_options != DEFAULT_OPTIONS and "terms" not in welcome.features:
            problem, remedy = "knows neither --only-path nor --except-status", "leave them out"
        elif self.settings.shadow is not None and "shadow" not in welcome.features:
            problem, remedy = "does not know --shadow", "leave it out"
        else:
            return
        raise NotSupported(
            f"the server (devroute {welcome.server}) {problem}",
            hint=f"{remedy}, or ask the platform team for an upgrade",
        )


async def keep_renewed(
    link: AgentLink,
    source: TokenSource,
    expires_in: float | None,
    failed: Callable[[DevrouteError], None],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Until cancelled. `expires_in` is WELCOME's; `failed` is called for each attempt that failed."""
    lifetime, token = expires_in, source.kept
    while True:
        await sleep(renewal_delay(UNKNOWN_LIFETIME if lifetime is None else lifetime))
        try:
            token = await source.newer(token)
            lifetime = await _renew(link, token)
        except DevrouteError as error:
            failed(error)
            left = RETRY_SECONDS if lifetime is None else min(RETRY_SECONDS, lifetime / 5)
            lifetime = max(LEAST_PAUSE, left)


async def _renew(link: AgentLink, token: str) -> float | None:
    """The seconds until the newer token expires. Raises why it is refused, CancelledError if the link
    ends."""
    if link.renewing:
        raise ServerUnreachable("the server has not responded to the last renewal")
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            renewed = handshake.decode(handshake.Renewed, await link.renew(token))
    except TimeoutError:
        raise ServerUnreachable(
            f"the server did not respond to the renewal within {ANSWER_SECONDS:g} s"
        ) from None
    if renewed.error is not None:
        kind = BY_CODE.get(renewed.error.code, DevrouteError)
        raise kind(renewed.error.message, hint=renewed.error.hint)
    return renewed.expires_in


async def receive_welcome(link: AgentLink, seconds: float, hint: str | None = None) -> bytes:
    """WELCOME's body. Raises ServerUnreachable with `hint` where none arrives in time, else why the server
    refused the link."""
    await asyncio.wait({link.welcome}, timeout=seconds)
    if not link.welcome.done():
        raise ServerUnreachable(f"the server sent no WELCOME within {seconds:g} s", hint=hint)
    if link.welcome.cancelled():
        raise rejection(link)
    return link.welcome.result()


def rejection(link: AgentLink) -> DevrouteError:
    """Why the server ended a link, or refused it: its GOAWAY if there was one."""
    if link.goaway is None:
        why = link.close_error.message if link.close_error is not None else "the link ended"
        return ServerUnreachable(f"the server broke off the registration: {why}")
    error = link.goaway.as_error(ServerUnreachable)
    if isinstance(error, LinkReplaced):
        error.hint = "to have both online, start one of them with another --name"
    return error
