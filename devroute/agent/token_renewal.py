"""Keeps the token of a link good for as long as the link is up: a newer one is fetched before the old one
expires, and shown on the link itself, so that no request notices. The link's owner runs it and ends it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from devroute.agent.token_source import LEAST_PAUSE, UNKNOWN_LIFETIME, TokenSource, renewal_delay
from devroute.errors import BY_CODE, DevrouteError, ServerUnreachable
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.protocol import handshake

#: How long the server may take to judge a token, in seconds: it may have to ask the issuer for its keys.
ANSWER_SECONDS: Final = 15.0
#: After an attempt that failed, in seconds.
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
    """How long the newer token is good. Raises why it is not, and CancelledError when the link ends."""
    if link.renewing:
        raise ServerUnreachable("the server has not answered to the newer token before")
    try:
        async with asyncio.timeout(ANSWER_SECONDS):
            answer = handshake.decode(handshake.Renewed, await link.renew(token))
    except TimeoutError:
        raise ServerUnreachable(f"the server did not take the newer token in {ANSWER_SECONDS:g} s") from None
    if answer.error is not None:
        kind = BY_CODE.get(answer.error.code, DevrouteError)
        raise kind(answer.error.message, hint=answer.error.hint)
    return answer.expires_in
