"""Registers a laptop: dials the server, sends HELLO with its offers, and waits for WELCOME.

Owns the renewal of the newest link's token. Makes one attempt at a time; app.py decides when to try again.
"""

import asyncio
from collections.abc import Callable
from typing import NoReturn

from devroute import __version__
from devroute.agent.settings import AgentSettings
from devroute.agent.tls import tls_for_server
from devroute.agent.token_renewal import keep_renewed
from devroute.agent.token_source import TokenSource
from devroute.contract.offer_options import DEFAULT_OPTIONS
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
from devroute.tunnel.dial import DIAL_SECONDS, dial
from devroute.tunnel.protocol import handshake
from devroute.tunnel.protocol.websocket import WebSocket


class Registrar:
    """`make_link` makes the link of a connection; `dialled` receives each link before its WELCOME;
    `not_renewed` receives every failed renewal."""

    def __init__(
        self,
        settings: AgentSettings,
        source: TokenSource,
        make_link: Callable[[WebSocket, asyncio.AbstractEventLoop], AgentLink],
        dialled: Callable[[AgentLink], None],
        not_renewed: Callable[[DevrouteError], None],
    ) -> None:
        self._settings = settings
        self._source = source
        self._make_link = make_link
        self._dialled = dialled
        self._not_renewed = not_renewed
        offers = tuple(
            handshake.Offer(
                service=spec.service, scheme=spec.scheme, direct=spec.direct, terms=settings.offer_options
            )
            for spec in settings.services
        )
        self._hello = handshake.Hello(agent=__version__, name=settings.name, services=offers).encode()
        self._tls = tls_for_server(settings)
        self._renewals = TaskOwner()

    async def register(self) -> tuple[AgentLink, str]:
        """A link that the server has welcomed, and the laptop's name. Raises the reason that there is
        none."""
        link = await self._dial()
        self._dialled(link)
        link.wake()
        try:
            async with asyncio.timeout(DIAL_SECONDS):
                welcome = handshake.decode(handshake.Welcome, await link.welcome)
        except TimeoutError:
            self._give_up(link, ServerUnreachable(f"the server sent no WELCOME within {DIAL_SECONDS:g} s"))
        except ProtocolError as error:
            self._give_up(link, error)
        except asyncio.CancelledError:
            if link.close_error is None:  # this task was cancelled, and the link has not ended
                link.close_with(DevrouteError("the agent is ending"))
                raise
            self._give_up(link, rejection(link))
        if self._settings.offer_options != DEFAULT_OPTIONS and "terms" not in welcome.features:
            self._give_up(
                link,
                NotSupported(
                    f"the server (devroute {welcome.server}) knows neither --only-path nor --except-status",
                    hint="leave them out, or ask the platform team for an upgrade",
                ),
            )
        if self._settings.shadow is not None and "shadow" not in welcome.features:
            self._give_up(
                link,
                NotSupported(
                    f"the server (devroute {welcome.server}) does not know --shadow",
                    hint="leave it out, or ask the platform team for an upgrade",
                ),
            )
        if self._source.renewable and "renew" in welcome.features:
            renewing = keep_renewed(link, self._source, welcome.expires_in, self._not_renewed)
            self._renewals.start(renewing)
        return link, welcome.name

    async def _dial(self) -> AgentLink:
        """A link; if a cached token is refused, with a newer one."""
        await self.close()
        if self._settings.client_cert is not None:
            self._tls = tls_for_server(self._settings)  # short-lived certificates are replaced
        token = await self._source.get()
        try:
            return await dial(self._settings.server, token, self._greeting, tls=self._tls)
        except TokenInvalid:
            if self._source.fresh or not self._source.renewable:
                raise
        self._source.forget()
        token = await self._source.get()
        return await dial(self._settings.server, token, self._greeting, tls=self._tls)

    async def close(self) -> None:
        """End the renewal of the last link's token."""
        await self._renewals.close()

    @staticmethod
    def _give_up(link: AgentLink, error: DevrouteError) -> NoReturn:
        link.close_with(error)
        raise error from None

    def _greeting(self, websocket: WebSocket, loop: asyncio.AbstractEventLoop) -> AgentLink:
        link = self._make_link(websocket, loop)
        link.send_hello(self._hello)
        return link


def rejection(link: AgentLink) -> DevrouteError:
    """Why the server ended a link, or refused it: its GOAWAY if there was one."""
    if link.goaway is None:
        why = link.close_error.message if link.close_error is not None else "the link ended"
        return ServerUnreachable(f"the server broke off the registration: {why}")
    error = link.goaway.as_error(ServerUnreachable, BY_CODE)
    if isinstance(error, LinkReplaced):
        error.hint = "each devroute up needs its own name: start the other one with --name"
    return error
