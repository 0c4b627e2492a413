"""Requests to the team's OIDC issuer. Owns the connection and its limits, and turns failures into errors;
knows nothing of grants. Never retries, and follows no redirect: forms hold secrets.
"""

import ssl
from collections.abc import Mapping
from typing import Any, Final

import aiohttp

from devroute.agent.api_client import failure_in_words, through_proxy
from devroute.agent.json_text import json_object
from devroute.agent.login.device_flow import LoginSettings, Provider, read
from devroute.agent.settings import ClientSettings
from devroute.auth.tls import client_context
from devroute.errors import LoginFailed, ServerUnreachable

#: Seconds for one request.
TIMEOUT: Final = 15.0
#: Bytes of a response: tokens have at most 8 KiB each, a discovery document some 10 KiB.
MAX_RESPONSE: Final = 256 * 1024
_DISCOVERY: Final = "/.well-known/openid-configuration"
_HINT: Final = "the issuer is the platform team's choice; check the network, VPN and proxy"


class IssuerClient:
    """`settings`: their `ca_file` is trusted beside the system's authorities, which sign for public issuers,
    and their forward proxy is used. The client certificate is for the proxy alone."""

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._tls = client_context(None)
        if settings.ca_file is not None:
            client_context(settings.ca_file)  # or ConfigInvalid
            self._tls.load_verify_locations(settings.ca_file.expanduser())

    async def discover(self, login: LoginSettings) -> Provider:
        """Where the issuer's endpoints are. Raises LoginFailed and ServerUnreachable."""
        issuer = login.issuer
        login.check()
        url = issuer.rstrip("/") + _DISCOVERY
        status, document = await self._send("GET", url, None)
        if status != 200:
            raise LoginFailed(f"{url} responds with status {status}: is it the issuer's URL?")
        provider = read(Provider, document, url)
        provider.check(issuer)
        return provider

    async def post(self, url: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        """The status and JSON object of the response, {} if it has none. Raises ServerUnreachable."""
        return await self._send("POST", url, form)

    async def _send(
        self, method: str, url: str, form: Mapping[str, str] | None
    ) -> tuple[int, dict[str, Any]]:
        tls: ssl.SSLContext | bool = self._tls if url.startswith("https:") else True
        through = through_proxy(
            self._settings.model_copy(update={"server": url}), {"Accept": "application/json"}
        )
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session,
                session.request(
                    method,
                    url,
                    data=form,
                    allow_redirects=False,
                    ssl=tls,
                    **through,
                ) as response,
            ):
                body = bytearray()
                async for piece in response.content.iter_any():
                    body += piece
                    if len(body) > MAX_RESPONSE:
                        raise LoginFailed(f"{url}: the response is longer than {MAX_RESPONSE} bytes")
                return response.status, json_object(bytes(body)) or {}
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise ServerUnreachable(
                f"the issuer cannot be reached at {url}: {failure_in_words(error)}", hint=_HINT
            ) from error
