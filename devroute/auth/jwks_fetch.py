"""One fetch of an issuer's keys over HTTP: which responses are accepted, and what is wrong with others."""

import json
import ssl
from collections.abc import Callable
from typing import Final, TypeVar

import aiohttp

from devroute.auth.tls import is_exposed
from devroute.errors import ConfigInvalid

#: Seconds for the requests of one fetch: two fetches and the cool-down end before a head's deadline (10 s).
FETCH_SECONDS: Final = 3.5
#: Bytes of a response; ten keys have some 10 KiB.
MAX_RESPONSE: Final = 256 * 1024

_DISCOVERY: Final = "/.well-known/openid-configuration"

K = TypeVar("K")


async def fetch(
    issuer: str, url: str | None, parse: Callable[[str, str], K], tls: ssl.SSLContext | None
) -> K:
    """What `parse(text, url)` makes of the response. Without `url`, it is taken from the issuer's discovery
    document. Raises ConfigInvalid for whatever fails."""
    timeout = aiohttp.ClientTimeout(total=FETCH_SECONDS)
    try:
        async with aiohttp.ClientSession(
            timeout=timeout, auto_decompress=False, headers={"accept-encoding": "identity"}
        ) as session:
            source = _Source(session, tls)
            url = url or await source.discover(issuer)
            return parse(await source.get(url), url)
    except (TimeoutError, OSError, aiohttp.ClientError, ValueError) as error:
        raise ConfigInvalid(_describe(error)) from None


class _Source:
    def __init__(self, session: aiohttp.ClientSession, tls: ssl.SSLContext | None) -> None:
        self._session = session
        self._tls = tls if tls is not None else True

    async def discover(self, issuer: str) -> str:
        where = issuer.rstrip("/") + _DISCOVERY
        try:
            document = json.loads(await self.get(where))
        except RecursionError:
            raise ConfigInvalid(f"{where}: not JSON") from None
        if not isinstance(document, dict) or document.get("issuer") != issuer:
            raise ConfigInvalid(f"{where}: not the document of the issuer '{issuer}'")
        url = document.get("jwks_uri")
        if not isinstance(url, str):
            raise ConfigInvalid(f"{where}: it has no jwks_uri")
        if not url.startswith(("https://", "http://")) or is_exposed(url):
            raise ConfigInvalid(f"{where}: its jwks_uri is not https")
        return url

    async def get(self, url: str) -> str:
        async with self._session.get(url, allow_redirects=False, ssl=self._tls) as response:
            if response.status != 200:
                raise ConfigInvalid(f"{url} responded with {response.status}")
            body = bytearray()
            async for piece in response.content.iter_any():
                body += piece
                if len(body) > MAX_RESPONSE:
                    raise ConfigInvalid(f"{url}: the response is longer than {MAX_RESPONSE} bytes")
        return body.decode()


def _describe(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no response within {FETCH_SECONDS:g} s"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    return " ".join(str(error).split()) or type(error).__name__
