"""Newer tokens for open links: verified while requests go on, so that no tunnel ends because its token is
old.

Owns a task for each RENEW until it is answered. A token that is not valid changes nothing: the one before it
counts until it expires.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from devroute.auth.identity import Authenticate, Identity
from devroute.errors import DevrouteError
from devroute.tasks import TaskOwner
from devroute.tunnel.protocol import handshake
from devroute.tunnel.proxy_link import ProxyLink

log = structlog.stdlib.get_logger("devroute.tunnel")


def expires_in(identity: Identity, now: float) -> float | None:
    """Seconds, for WELCOME and RENEWED."""
    return None if identity.expires is None else max(0.0, identity.expires - now)


class TokenRenewals:
    """`change_identity(link, identity)` puts the new one into force, or raises why not."""

    def __init__(
        self, authenticate: Authenticate, change_identity: Callable[[ProxyLink, Identity], None]
    ) -> None:
        self._authenticate = authenticate
        self._change_identity = change_identity
        self._owner = TaskOwner()
        self._by_link: dict[ProxyLink, asyncio.Task[None]] = {}

    def begin(self, link: ProxyLink, token: bytes) -> None:
        """The session sees to it that there is one at a time for a link."""
        self._by_link[link] = self._owner.start(self._renew(link, token.decode("latin-1")))

    def cancel(self, link: ProxyLink) -> None:
        """The link has ended."""
        if (task := self._by_link.pop(link, None)) is not None:
            task.cancel()

    async def close(self) -> None:
        await self._owner.close()

    async def _renew(self, link: ProxyLink, token: str) -> None:
        try:
            certificate = link.transport.get_extra_info("peercert")
            identity = await self._authenticate(f"Bearer {token}", certificate)
            self._change_identity(link, identity)
        except DevrouteError as error:
            log.warning("laptop.not_renewed", code=error.code, reason=error.message)
            refusal = handshake.Refusal(code=error.code, message=error.message, hint=error.hint)
            renewed = handshake.Renewed(error=refusal)
        else:
            log.info("laptop.renewed", subject=identity.subject)
            renewed = handshake.Renewed(expires_in=expires_in(identity, time.time()))
        self._by_link.pop(link, None)
        link.send_renewed(renewed.encode())
