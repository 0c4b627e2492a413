"""Requests from inside a pod or a laptop: connections of this process, made in its network namespace."""

import json
import socket
from typing import NamedTuple

from aiohttp import ClientSession, ClientTimeout, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

from tests.istio.netns import Namespace
from tests.istio.topology import hosts


class Response(NamedTuple):
    """`app` responded; `result` and `reason` are devroute's."""

    status: int
    app: str | None
    result: str | None
    reason: str | None
    body: str

    @property
    def hops(self) -> list[str]:
        return list(json.loads(self.body)["hops"])


class _Hosts(AbstractResolver):
    """/etc/hosts of the pods."""

    def __init__(self) -> None:
        lines = (line.split() for line in hosts().splitlines())
        self._addresses = {name: address for address, *names in lines for name in names}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        address = self._addresses[host]
        flags = socket.AI_NUMERICHOST
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_INET, proto=0, flags=flags)
        ]

    async def close(self) -> None: ...


def session(namespace: Namespace, *, reuse: bool = False) -> ClientSession:
    """Whose connections start in the namespace; a new one for each request, unless they are reused."""
    connector = TCPConnector(
        resolver=_Hosts(),
        socket_factory=lambda info: namespace.open_socket(info[0], info[1]),
        force_close=not reuse,
        limit=0,
    )
    return ClientSession(connector=connector, timeout=ClientTimeout(total=30))


async def ask(
    namespace: Namespace,
    url: str,
    contract: object = None,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """One request on a connection of its own; `contract` is what X-devroute is to say."""
    async with session(namespace) as opened:
        return await ask_in(opened, url, contract, method=method, body=body, headers=headers)


async def ask_in(
    opened: ClientSession,
    url: str,
    contract: object = None,
    *,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    carried = {} if contract is None else {"x-devroute": json.dumps(contract)}
    async with opened.request(
        method, url, data=body, headers={**carried, **(headers or {})}, ssl=False
    ) as got:
        found = got.headers
        return Response(
            got.status,
            found.get("x-app"),
            found.get("x-devroute-result"),
            found.get("x-devroute-reason"),
            await got.text(),
        )


async def admin(namespace: Namespace, path: str, method: str = "GET") -> str:
    """Envoy's admin interface in a pod."""
    async with session(namespace) as opened, opened.request(method, f"http://localhost:15000/{path}") as got:
        return await got.text()
