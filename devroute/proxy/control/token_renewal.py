"""Newer tokens for links that are up: judged while requests go on, so that no tunnel ends for a token's age.

Owns a task for each RENEW until it is answered. A token that is not good changes nothing: the one before
counts until it expires.
"""

import asyncio
import time
from collections.abc import Callable

import structlog

from devroute.auth.identity import Authenticate, Identity
from devroute.errors import DevrouteError
from devroute.tunnel.protocol import handshake
from devroute.tunnel.proxy_link import ProxyLink

log = structlog.stdlib.get_logger("devroute.tunnel")


def expires_in(identity: Identity, now: float) -> float | None:
    """Seconds, as WELCOME and RENEWED say it."""
    return None if identity.expires is None else max(0.0, identity.expires - now)


class TokenRenewals:
    """`take(link, identity)` puts the new one in force, or raises why not."""

    def __init__(self, authenticate: Authenticate, take: Callable[[ProxyLink, Identity], None]) -> None:
        self._authenticate = authenticate
        self._take = take
        self._tasks: dict[ProxyLink, asyncio.Task[None]] = {}

    def begin(self, link: ProxyLink, token: bytes) -> None:
        """The session sees to it that there is one at a time for a link."""
        task = asyncio.get_running_loop().create_task(self._judge(link, token.decode("latin-1")))
        self._tasks[link] = task

    def cancel(self, link: ProxyLink) -> None:
        """The link is over."""
        if (task := self._tasks.pop(link, None)) is not None:
            task.cancel()

    async def _judge(self, link: ProxyLink, token: str) -> None:
        try:
            certificate = link.transport.get_extra_info("peercert")
            identity = await self._authenticate(f"Bearer {token}", certificate)
            self._take(link, identity)
        except DevrouteError as error:
            log.warning("laptop.not_renewed", code=error.code, reason=error.message)
            refusal = handshake.Refusal(code=error.code, message=error.message, hint=error.hint)
            answer = handshake.Renewed(error=refusal)
        else:
            log.info("laptop.renewed", subject=identity.subject)
            answer = handshake.Renewed(expires_in=expires_in(identity, time.time()))
        self._tasks.pop(link, None)
        link.send_renewed(answer.encode())
