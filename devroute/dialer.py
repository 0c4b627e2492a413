"""Connections to one address: resolve, check every address, connect to one that was checked.

It never decides who may be reached: `permit` does, where there is one.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import Final, TypeVar

from devroute.errors import DevrouteError

#: Raises TargetDenied for an IP address and port that may not be reached.
Permit = Callable[[str, int], None]

#: Before the next address of a name is tried beside the first (RFC 8305 §5).
HAPPY_EYEBALLS_SECONDS: Final = 0.25

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Dialer:
    """`label` is the address for messages; `unreachable` the class of the error for refused and timed-out
    connections; without `permit` the host is trusted (the agent's own app). Times in seconds."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        unreachable: type[DevrouteError],
        permit: Permit | None,
        connect_timeout: float,
    ) -> None:
        self.label = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.connect_timeout = connect_timeout
        self._host = host
        self._port = port
        self._unreachable = unreachable
        self._permit = permit

    async def connect(self, protocol: Callable[[], P]) -> P:
        """Raises `unreachable`, or what `permit` raises."""
        try:
            async with asyncio.timeout(self.connect_timeout):
                if self._permit is None:
                    return await self._dial(protocol, self._host)
                return await self._dial_permitted(protocol, self._permit)
        except TimeoutError:
            why = f"did not accept a connection within {self.connect_timeout:g} s"
        except socket.gaierror:
            why = "is a name that does not resolve"
        except OSError as error:
            why = (
                "refused the connection"
                if isinstance(error, ConnectionRefusedError)
                else f"failed: {error.strerror}"
            )
        raise self._unreachable(f"{self.label} {why}")

    async def _dial_permitted(self, protocol: Callable[[], P], permit: Permit) -> P:
        """What a name means may change between a check and a connection, so only addresses are dialled."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        for address in addresses:
            permit(address, self._port)
        refused: OSError | None = None
        for address in addresses:
            try:
                return await self._dial(protocol, address)
            except OSError as error:
                refused = error
        raise refused or OSError("no address")

    async def _dial(self, protocol: Callable[[], P], host: str) -> P:
        _, made = await asyncio.get_running_loop().create_connection(
            protocol, host, self._port, happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS
        )
        return made
