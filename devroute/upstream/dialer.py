"""Connects to one host and port: resolves the name, checks each address, connects to one that passed.

It never decides which addresses are permitted: `permit` does.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final, TypeVar

import aiohappyeyeballs

from devroute.contract.target import Address
from devroute.errors import CircuitOpen, DevrouteError, TargetUnreachable
from devroute.upstream.circuit_breaker import CircuitBreaker

#: Raises TargetDenied for an IP address and port that may not be reached.
Permit = Callable[[str, int], None]

#: Delay before the next address of a name is tried in parallel (RFC 8305 §5).
HAPPY_EYEBALLS_SECONDS: Final = 0.25

CONNECT_SECONDS: Final = 5.0

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Dialer:
    """`label` is the address for messages; `unreachable` the error class for failed or timed-out attempts.
    Times in seconds. Without `permit` the host is trusted and tried each time: it is the engineer's own app,
    which may be about to start. With `permit` there is a circuit breaker. `tls`: the context for a protocol
    of ALPN, None for clear text; only without `permit`."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        unreachable: type[DevrouteError] = TargetUnreachable,
        permit: Permit | None = None,
        tls: Callable[[str], ssl.SSLContext] | None = None,
        connect_timeout: float = CONNECT_SECONDS,
    ) -> None:
        self.label = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.connect_timeout = connect_timeout
        self._host = host
        self._port = port
        # An address literal needs no lookup: the loop has few threads for lookups, and slow name servers may
        # keep all of them busy.
        self._literal = Address(host, port).is_literal
        self._unreachable = unreachable
        self._permit = permit
        self._tls = tls
        self._breaker = CircuitBreaker() if permit is not None else None

    async def connect(self, protocol: Callable[[], P], alpn: str = "http/1.1") -> P:
        """Raises `unreachable`, CircuitOpen, or what `permit` raises."""
        breaker = self._breaker
        if breaker is None:
            return await self._attempt(protocol, alpn)
        clock = asyncio.get_running_loop().time
        if not breaker.admits(clock()):
            raise CircuitOpen(f"{self.label} failed several times in a row, and is not tried for a moment")
        try:
            made = await self._attempt(protocol, alpn)
        except self._unreachable:
            breaker.failed(clock())
            raise
        breaker.succeeded()
        return made

    async def _attempt(self, protocol: Callable[[], P], alpn: str) -> P:
        hint = None
        try:
            async with asyncio.timeout(self.connect_timeout):
                if self._permit is None:
                    return await self._dial(protocol, self._host, alpn)
                return await self._dial_permitted(protocol, self._permit)
        except TimeoutError:
            what = "accept a connection" if self._tls is None else "complete a TLS handshake"
            why = f"did not {what} within {self.connect_timeout:g} s"
        except socket.gaierror:
            why = "is a name that does not resolve"
        except ssl.SSLCertVerificationError as error:
            why = f"has a certificate that is not trusted: {error.verify_message}"
        except ssl.SSLError as error:
            why = f"does not speak TLS: {(error.reason or str(error)).replace('_', ' ').lower()}"
            hint = "an app without TLS is written with http:// or grpc://"
        except OSError as error:
            why = (
                "refused the connection"
                if isinstance(error, ConnectionRefusedError)
                else f"failed: {error.strerror}"
            )
        raise self._unreachable(f"{self.label} {why}", hint=hint)

    async def _dial_permitted(self, protocol: Callable[[], P], permit: Permit) -> P:
        """A name may resolve differently after the check, so only checked addresses are dialled."""
        addresses = [self._host] if self._literal else await self._look_up()
        for address in addresses:
            permit(address, self._port)
        refused: OSError | None = None
        for address in addresses:
            try:
                return await self._dial(protocol, address)
            except OSError as error:
                refused = error
        raise refused or OSError("no address")

    async def _look_up(self) -> list[str]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(entry[4][0]) for entry in found))

    async def _dial(self, protocol: Callable[[], P], host: str, alpn: str = "") -> P:
        loop = asyncio.get_running_loop()
        if self._permit is not None:  # an IP address needs no happy eyeballs
            _, made = await loop.create_connection(protocol, host, self._port)
        else:
            context = None if self._tls is None else self._tls(alpn)
            sock = await connect_first(host, self._port)
            _, made = await loop.create_connection(
                protocol, sock=sock, ssl=context, server_hostname=None if context is None else host
            )
        return made


async def connect_first(host: str, port: int) -> socket.socket:
    """A connection to the first of a name's addresses that accepts one (RFC 8305); under uvloop,
    create_connection does not do that. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await aiohappyeyeballs.start_connection(
        found, happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS, interleave=1
    )
