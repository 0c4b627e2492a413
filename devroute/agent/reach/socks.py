"""SOCKS 5 (RFC 1928), a server's side of CONNECT without authentication. Pure."""

import ipaddress
import struct
from dataclasses import dataclass
from typing import Final

from devroute.errors import NotSupported, RequestMalformed

VERSION: Final = 5
#: Sent before the request: no authentication (§3), or none of the methods is acceptable.
ACCEPTED: Final = b"\x05\x00"
NO_METHOD: Final = b"\x05\xff"

#: Replies (§6).
SUCCEEDED: Final = 0
FAILED: Final = 1
NOT_ALLOWED: Final = 2
UNREACHABLE: Final = 3
HOST_UNREACHABLE: Final = 4
REFUSED: Final = 5
NO_SUCH_COMMAND: Final = 7
NO_SUCH_ADDRESS: Final = 8

_CONNECT: Final = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4


@dataclass(frozen=True, slots=True)
class Connect:
    """A request. `literal`: the host is an IP address, which the client has resolved itself."""

    host: str
    port: int
    literal: bool


def read_methods(data: bytes) -> tuple[int, bool] | None:
    """The size of the client's first message, and whether it needs no authentication; None while it is not
    complete."""
    if len(data) < 2 or len(data) < 2 + data[1]:
        return None
    size = 2 + data[1]
    return size, 0 in data[2:size]


def read_request(data: bytes) -> tuple[int, Connect] | None:
    """The size of the request, and the request; None while it is not complete. Raises RequestMalformed, and
    NotSupported for all but CONNECT."""
    if len(data) < 5:
        return None
    version, command, _, kind, first = data[:5]
    if version != VERSION or kind not in (_IPV4, _NAME, _IPV6):
        raise RequestMalformed("the SOCKS request is not one of version 5", hint="RFC 1928 §4")
    if command != _CONNECT:
        raise NotSupported("of SOCKS, only CONNECT is served")
    start, length = (5, first) if kind == _NAME else (4, 4 if kind == _IPV4 else 16)
    size = start + length + 2
    if len(data) < size:
        return None
    address = data[start : start + length]
    (port,) = struct.unpack_from("!H", data, start + length)
    host = address.decode("latin-1") if kind == _NAME else str(ipaddress.ip_address(address))
    return size, Connect(host, port, kind != _NAME)


def reply(code: int) -> bytes:
    """Without an address: what this end of the connection has in the mesh is not known here."""
    return bytes((VERSION, code, 0, _IPV4, 0, 0, 0, 0, 0, 0))
