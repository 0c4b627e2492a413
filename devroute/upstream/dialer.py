"""Connects to one host and port: resolves the name, checks each address, connects to one that passed.

It never decides which addresses are permitted: `permit` does.
"""

import asyncio
import errno
import ipaddress
import socket
import ssl
from collections.abc import Callable
from typing import Final, TypeVar

import aiohappyeyeballs

from devroute import descriptors
from devroute.contract.target import Address
from devroute.errors import CircuitOpen, DevrouteError, TargetUnreachable, UpstreamReset
from devroute.upstream.circuit_breaker import CircuitBreaker
from devroute.upstream.resolver import Resolver

#: Raises TargetDenied for an IP address and port that may not be reached.
Permit = Callable[[str, int], None]
#: Raises ReachDenied for the name and the addresses that an alias (CNAME) leads to, if it may not.
PermitAlias = Callable[[str, list[str]], None]

#: Delay before the next address of a name is tried in parallel (RFC 8305 §5).
HAPPY_EYEBALLS_SECONDS: Final = 0.25

CONNECT_SECONDS: Final = 5.0

#: Seconds for which a refused connection is tried again, unless the settings say otherwise: as long as apps
#: take to restart, and short enough for a person who has forgotten to start theirs.
RETRY_REFUSED_SECONDS: Final = 1.0

#: Before the second attempt, and the longest before a later one.
FIRST_PAUSE_SECONDS: Final = 0.02
LAST_PAUSE_SECONDS: Final = 0.16

# The kernel reports the second and third where the host's own network says that it has gone.
_VANISHED: Final = (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH)

#: What to do about an app that closes a connection before it responds.
CLOSED_HINT: Final = (
    "is the app still starting (the port of a container accepts connections before its app does), or does it"
    " speak TLS (devroute up SERVICE=https://HOST:PORT)?"
)

P = TypeVar("P", bound=asyncio.BaseProtocol)


def peer_vanished(label: str, error: Exception | None) -> UpstreamReset | None:
    """What to report where a connection was lost because its peer acknowledges nothing; None where it was
    lost for another reason."""
    if not (isinstance(error, OSError) and error.errno in _VANISHED):
        return None
    return UpstreamReset(
        f"{label} no longer acknowledges what it is sent",
        hint="has its host gone to sleep, or left its network?",
    )


class Dialer:
    """`label` is the address for messages; `unreachable` the error class for failed or timed-out attempts,
    `unknown` that of names that do not resolve, the same unless it is given.
    Times in seconds. Without `permit` the host is trusted and tried each time: it is the engineer's own app,
    which may be about to start. With `permit` there is a circuit breaker, and `permit_alias`, if given, is
    asked about aliases. `tls`: the context for a protocol of ALPN, None for cleartext; only without `permit`.
    `retry_refused`: seconds for which a refused connection is tried again, since an app restarts when its
    source is saved."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        unreachable: type[DevrouteError] = TargetUnreachable,
        unknown: type[DevrouteError] | None = None,
        permit: Permit | None = None,
        permit_alias: PermitAlias | None = None,
        tls: Callable[[str], ssl.SSLContext] | None = None,
        connect_timeout: float = CONNECT_SECONDS,
        retry_refused: float = 0.0,
        resolver: Resolver | None = None,
    ) -> None:
        address = Address(host, port)
        self.label = str(address)
        self.connect_timeout = connect_timeout
        self._retry_refused = retry_refused
        self._host = host
        self._port = port
        self._resolver = Resolver() if resolver is None else resolver
        self._literal = address.is_literal
        self._answered: str | None = None  # the loopback address that a name led to
        self._unreachable = unreachable
        self._unknown = unknown or unreachable
        self._permit = permit
        self._permit_alias = permit_alias
        self._tls = tls
        self._breaker = CircuitBreaker() if permit is not None else None

    async def connect(self, protocol: Callable[[], P], alpn: str = "http/1.1", *, patient: bool = True) -> P:
        """Raises `unreachable`, CircuitOpen, or what `permit` raises. Not `patient`: a refusal is final."""
        breaker = self._breaker
        patience = self._retry_refused if patient else 0.0
        if breaker is None:
            return await self._attempt(protocol, alpn, patience)
        clock = asyncio.get_running_loop().time
        if not breaker.admits(clock()):
            raise CircuitOpen(f"{self.label} failed several times in a row, and is not tried for a moment")
        try:
            made = await self._attempt(protocol, alpn, patience)
        except self._unreachable:
            breaker.failed(clock())
            raise
        breaker.succeeded()
        return made

    def closes_at_once(self) -> DevrouteError:
        """The error for a connection that was accepted, and then closed at once."""
        return self._unreachable(
            f"{self.label} accepts connections and closes them at once",
            hint=CLOSED_HINT,
        )

    async def _attempt(self, protocol: Callable[[], P], alpn: str, patience: float) -> P:
        hint = None
        try:
            async with asyncio.timeout(self.connect_timeout + patience):
                return await self._dial_again(protocol, alpn, patience)
        except TimeoutError:
            what = "accept a connection" if self._tls is None else "complete a TLS handshake"
            why = f"did not {what} within {self.connect_timeout:g} s"
        except socket.gaierror:
            raise self._unknown(f"{self.label} is a name that does not resolve") from None
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
        except DevrouteError:
            raise
        except Exception as error:  # the last resort: after a bug, requests would wait for a connection
            report = {"message": f"a bug: no connection to {self.label}", "exception": error}
            asyncio.get_running_loop().call_exception_handler(report)
            raise self._unreachable(f"{self.label} failed: {type(error).__name__}") from error
        raise self._unreachable(f"{self.label} {why}", hint=hint)

    async def _dial_again(self, protocol: Callable[[], P], alpn: str, patience: float) -> P:
        """Try refused connections again, for `patience` seconds."""
        loop = asyncio.get_running_loop()
        last = loop.time() + patience
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                descriptors.check()
                if self._permit is None:
                    return await self._dial_trusted(protocol, alpn)
                return await self._dial_permitted(protocol, self._permit)
            except ConnectionRefusedError:
                if loop.time() + pause > last:
                    if self._answered is None:
                        raise
                    self._answered = None  # try all addresses, once
                    continue
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE_SECONDS)

    async def _dial_trusted(self, protocol: Callable[[], P], alpn: str) -> P:
        """`localhost` may lead to two apps, on 127.0.0.1 and ::1: the one that answered first is the one that
        is meant, also while it restarts."""
        loop = asyncio.get_running_loop()
        sock = await connect_first(self._answered or self._host, self._port)
        peer = str(sock.getpeername()[0])
        if ipaddress.ip_address(peer.partition("%")[0]).is_loopback:  # others may move to another machine
            self._answered = peer
        context = None if self._tls is None else self._tls(alpn)
        name = None if context is None else self._host
        return (await loop.create_connection(protocol, sock=sock, ssl=context, server_hostname=name))[1]

    async def _dial_permitted(self, protocol: Callable[[], P], permit: Permit) -> P:
        """A name may resolve differently after the check, so only checked addresses are dialled."""
        loop = asyncio.get_running_loop()
        addresses = [self._host]
        if not self._literal:
            found = await self._resolver.look_up(self._host)
            addresses = found.addresses
            if self._permit_alias is not None and found.name not in ("", self._host.removesuffix(".")):
                self._permit_alias(found.name, addresses)
        for address in addresses:
            permit(address, self._port)
        refused: OSError | None = None
        for address in addresses:
            try:
                return (await loop.create_connection(protocol, address, self._port))[1]
            except OSError as error:
                refused = error
        raise refused or OSError("no address")


async def connect_first(host: str, port: int) -> socket.socket:
    """A connection to the first of a name's addresses that accepts one (RFC 8305); under uvloop,
    create_connection does not do that. A literal address waits for no look-up of others: the loop has few
    threads for them. Raises OSError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await aiohappyeyeballs.start_connection(
        found, happy_eyeballs_delay=HAPPY_EYEBALLS_SECONDS, interleave=1
    )
