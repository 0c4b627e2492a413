"""Renews the token of an open link: a newer one is fetched before the old one expires, and sent on the link
itself, so that no request is interrupted. The link's owner runs it and cancels it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from devroute.agent.token_source import LEAST_PAUSE, UNKNOWN_LIFETIME, TokenSource, renewal_delay
from devroute.errors import BY_CODE, DevrouteError, ServerUnreachable
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.protocol import handshake

#: How long the server may take to verify a token, in seconds: it may have to fetch the issuer's keys.
ANSWER_SECONDS: Final = 15.0
#: Longest delay after a failed attempt, in seconds.
RETRY_SECONDS: Final = 15.0


async def keep_renewed(
    link: AgentLink,
    source: TokenSource,
    expires_in: float | None,
    failed: Callable[[DevrouteError], None],
    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
) -> None:
    """Until cancelled. `expires_in` is WELCOME's; `failed` is called for each attempt that failed."""
    lifetime = expires_in
    while True:
        await sleep(renewal_delay(UNKNOWN_LIFETIME if lifetime is None else lifetime))
        try:
            source.forget()
            lifetime = await _renew(link, await source.get())
        except DevrouteError as error:
            failed(error)
            left = RETRY_SECONDS if lifetime is None else min(RETRY_SECONDS, lifetime / 5)
            lifetime = max(LEAST_PAUSE, left)


async def _renew(link: AgentLink, token: str) -> float | None:
    """The seconds until the newer token expires. Raises why it is refused, CancelledError if the link
    ends."""
    if link.renewing:
        raise ServerUnreachable("the server has not answered the last renewal")
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = handshake.decode(handshake.Renewed, await link.renew(token))
    except TimeoutError:
        raise ServerUnreachable(
            f"the server did not answer the renewal within {ANSWER_SECONDS:g} s"
        ) from None
    if answer.error is not None:
        kind = BY_CODE.get(answer.error.code, DevrouteError)
        raise kind(answer.error.message, hint=answer.error.hint)
    return answer.expires_in
