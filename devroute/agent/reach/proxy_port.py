"""The one local port for programs that know proxies: SOCKS 5 with names, HTTP's CONNECT, and requests in
absolute form (RFC 9112 §3.2.2).

After CONNECT and SOCKS, the client's first bytes show whether it speaks HTTP, which goes the way of HTTP
through the mesh, or anything else, which goes as bytes. A client that waits for the server's first bytes is
found by waiting, as sidecars do. Nothing but these forms is served: a page can send none of them.
"""

import asyncio
import re
from typing import Final, Protocol

from devroute.agent.reach import socks
from devroute.agent.reach.byte_pipe import BytePipe, Greeting, NoGreeting
from devroute.agent.reach.http_port import adopt
from devroute.agent.reach.mesh_port import MeshPort
from devroute.contract.target import Malformed, parse_address, parse_port
from devroute.downstream.listener import Listener
from devroute.errors import (
    DevrouteError,
    HeadTooLarge,
    NotSupported,
    ReachOutside,
    RequestMalformed,
    ServerUnreachable,
    TargetDenied,
    TargetUnreachable,
    UpstreamTimeout,
)
from devroute.http.aio.connection import Connection
from devroute.http.error_response import http1_error
from devroute.http.http1.fields import END_OF_HEAD
from devroute.http.http2.protocol import PREFACE
from devroute.upstream.interface import Upstream

#: Bytes of a client before it has named its destination.
MAX_HEAD: Final = 8 * 1024
# Not Final, which compiled code would not read again: tests change these.
#: Seconds for that.
HEAD_SECONDS = 10.0
#: Connections of the port.
MAX_CONNECTIONS = 512
#: Seconds for the client's first bytes, before the server is taken to speak first.
SNIFF_SECONDS = 0.3

_CONNECT: Final = re.compile(rb"CONNECT ([!-~]+) HTTP/1\.[01]\r\n")
_HTTP1: Final = re.compile(rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE|QUERY) [!-~]")
_LONGEST: Final = len(b"OPTIONS /")
_SPACED: Final = re.compile(rb"[A-Z]+ ?\Z")

_START, _SOCKS, _CONNECT_HEAD, _SNIFF, _DONE = range(5)


class Ways(Protocol):
    """Where connections of the port go."""

    pipes: "set[BytePipe]"

    @property
    def connections(self) -> int:
        """The number of those that have been passed on."""

    def destination(self, host: str, port: int, *, literal: bool) -> MeshPort:
        """Raises ReachOutside."""

    def check_ready(self, to: MeshPort) -> None:
        """Raises the error of what cannot be reached now, as far as is known."""

    def is_bytes(self, to: MeshPort) -> bool:
        """Whether a connection is to be made before the client's first bytes."""

    def upstream(self, to: MeshPort) -> Upstream:
        """For bytes."""

    def listener(self, to: MeshPort) -> Listener:
        """For HTTP."""

    def failed(self, name: str, error: DevrouteError) -> None:
        """Report a connection that was not made; `name` is what was to be reached."""


class SocksGreeting:
    def connected(self) -> bytes:
        return socks.reply(socks.SUCCEEDED)

    def failed(self, error: DevrouteError) -> bytes:
        return socks.reply(reply_code(error))


class ConnectGreeting:
    def connected(self) -> bytes:
        return b"HTTP/1.1 200 Connected\r\n\r\n"

    def failed(self, error: DevrouteError) -> bytes:
        return http1_error(error, close=True)


def reply_code(error: DevrouteError) -> int:
    """What SOCKS says of an error (RFC 1928 §6)."""
    if isinstance(error, ReachOutside | TargetDenied) or error.status == 403:
        return socks.NOT_ALLOWED
    if isinstance(error, NotSupported):
        return socks.NO_SUCH_COMMAND
    if isinstance(error, ServerUnreachable):
        return socks.UNREACHABLE
    if isinstance(error, TargetUnreachable):
        return socks.REFUSED
    if isinstance(error, UpstreamTimeout) or error.status == 404:
        return socks.HOST_UNREACHABLE
    return socks.FAILED


class ProxyConnection(Connection):
    """A client until it has named its destination and protocol. `open`: those that have not; `requests`: the
    listener for the absolute form."""

    __slots__ = (
        "_buffer", "_greeted", "_greeting", "_named", "_open", "_requests", "_since", "_sniffing", "_state",
        "_to", "_ways",
    )  # fmt: skip

    def __init__(
        self, ways: Ways, open_: "set[ProxyConnection]", requests: Listener, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(loop)
        self._ways = ways
        self._open = open_
        self._requests = requests
        self._buffer = b""
        self._state = _START
        self._greeting: Greeting = NoGreeting()
        self._greeted = False  # of SOCKS: the methods were read
        self._named = "the proxy port"
        self._to: MeshPort | None = None
        self._sniffing: asyncio.TimerHandle | None = None
        self._since = loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._open) + self._ways.connections >= MAX_CONNECTIONS:
            self.transport.abort()
        self._open.add(self)

    def check(self, now: float) -> None:
        """Close one that does not say where to."""
        if now - self._since > HEAD_SECONDS:
            self.close()

    def received(self, data: bytes) -> None:
        if self._state == _DONE or self.closed:
            return
        self._buffer += data
        try:
            self._advance()
        except DevrouteError as error:
            self._refuse(error)

    def eof_received(self) -> bool:
        return False

    def lost(self, error: Exception | None) -> None:
        self._end()

    def _end(self) -> None:
        self._state = _DONE
        self._open.discard(self)
        if self._sniffing is not None:
            self._sniffing.cancel()
            self._sniffing = None

    # --- where to

    def _advance(self) -> None:
        if self._state == _START:
            first = self._buffer[0]
            if first == socks.VERSION:
                self._state, self._greeting = _SOCKS, SocksGreeting()
            elif first < 32:
                raise NotSupported(
                    "SOCKS 4 and TLS are not served", hint="use socks5h://, or http:// for the proxy"
                )
            elif self._buffer[:8] == b"CONNECT ":
                self._state, self._greeting = _CONNECT_HEAD, ConnectGreeting()
            elif not b"CONNECT ".startswith(self._buffer):
                self._pass_to(self._requests)
        if self._state == _SOCKS:
            self._read_socks()
        elif self._state == _CONNECT_HEAD:
            self._read_connect()
        elif self._state == _SNIFF:
            self._sniff(waited=False)

    def _read_socks(self) -> None:
        if not self._greeted:
            methods = socks.read_methods(self._buffer)
            if methods is None:
                return
            self._buffer = self._buffer[methods[0] :]
            if not methods[1]:
                self.write(socks.NO_METHOD)
                self._end()
                self.close()
                return
            self._greeted = True
            self.write(socks.ACCEPTED)
        request = socks.read_request(self._buffer)
        if request is not None:
            size, connect = request
            self._buffer = self._buffer[size:]
            self._go(connect.host, connect.port, literal=connect.literal)

    def _read_connect(self) -> None:
        end = self._buffer.find(END_OF_HEAD) + 4
        if end < 4 or end > MAX_HEAD:
            if len(self._buffer) > MAX_HEAD:
                raise HeadTooLarge(f"the head of CONNECT is longer than {MAX_HEAD} bytes")
            return
        line = _CONNECT.match(self._buffer)
        if line is None:
            raise RequestMalformed(
                "the request line is not 'CONNECT HOST:PORT HTTP/1.1'", hint="RFC 9110 §9.3.6"
            )
        self._buffer = self._buffer[end:]
        host, port, literal = split_authority(line[1].decode("latin-1"), None)
        self._go(host, port, literal=literal)

    # --- what it speaks

    def _go(self, host: str, port: int, *, literal: bool) -> None:
        self._named = f"{host}:{port}"
        to = self._to = self._ways.destination(host, port, literal=literal)
        if self._ways.is_bytes(to):
            self._pass_bytes(self._greeting)
            return
        self._ways.check_ready(to)
        self.write(self._greeting.connected())
        self._greeting = NoGreeting()
        self._state = _SNIFF
        self._sniffing = self._loop.call_later(SNIFF_SECONDS, self._waited)
        self._sniff(waited=False)

    def _waited(self) -> None:
        """The client waits for the server's first bytes."""
        try:
            self._sniff(waited=True)
        except DevrouteError as error:
            self._refuse(error)

    def _sniff(self, *, waited: bool) -> None:
        assert self._to is not None
        http = speaks_http(self._buffer)
        if http is None and not waited:
            return
        if http:
            self._pass_to(self._ways.listener(self._to))
        else:
            self._to = MeshPort(self._to.host, self._to.port, tcp=True)
            self._pass_bytes(NoGreeting())

    # --- passed on, or refused

    def _pass_to(self, listening: Listener) -> None:
        self._end()
        self.flush()
        adopt(listening, self.transport, self._buffer)

    def _pass_bytes(self, greeting: Greeting) -> None:
        to, ways = self._to, self._ways
        assert to is not None
        self._end()
        self.flush()
        pipe = BytePipe(self._loop, ways.pipes, ways.upstream(to), to, ways.failed, greeting)
        pipe.adopt(self.transport, self._buffer)

    def _refuse(self, error: DevrouteError) -> None:
        refusal = self._greeting.failed(error)
        self._ways.failed(self._named, error)
        if refusal:
            self.write(refusal)
        self._end()
        self.close()


def speaks_http(data: bytes) -> bool | None:
    """Whether a client's first bytes are those of HTTP; None while they may become so."""
    if _HTTP1.match(data) or data.startswith(PREFACE[:16]):
        return True
    if PREFACE.startswith(data) or (len(data) < _LONGEST and _SPACED.match(data)):
        return None
    return False


def split_authority(text: str, default: int | None) -> tuple[str, int, bool]:
    """Host, port, and whether the host is an IP address. Raises RequestMalformed."""
    try:
        if default is not None and not re.search(r":[0-9]*\Z", text):
            text = f"{text}:{default}"
        if text.startswith("["):
            address = parse_address(text)
            return address.host, address.port, True
        host, _, port = text.rpartition(":")
        if host.replace(".", "").isdigit():
            return host, parse_port(port), True
        return host, parse_port(port), False
    except Malformed as problem:
        raise RequestMalformed(f"{text[:80]!r} is not HOST:PORT: {problem}") from None
