"""The API's client, for `devroute ls` and `devroute status`. Owns one request to the control port and turns
everything that can go wrong with it into an error that says what to do; never prints and never retries.
"""

import json
import os
from typing import Final

import aiohttp

from devroute.agent.settings import ClientSettings
from devroute.agent.tls import tls_for_server
from devroute.agent.token_source import TokenSource
from devroute.errors import BY_CODE, ConfigInvalid, DevrouteError, ServerUnreachable, TokenInvalid

#: Seconds for the whole request: a person waits.
TIMEOUT: Final = 10.0
#: Bytes of an answer: thousands of laptops fit.
MAX_ANSWER: Final = 8 * 1024 * 1024


async def fetch(settings: ClientSettings, path: str) -> dict[str, object]:
    """The JSON object at `path`, such as /api/laptops.

    Raises ConfigInvalid, ServerUnreachable, or the error that the server answered with.
    """
    if not settings.has_credential:
        raise ConfigInvalid("no token is given", hint=TokenInvalid.default_hint)
    tls = tls_for_server(settings)
    secret = await TokenSource(settings).get()
    if not secret.isascii() or not secret.isprintable():
        raise TokenInvalid("the token has characters that no token has")
    url = settings.server.replace("ws", "http", 1) if settings.server.startswith("ws") else settings.server
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session,
            session.get(
                url + path,
                headers={"Authorization": f"Bearer {secret}"} if secret else {},
                allow_redirects=False,
                ssl=tls if tls is not None else True,
            ) as response,
        ):
            body = await _read(response.content)
            status = response.status
    except TimeoutError:
        raise ServerUnreachable(
            f"{settings.server} did not answer within {TIMEOUT:g} s", hint=_HINT
        ) from None
    except aiohttp.ClientConnectorCertificateError as error:
        reason = f"its certificate is not trusted: {error.certificate_error}"
        raise ServerUnreachable(
            f"{settings.server}: {reason}", hint="a private CA? Name its file with --ca-file"
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        reason = _reason(error.os_error) if isinstance(error, aiohttp.ClientConnectorError) else str(error)
        raise ServerUnreachable(f"{settings.server} cannot be reached: {reason}", hint=_HINT) from error
    return _answer(settings.server, status, body)


_HINT: Final = "is the server's URL right (--server, DEVROUTE_SERVER), and is the VPN up?"


def _reason(error: OSError) -> str:
    """In the system's words; asyncio's own say which call failed."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


async def _read(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for piece in content.iter_any():
        body += piece
        if len(body) > MAX_ANSWER:
            break
    return bytes(body)


def _answer(server: str, status: int, body: bytes) -> dict[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and status == 200:
        return document
    if isinstance(document, dict) and isinstance(document.get("code"), str):
        kind = BY_CODE.get(document["code"], DevrouteError)
        raise kind(str(document.get("message", "")), hint=str(document.get("hint") or "") or None)
    raise ServerUnreachable(
        f"what answers at {server} (status {status}) is not devroute's control port", hint=_HINT
    )
