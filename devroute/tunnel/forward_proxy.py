"""A forward proxy between the laptop and the server, as companies have: HTTP CONNECT (RFC 9110 §9.3.6).

Finds the one that the environment names, and opens connections through it. Every failure names the proxy.
"""

import asyncio
import base64
import ipaddress
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from devroute.contract.target import Address
from devroute.errors import ServerUnreachable
from devroute.quoting import printable, quote
from devroute.upstream.dialer import connect_first

#: Bytes of a proxy's response before the tunnel.
MAX_RESPONSE: Final = 16 * 1024

_DEFAULT_PORT: Final = 3128
#: What to do about a proxy that fails.
HINT: Final = "check --proxy, HTTPS_PROXY and NO_PROXY; --proxy off uses none"


@dataclass(frozen=True, slots=True)
class ForwardProxy:
    """`authorization`: the value of Proxy-Authorization, "" without credentials."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)

    @classmethod
    def parse(cls, text: str) -> "ForwardProxy":
        """`http://proxy.example:3128`, `http://user:password@proxy.example:3128`, `proxy.example:3128`.
        Raises ValueError, which never quotes a password."""
        invalid = ValueError(
            "write a proxy like http://proxy.example:3128, or http://USER:PASSWORD@HOST:PORT, with"
            " characters of the password such as / # ? as %2F %23 %3F"
        )
        try:
            url = urlsplit(text if "://" in text else f"http://{text}")
        except ValueError:  # its message may quote the password
            raise invalid from None
        try:
            host, port = url.hostname, url.port
        except ValueError:
            host, port = None, None
        if url.scheme != "http":
            raise ValueError(f"a proxy of type {quote(url.scheme)} is not supported; write http://HOST:PORT")
        if not host or url.path not in ("", "/") or url.query or url.fragment:
            raise invalid
        authorization = ""
        if url.username is not None:
            credentials = f"{unquote(url.username)}:{unquote(url.password or '')}"
            authorization = "Basic " + base64.b64encode(credentials.encode()).decode("ascii")
        return cls(host, _DEFAULT_PORT if port is None else port, authorization)

    def __str__(self) -> str:
        """Without credentials."""
        return f"http://{Address(self.host, self.port)}"

    async def connect(self, host: str, port: int) -> socket.socket:
        """A connection to `host`, which the proxy resolves. Raises ServerUnreachable; waits as long as it
        takes."""
        try:
            sock = await connect_first(self.host, self.port)
        except OSError as error:
            why = f"cannot be reached: {error.strerror or error}"
            raise ServerUnreachable(f"the proxy {self} {why}", hint=HINT) from None
        try:
            await self._open_tunnel(sock, str(Address(host, port)))
        except OSError as error:
            sock.close()
            why = f"closed the connection: {error.strerror or error}"
            raise ServerUnreachable(f"the proxy {self} {why}", hint=HINT) from None
        except BaseException:
            sock.close()
            raise
        return sock

    async def _open_tunnel(self, sock: socket.socket, target: str) -> None:
        loop = asyncio.get_running_loop()
        lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
        if self.authorization:
            lines.append(f"Proxy-Authorization: {self.authorization}")
        await loop.sock_sendall(sock, "\r\n".join((*lines, "", "")).encode("latin-1"))
        response = b""
        while b"\r\n\r\n" not in response and len(response) < MAX_RESPONSE:
            piece = await loop.sock_recv(sock, 4096)
            if not piece:
                break
            response += piece
        self._check(response, target)

    def _check(self, response: bytes, target: str) -> None:
        """The server does not speak first, so that nothing follows the head of a 2xx."""
        status = re.match(rb"HTTP/1\.[01] ([0-9]{3})(?: ([^\r\n]*))?\r\n", response)
        if status is None or b"\r\n\r\n" not in response:
            raise ServerUnreachable(f"the proxy {self} does not speak HTTP", hint=HINT)
        if status[1].startswith(b"2"):
            return
        status_line = printable(b" ".join(part for part in status.groups() if part).decode("latin-1"))
        if status[1] == b"407" or (status[1] == b"401" and self.authorization):  # as tinyproxy does
            offered = re.findall(rb"\r\nproxy-authenticate:[ \t]*([^\s,]+)", response, re.IGNORECASE)
            schemes = printable(", ".join(each.decode("latin-1") for each in offered) or "none")
            problem = "refuses these credentials" if self.authorization else "wants credentials"
            hint = "write them into the proxy's URL: http://USER:PASSWORD@HOST:PORT"
            if offered and not any(each.lower() == b"basic" for each in offered):
                hint = "devroute knows Basic only: put a local proxy in between that knows these, such as px"
            raise ServerUnreachable(
                f"the proxy {self} {problem} ({status_line}; it offers {schemes})", hint=hint
            )
        raise ServerUnreachable(
            f"the proxy {self} does not connect to {target}: {status_line}",
            hint="the proxy's owner has to permit it, or NO_PROXY has to name the server",
        )


def from_environment(url: str, environment: Mapping[str, str]) -> str | None:
    """The proxy that the environment names for a server's URL, if any: HTTPS_PROXY, or HTTP_PROXY for plain
    http, else ALL_PROXY, unless NO_PROXY names the server. This machine needs none."""
    parts = urlsplit(url)
    secure = parts.scheme in ("https", "wss")
    host = (parts.hostname or "").lower()
    if _is_excluded(host, parts.port or (443 if secure else 80), _variable("NO_PROXY", environment)):
        return None
    proxy = _variable("HTTPS_PROXY" if secure else "HTTP_PROXY", environment)
    return proxy or _variable("ALL_PROXY", environment) or None


def _variable(name: str, environment: Mapping[str, str]) -> str:
    return (environment.get(name.lower()) or environment.get(name) or "").strip()


def _is_excluded(host: str, port: int, no_proxy: str) -> bool:
    """Names match themselves and their subdomains; addresses may be ranges; a port may follow."""
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for entry in no_proxy.lower().replace(",", " ").split():
        name, colon, of_port = entry.rpartition(":")
        if not colon or not of_port.isdigit() or _address(entry) is not None:
            name, of_port = entry, ""
        if of_port and int(of_port) != port:
            continue
        name = name.strip("[]").removeprefix("*").lstrip(".")
        if entry == "*" or host == name or (name and host.endswith(f".{name}")):
            return True
        if address is not None and _in_range(address, name):
            return True
    return False


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None


def _in_range(address: ipaddress.IPv4Address | ipaddress.IPv6Address, text: str) -> bool:
    try:
        return address in ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
