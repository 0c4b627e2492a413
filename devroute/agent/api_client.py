"""The client of the control port's API. Owns one request, and turns every failure into an error with a hint.
Never prints, never retries.
"""

import json
import os
from typing import Any, Final

import aiohttp

from devroute.agent.settings import ClientSettings
from devroute.agent.tls import tls_for_server
from devroute.agent.token_source import TokenSource
from devroute.errors import BY_CODE, ConfigInvalid, DevrouteError, ServerUnreachable, TokenInvalid
from devroute.tunnel.forward_proxy import HINT as PROXY_HINT

#: Seconds for the whole request.
TIMEOUT: Final = 10.0
#: Bytes of a response: room for thousands of laptops.
MAX_RESPONSE: Final = 8 * 1024 * 1024


async def fetch(settings: ClientSettings, path: str) -> dict[str, object]:
    """The JSON object at `path`, such as /api/laptops.

    Raises ConfigInvalid, ServerUnreachable, or the error in the server's response.
    """
    if not settings.has_credential:
        raise ConfigInvalid("no token is configured", hint=TokenInvalid.default_hint)
    tls = tls_for_server(settings)
    secret = await TokenSource(settings).get()
    if not secret.isascii() or not secret.isprintable():
        raise TokenInvalid("the token contains characters that no token may contain")
    url = settings.server.replace("ws", "http", 1) if settings.server.startswith("ws") else settings.server
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session,
            session.get(
                url + path,
                headers={"Authorization": f"Bearer {secret}"} if secret else {},
                allow_redirects=False,
                ssl=tls if tls is not None else True,
                **through_proxy(settings),
            ) as response,
        ):
            body = await _read(response.content)
            status = response.status
    except TimeoutError:
        raise ServerUnreachable(
            f"{settings.server} did not respond within {TIMEOUT:g} s", hint=_HINT
        ) from None
    except aiohttp.ClientConnectorCertificateError as error:
        reason = f"its certificate is not trusted: {error.certificate_error}"
        raise ServerUnreachable(
            f"{settings.server}: {reason}", hint="for a private CA, name its file: --ca-file FILE"
        ) from error
    except (aiohttp.ClientError, OSError) as error:
        reason = _reason(error.os_error) if isinstance(error, aiohttp.ClientConnectorError) else str(error)
        if isinstance(error, aiohttp.ClientError) and (of_proxy := _proxy_error(settings, error)) is not None:
            raise ServerUnreachable(f"{settings.server}: {of_proxy}", hint=PROXY_HINT) from error
        raise ServerUnreachable(f"{settings.server} cannot be reached: {reason}", hint=_HINT) from error
    return _document(settings.server, status, body)


def through_proxy(settings: ClientSettings) -> dict[str, Any]:
    """The arguments of aiohttp's requests for the forward proxy, if any."""
    proxy = settings.proxy_for_server()
    if proxy is None:
        return {}
    given = proxy.authorization
    return {"proxy": str(proxy), "proxy_auth": aiohttp.BasicAuth.decode(given, "utf-8") if given else None}


def _proxy_error(settings: ClientSettings, error: aiohttp.ClientError) -> str | None:
    """What a forward proxy has to do with an error, None if nothing."""
    proxy = settings.proxy_for_server()
    if proxy is None:
        return None
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy {proxy} responds with {error.status} {error.message}"
    return (
        f"the proxy {proxy} cannot be reached"
        if isinstance(error, aiohttp.ClientProxyConnectionError)
        else None
    )


_HINT: Final = "check the server's URL (--server, DEVROUTE_SERVER) and the VPN"


def _reason(error: OSError) -> str:
    """The system's text; asyncio's own names the call that failed."""
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)


async def _read(content: aiohttp.StreamReader) -> bytes:
    body = bytearray()
    async for piece in content.iter_any():
        body += piece
        if len(body) > MAX_RESPONSE:
            break
    return bytes(body)


def _document(server: str, status: int, body: bytes) -> dict[str, object]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and status == 200:
        return document
    if isinstance(document, dict) and isinstance(document.get("code"), str):
        kind = BY_CODE.get(document["code"], DevrouteError)
        raise kind(str(document.get("message", "")), hint=str(document.get("hint") or "") or None)
    raise ServerUnreachable(f"{server} (status {status}) is not devroute's control port", hint=_HINT)
