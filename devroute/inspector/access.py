"""Access control of the inspector: checks a request's peer address, Host, cookie and Origin. Pure.

Captures may hold personal data, so only the laptop's user may see them. There is one check for each other
party that can reach a loopback port: other machines (the peer's address); a web site whose name resolves to
127.0.0.1 (Host); other programs on this machine (the token); web sites in the same browser, including those
on another port of localhost (cookie, Origin and Fetch Metadata; SameSite ignores ports, so it does not keep
http://localhost:3000 out).
"""

import hmac
import ipaddress
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from devroute.errors import InspectorDenied, InspectorLocked
from devroute.pages.origin import is_own_origin

#: Host names of loopback addresses. With DNS rebinding, the Host is the name of the attacking site.
HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")

#: Random bytes of the token and of the cookie. With 16, the link fits into a line of 80 columns.
SECRET_BYTES: Final = 16


def _secret() -> str:
    return secrets.token_urlsafe(SECRET_BYTES)


def _is_same(given: str, expected: str) -> bool:
    """In a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


@dataclass(slots=True)
class AccessControl:
    """The inspector's port, the token in its link, and the session cookie that a browser gets for the token.

    A token works once. `renewed(url)` is then called with the next link.
    """

    port: int
    renewed: Callable[[str], None]
    #: Of the session; that of the last run, so that an open page goes on after a restart.
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)
    token: str = field(default_factory=_secret, repr=False)

    @property
    def url(self) -> str:
        """The link that opens the inspector."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    @property
    def session(self) -> str:
        """The cookie's value, one for each port."""
        return hmac.digest(self.secret, b"inspector:%d" % self.port, "sha256").hex()

    @property
    def cookie(self) -> str:
        """The cookie's name, with the port: browsers send the cookies of a host to all its ports."""
        return f"devroute-inspector-{self.port}"

    def check_host(self, peer: str | None, host: str | None) -> None:
        """Check that a request comes from this machine, with its Host. Raises InspectorDenied."""
        if not is_loopback(peer):
            raise InspectorDenied("the inspector accepts requests from this machine only")
        if not is_own_host(host, self.port):
            raise InspectorDenied(
                f"the Host of this request is not the inspector's; open http://127.0.0.1:{self.port}/"
            )

    def check_session(self, cookies: Mapping[str, str]) -> None:
        """Check the session cookie. Raises InspectorLocked."""
        if not _is_same(cookies.get(self.cookie, ""), self.session):
            raise InspectorLocked(
                "this browser has not opened the inspector's link, or did so more than a week ago"
            )

    def check_origin(self, host: str | None, headers: Mapping[str, str], changes: bool) -> None:
        """Check that no other site sent the request. Browsers send Origin with requests that may change
        something (`changes`), so these need one. Raises InspectorDenied."""
        if not is_own_origin(headers, f"http://{host}", changes=changes):
            raise InspectorDenied("other sites may not use the inspector")

    def redeem(self, token: str) -> str:
        """The cookie's value for a token, which is then no longer valid. Raises InspectorLocked."""
        if not _is_same(token, self.token):
            raise InspectorLocked("this link was used before, or is out of date")
        self.token = _secret()
        self.renewed(self.url)
        return self.session


def is_own_host(host: str | None, port: int) -> bool:
    """Whether a request's Host is that of a server on this port of a loopback address."""
    named = tuple(f"{each}:{port}" for each in HOSTS)
    return host in (named + HOSTS if port == 80 else named)


def is_loopback(peer: str | None) -> bool:
    """Whether an address is a loopback address, IPv4-mapped ones included."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
