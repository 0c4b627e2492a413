"""A client that resumes TLS sessions, as sidecars do; aiohttp does not."""

import asyncio
import json
import socket
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class Response(NamedTuple):
    resumed: bool
    headers: dict[str, str]
    body: Any  # JSON


async def get_resumed(
    address: str, context: ssl.SSLContext, headers: Mapping[str, str], times: int = 3
) -> list[Response]:
    """The responses to GET requests, each on its own connection; all but the first resume its session."""
    return await asyncio.to_thread(_get_resumed, address, context, headers, times)


def _get_resumed(
    address: str, context: ssl.SSLContext, headers: Mapping[str, str], times: int
) -> list[Response]:
    host, _, port = address.rpartition(":")
    lines = [f"{name}: {value}" for name, value in {"host": "foo", "connection": "close", **headers}.items()]
    request = "\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode()
    responses, session = [], None
    for _ in range(times):
        connection = socket.create_connection((host, int(port)), timeout=20)
        with context.wrap_socket(connection, session=session) as secure:
            secure.sendall(request)
            head, _, body = b"".join(iter(lambda: secure.recv(65536), b"")).partition(b"\r\n\r\n")
            session = session or secure.session  # with TLS 1.3 there is none before the first bytes
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
            responses.append(Response(bool(secure.session_reused), fields, _json(body, fields)))
    return responses


def _json(body: bytes, fields: Mapping[str, str]) -> Any:
    """The body, which comes in one chunk at most."""
    return json.loads(body.split(b"\r\n")[1] if "transfer-encoding" in fields else body)
