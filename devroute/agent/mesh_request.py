"""Sends a request with a contract into the mesh, and collects its hops. Never follows a redirect: the
contract is for the host that was named, and no other."""

import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp

from devroute.agent import trace
from devroute.agent.api_client import failure_in_words, read_beginning
from devroute.agent.settings import ClientSettings
from devroute.agent.trace_report import TraceResult
from devroute.auth.tls import client_context
from devroute.contract.entry_urls import entry_for, requested_url
from devroute.errors import ConfigInvalid, ServerUnreachable
from devroute.headers import CONTRACT
from devroute.quoting import quote

#: Seconds for the whole request, and bytes of the response's body that are kept.
TIMEOUT: Final = 30.0
MAX_BODY: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class MeshRequest:
    url: str
    contract: str
    method: str = "GET"
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class MeshResponse:
    """`body`: its first MAX_BODY bytes."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


async def send(settings: ClientSettings, request: MeshRequest) -> tuple[MeshResponse, TraceResult]:
    """The response to a request, and its trace. Raises ServerUnreachable where there is no response, and as
    `fetch`, before anything is sent."""
    trace_id, found = trace.new_trace(), list[MeshResponse]()

    async def sent() -> trace.Sent:
        found.append(await _response(settings, request, trace.trace_headers(trace_id)))
        return 0, None

    traced = await trace.send_traced(settings, trace_id, sent)
    return found[0], traced


async def _response(settings: ClientSettings, request: MeshRequest, own: Mapping[str, str]) -> MeshResponse:
    headers = [*request.headers, (CONTRACT, request.contract), *own.items()]
    tls: ssl.SSLContext | bool = True
    if request.url.startswith("https:") and settings.ca_file is not None:
        tls = client_context(settings.ca_file)
    timeout = aiohttp.ClientTimeout(total=TIMEOUT)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, trust_env=True) as session,
            session.request(
                request.method,
                request.url,
                headers=headers,
                data=request.body or None,
                allow_redirects=False,
                ssl=tls,
            ) as response,
        ):
            body = await read_beginning(response.content, MAX_BODY)
            return MeshResponse(response.status, list(response.headers.items()), body)
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError):
        raise ConfigInvalid(
            f"{quote(request.url)} is no URL of http or https", hint="write it like http://a.qa.example/"
        ) from None
    except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
        raise ServerUnreachable(
            f"{request.url} cannot be reached: {failure_in_words(error)}", hint="check the URL and the VPN"
        ) from error
    except ValueError as error:
        raise ConfigInvalid(f"the request cannot be sent: {error}") from None


def entry_url(entries: object, services: Sequence[str]) -> str:
    """The URL at which a request for these services enters the mesh, of the entries in the server's status.
    Raises ConfigInvalid where there is none."""
    known = {str(name): str(url) for name, url in entries.items()} if isinstance(entries, Mapping) else {}
    name = entry_for(services, known)
    if name is None:
        raise ConfigInvalid(
            "it is not known where requests enter the mesh",
            hint="give the URL, such as http://a.qa.example/, or have the platform team set entry_url",
        )
    return requested_url(known[name])
