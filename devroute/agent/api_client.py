"""The client of the control port's API. Owns one request, and turns every failure into an error with a hint.
Never prints, never retries.
"""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from devroute.agent.json_text import json_object
from devroute.agent.settings import ClientSettings
from devroute.agent.tls import tls_for_server
from devroute.agent.token_source import TokenSource
from devroute.errors import BY_CODE, ConfigInvalid, DevrouteError, ServerUnreachable, TokenInvalid
from devroute.tunnel.dial import CA_HINT, server_place
from devroute.tunnel.forward_proxy import HINT as PROXY_HINT

#: Seconds for the whole request.
TIMEOUT: Final = 10.0
#: Seconds without a byte after which events have ended: the server sends something every 15.
QUIET: Final = 40.0
#: Bytes of a response: room for thousands of laptops.
MAX_RESPONSE: Final = 8 * 1024 * 1024


async def fetch(settings: ClientSettings, path: str) -> dict[str, object]:
    """The JSON object at `path`, such as /api/laptops.

    Raises ConfigInvalid, ServerUnreachable, or the error in the server's response.
    """
    return await _request(settings, "GET", path, await _authorization(settings))


async def fetch_public(settings: ClientSettings, path: str) -> dict[str, object]:
    """The JSON object at a path that needs no token. Raises ServerUnreachable, or the error in the
    response."""
    return await _request(settings, "GET", path, {})


async def change(
    settings: ClientSettings, method: str, path: str, document: Mapping[str, object] | None = None
) -> dict[str, object]:
    """Send a JSON object, if there is one, to `path`; returns the one in the response. Raises as `fetch`."""
    return await _request(settings, method, path, await _authorization(settings), document)


async def follow(settings: ClientSettings, path: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The server-sent events at `path`, by name, until the server ends them. Raises as `fetch`."""
    headers = await _authorization(settings)
    url = web_url(settings) + path
    async with (
        _failures(settings),
        _session(None) as session,
        session.get(url, **_options(settings, headers)) as response,
    ):
        if response.status != 200:
            raise _error(settings.server, response.status, await read_beginning(response.content))
        name = ""
        async for line in response.content:
            field, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                yield name, _document(settings.server, 200, value.encode())


async def probe(settings: ClientSettings, servers: Sequence[str]) -> dict[str, ServerUnreachable | None]:
    """Each of these URLs, with None if a control port responds there, else the error. Sends no token."""
    found = await asyncio.gather(*(_try(settings.model_copy(update={"server": each})) for each in servers))
    return dict(zip(servers, found, strict=True))


async def _try(settings: ClientSettings) -> ServerUnreachable | None:
    try:
        await _request(settings, "GET", "/api/status", {})
    except ServerUnreachable as error:
        return error
    except DevrouteError:  # the server's: it wants a token
        return None
    return None


async def _authorization(settings: ClientSettings) -> dict[str, str]:
    if not settings.has_credential:
        raise ConfigInvalid("no token is configured", hint=TokenInvalid.default_hint)
    secret = await TokenSource(settings).get()
    if not secret.isascii() or not secret.isprintable():
        raise TokenInvalid("the token contains characters that no token may contain")
    return {"Authorization": f"Bearer {secret}"} if secret else {}


def web_url(settings: ClientSettings) -> str:
    """The server's URL as a browser has it."""
    server = settings.server
    return server.replace("ws", "http", 1) if server.startswith("ws") else server


async def _request(
    settings: ClientSettings,
    method: str,
    path: str,
    headers: Mapping[str, str],
    document: Mapping[str, object] | None = None,
) -> dict[str, object]:
    url = web_url(settings) + path
    async with (
        _failures(settings),
        _session(TIMEOUT) as session,
        session.request(method, url, json=document, **_options(settings, headers)) as response,
    ):
        body = await read_beginning(response.content)
        status = response.status
    return _document(settings.server, status, body)


def _session(seconds: float | None) -> aiohttp.ClientSession:
    """`seconds`: for a whole request. None: no limit but TIMEOUT to connect and QUIET between two reads."""
    timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=TIMEOUT, sock_read=seconds or QUIET)
    return aiohttp.ClientSession(timeout=timeout, read_bufsize=MAX_RESPONSE)


def _options(settings: ClientSettings, headers: Mapping[str, str]) -> dict[str, Any]:
    tls = tls_for_server(settings)
    return {
        "allow_redirects": False,
        "ssl": tls if tls is not None else True,
        **through_proxy(settings, headers),
    }


@asynccontextmanager
async def _failures(settings: ClientSettings) -> AsyncIterator[None]:
    """Turns what a request may fail with into ServerUnreachable."""
    try:
        yield
    except TimeoutError:
        raise ServerUnreachable(
            f"{settings.server} did not respond within {TIMEOUT:g} s", hint=_HINT
        ) from None
    except (aiohttp.ClientError, OSError) as error:
        if isinstance(error, aiohttp.ClientError) and (of_proxy := _proxy_error(settings, error)) is not None:
            raise ServerUnreachable(f"{settings.server}: {of_proxy}", hint=PROXY_HINT) from error
        hint = CA_HINT if isinstance(error, aiohttp.ClientConnectorCertificateError) else _HINT
        reason = failure_in_words(error)
        raise ServerUnreachable(f"{settings.server} cannot be reached: {reason}", hint=hint) from error
    # A line that is too long. Last, since an error of a certificate is a ValueError too.
    except (ValueError, HttpProcessingError) as error:
        raise ServerUnreachable(f"{settings.server} is not devroute's control port", hint=_HINT) from error


def through_proxy(settings: ClientSettings, headers: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of aiohttp's requests with these headers, through the forward proxy, if there is one."""
    proxy = settings.proxy_for_server()
    if proxy is None:
        return {"headers": headers}
    credentials = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
    if server_place(settings.server)[2]:
        return {"headers": headers, "proxy": str(proxy), "proxy_headers": credentials}
    # aiohttp adds `proxy_headers` to CONNECT only. Without TLS there is none: the proxy takes the credentials
    # from the request itself, and removes them.
    return {"headers": {**headers, **credentials}, "proxy": str(proxy)}


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


def failure_in_words(error: Exception) -> str:
    """Why a request of aiohttp got no response. Its own texts name classes, contexts and calls."""
    match error:
        case TimeoutError():
            return "no response in time"
        case aiohttp.ClientConnectorCertificateError():
            cause = error.certificate_error
            return f"its certificate is not trusted: {getattr(cause, 'verify_message', 'unknown reason')}"
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return "TLS failed: is it https or http?"
        case aiohttp.ClientConnectorDNSError():
            return f"the name '{error.host}' does not resolve"
        case aiohttp.ClientResponseError():
            return "it does not speak HTTP"
        case aiohttp.ServerDisconnectedError():
            return "it closed the connection without a response"
        case aiohttp.ClientPayloadError():
            return "its response broke off"
        case OSError():
            system = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
            known = system.errno is not None and system.errno > 0
            return os.strerror(system.errno or 0) if known else "it cannot be connected to"
    return "it cannot be asked"


async def read_beginning(content: aiohttp.StreamReader, size: int = MAX_RESPONSE) -> bytes:
    """The first `size` bytes of a response."""
    body = bytearray()
    async for piece in content.iter_any():
        body += piece
        if len(body) >= size:
            break
    return bytes(body[:size])


def _document(server: str, status: int, body: bytes) -> dict[str, object]:
    document = json_object(body)
    if document is not None and status in (200, 201):
        return document
    raise _error(server, status, body)


def _error(server: str, status: int, body: bytes) -> DevrouteError:
    """The error in a response."""
    document = json_object(body)
    if document is not None and isinstance(document.get("code"), str):
        kind = BY_CODE.get(document["code"], DevrouteError)
        return kind(str(document.get("message", "")), hint=str(document.get("hint") or "") or None)
    return ServerUnreachable(f"{server} (status {status}) is not devroute's control port", hint=_HINT)
