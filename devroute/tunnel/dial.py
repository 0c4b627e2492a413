"""How the agent makes a link: connect to the control port, upgrade, hand the connection to an AgentLink.

Every failure becomes an error with a hint. Dials again only past used connections; agent/link_keeper.py
retries.
"""

import asyncio
import json
import os
import socket
import ssl
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Final, cast
from urllib.parse import urlsplit

from devroute import __version__
from devroute.errors import (
    BY_CODE,
    ConnectionUsed,
    DevrouteError,
    ProtocolError,
    ServerUnreachable,
    TokenInvalid,
)
from devroute.headers import REPLICA
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.forward_proxy import ForwardProxy
from devroute.tunnel.protocol.websocket import (
    HeadLines,
    WebSocket,
    check_upgraded,
    request_upgrade,
    split_head,
)
from devroute.upstream.dialer import connect_first

#: Seconds for name resolution, connection, TLS and upgrade together.
DIAL_SECONDS: Final = 10.0

#: Bytes of a response other than 101 that are read for the error in it.
MAX_RESPONSE: Final = 64 * 1024

#: Attempts that may meet a used connection of an ingress's pool before it opens a new one for the tunnel.
MAX_USED_CONNECTIONS: Final = 8

_HINT: Final = "is the server's URL right (--server, DEVROUTE_SERVER), and is the VPN up?"

#: What to do about a certificate, by OpenSSL's codes (x509_vfy.h); all others mean an unknown authority.
CA_HINT: Final = "for a private CA, name its file: --ca-file FILE"
_CERTIFICATE_HINTS: Final = {
    9: "it is not valid yet: check this laptop's clock",
    10: "it has expired: check this laptop's clock, then ask the platform team",
    62: "it is for another name: check the server's URL (devroute init)",
    64: "it is for another address: check the server's URL (devroute init)",
}


class SameReplica(DevrouteError, code="same-replica", status=503):
    """The connection leads to a replica to which there is a link already."""


MakeLink = Callable[[WebSocket, asyncio.AbstractEventLoop], AgentLink]


async def dial(
    server: str,
    token: str,
    make_link: MakeLink,
    *,
    tls: ssl.SSLContext | None = None,
    seconds: float = DIAL_SECONDS,
    proxy: ForwardProxy | None = None,
    other_than: Collection[str] = (),
) -> AgentLink:
    """Connect to `server` (an http, https, ws or wss URL), within `seconds` per attempt. `tls` replaces the
    system's certificate authorities. `proxy`: a forward proxy in between. `other_than`: replicas to which no
    link is wanted.

    Raises ServerUnreachable, TokenInvalid, SameReplica, or the error in the server's response.
    """
    for _ in range(MAX_USED_CONNECTIONS):
        try:
            return await _attempt(server, token, make_link, tls, seconds, proxy, other_than)
        except ConnectionUsed:
            continue
    raise ServerUnreachable(
        f"{server}: something in between keeps sending the tunnel on used connections",
        hint="let the ingress use a connection of its own for WebSocket upgrades",
    )


async def _attempt(
    server: str,
    token: str,
    make_link: MakeLink,
    tls: ssl.SSLContext | None,
    seconds: float,
    proxy: ForwardProxy | None,
    other_than: Collection[str],
) -> AgentLink:
    url = urlsplit(server)
    if not token.isascii() or not token.isprintable():
        raise TokenInvalid("the token contains characters that no token may contain")
    fields = {"user-agent": f"devroute/{__version__}"}
    if token:  # without one, a client certificate identifies the laptop
        fields["authorization"] = f"Bearer {token}"
    request, key = request_upgrade(url.netloc, url.path.rstrip("/") + "/tunnel", fields, os.urandom(16))
    loop = asyncio.get_running_loop()

    handshake = _Handshake(request, key, make_link, loop, other_than)
    try:
        async with asyncio.timeout(seconds):
            await connect(server, lambda: handshake, tls=tls, proxy=proxy)
            return await handshake.outcome
    except TimeoutError:
        way = "" if proxy is None else f" through the proxy {proxy}"
        raise ServerUnreachable(f"{server} did not respond within {seconds:g} s{way}", hint=_HINT) from None
    except (OSError, ProtocolError) as error:
        raise unreachable(server, error) from None
    finally:
        handshake.give_up()


async def connect(
    server: str,
    protocol: Callable[[], asyncio.BaseProtocol],
    *,
    tls: ssl.SSLContext | None = None,
    proxy: ForwardProxy | None = None,
) -> asyncio.BaseTransport:
    """A connection to the server, with TLS if its URL says so; waits as long as it takes. Raises OSError, of
    which `unreachable` makes an error, and ServerUnreachable for a proxy that fails."""
    host, port, secure = server_place(server)
    context = (tls or ssl.create_default_context()) if secure else None
    sock = await (connect_first(host, port) if proxy is None else proxy.connect(host, port))
    transport, _ = await asyncio.get_running_loop().create_connection(
        protocol, sock=sock, ssl=context, server_hostname=host if secure else None
    )
    return transport


def server_place(server: str) -> tuple[str, int, bool]:
    """Host and port of a server's URL, and whether it is one for TLS."""
    url = urlsplit(server)
    secure = url.scheme in ("https", "wss")
    return url.hostname or "", url.port or (443 if secure else 80), secure


def unreachable(server: str, error: OSError | ProtocolError) -> ServerUnreachable:
    """The error for a server that cannot be connected to, with what to do about it."""
    hint = _HINT
    match error:
        case ProtocolError():
            reason = error.message
        case ssl.SSLCertVerificationError():
            reason = f"its certificate is not trusted: {error.verify_message}"
            hint = _CERTIFICATE_HINTS.get(error.verify_code, CA_HINT)
        case ssl.SSLError():
            reason = f"TLS failed: {(error.reason or 'no reason').replace('_', ' ').lower()}"
            hint = "is it https or http?"
        case socket.gaierror():
            reason = f"the name '{server_place(server)[0]}' does not resolve"
        case ConnectionRefusedError():
            reason = "refused the connection"
        case _:  # in the system's words; asyncio's name the call that failed
            known = error.errno is not None and error.errno > 0
            reason = os.strerror(error.errno or 0) if known else "cannot be connected to"
    return ServerUnreachable(f"{server}: {reason}", hint=hint)


class _Handshake(asyncio.Protocol):
    """The connection until the server's response is complete. `outcome` gets the link, or the error."""

    def __init__(
        self,
        request: bytes,
        key: bytes,
        make_link: MakeLink,
        loop: asyncio.AbstractEventLoop,
        other_than: Collection[str] = (),
    ) -> None:
        self.outcome: asyncio.Future[AgentLink] = loop.create_future()
        self._request = request
        self._key = key
        self._make_link = make_link
        self._loop = loop
        self._other_than = other_than
        self._read = b""
        self._transport: asyncio.Transport | None = None

    def give_up(self) -> None:
        """Close the connection unless it has become a link."""
        if self.outcome.cancelled() or not self.outcome.done() or self.outcome.exception() is not None:
            self.outcome.cancel()
            if self._transport is not None:
                self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._read += data
        end = self._read.find(b"\r\n\r\n") + 4
        if self.outcome.done() or (end < 4 and len(self._read) <= MAX_RESPONSE):
            return
        try:
            if end < 4:
                raise ProtocolError("it does not speak HTTP")
            self._responded(split_head(self._read[:end]), self._read[end:])
        except DevrouteError as error:
            self.outcome.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.outcome.done():
            head, end, body = self._read.partition(b"\r\n\r\n")
            no_response = ProtocolError("it closed the connection without a response")
            self.outcome.set_exception(_error_in(split_head(head + end), body) if end else no_response)

    def _responded(self, head: HeadLines, rest: bytes) -> None:
        if not head.start.startswith((b"HTTP/1.1 ", b"HTTP/1.0 ")):
            raise ProtocolError("it does not speak HTTP")
        if _status(head) != 101:
            length = head.fields.get(b"content-length", b"")
            if len(rest) < (int(length) if length.isdigit() else MAX_RESPONSE) and len(rest) < MAX_RESPONSE:
                return  # its body is not complete
            raise _error_in(head, rest)
        check_upgraded(head, self._key)
        replica = head.fields.get(REPLICA.encode("ascii"), b"").decode("latin-1")
        if replica and replica in self._other_than:
            raise SameReplica(f"the replica {replica} again")
        assert self._transport is not None
        link = self._make_link(WebSocket(client=True, random=os.urandom), self._loop)
        self._transport.set_protocol(link)
        link.connection_made(self._transport)
        self.outcome.set_result(link)
        link.feed(rest)


def _status(head: HeadLines) -> int:
    status = head.start[9:12]
    return int(status) if status.isdigit() else 0


def _error_in(head: HeadLines, body: bytes) -> DevrouteError:
    """The error in a response other than 101: devroute's own, as JSON, or one of something in between."""
    status = _status(head)
    with suppress(ValueError, KeyError, TypeError, RecursionError):
        document = json.loads(body)
        kind = BY_CODE[document["code"]]
        return kind(str(document["message"]), hint=str(document.get("hint") or "") or None)
    if status in (401, 403):
        return TokenInvalid(
            f"something in front of the server responded with {status}: it wants another credential"
        )
    if status in (301, 302, 307, 308):
        where = head.fields.get(b"location", b"").decode("latin-1")
        return ServerUnreachable(f"the server is elsewhere: {status} redirects to {where}", hint=_HINT)
    return ServerUnreachable(
        f"it responded with {status} instead of opening a tunnel",
        hint="the URL has to be that of devroute's control port",
    )
