"""Who may talk to the inspector. Pure: decides from a request's peer, Host, cookie and origin; sends nothing.

The page shows what people send to a laptop, so it belongs to the person at the keyboard alone. Four others
can reach a loopback port, and each meets a check of its own: other machines (the peer's address); a web site
whose name resolves to 127.0.0.1 (Host); other programs of this machine (the token); and web sites in the same
browser, also those on another port of localhost (cookie, Origin and Fetch Metadata: "same-site" ignores
ports, so that SameSite alone does not keep http://localhost:3000 out).
"""

import hmac
import ipaddress
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from devroute.errors import InspectorDenied, InspectorLocked

#: The names by which a browser reaches loopback. A rebinding site has a name of its own.
HOSTS: Final = ("127.0.0.1", "localhost", "[::1]")

#: Bytes of randomness of token and cookie: neither can be guessed, and the link fits a line of 80 columns.
SECRET_BYTES: Final = 16


def _same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def _secret() -> str:
    return secrets.token_urlsafe(SECRET_BYTES)


@dataclass(slots=True)
class AccessControl:
    """The port that is guarded, the token that opens it once, and the cookie it is exchanged for.

    `renewed(url)` is called when a token has been used, since the next browser needs another one.
    """

    port: int
    renewed: Callable[[str], None]
    token: str = field(default_factory=_secret, repr=False)
    session: str = field(default_factory=_secret, repr=False)

    @property
    def url(self) -> str:
        """What a person opens."""
        return f"http://127.0.0.1:{self.port}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """The cookie's name: browsers share cookies among the ports of a host."""
        return f"devroute-inspector-{self.port}"

    def check_host(self, peer: str | None, host: str | None) -> None:
        """Every request: it comes from this machine, and was meant for it. Raises InspectorDenied."""
        if not is_loopback(peer):
            raise InspectorDenied("the inspector answers this machine only")
        if host not in self._places():
            raise InspectorDenied(
                f"the inspector is not known by the Host of this request; open http://127.0.0.1:{self.port}/"
            )

    def check_session(self, cookies: Mapping[str, str]) -> None:
        """Whoever sees captures holds the cookie. Raises InspectorLocked."""
        if not _same(cookies.get(self.cookie, ""), self.session):
            raise InspectorLocked(
                "this browser has not opened the inspector's link, or devroute up was restarted"
            )

    def check_origin(self, host: str | None, headers: Mapping[str, str], changes: bool) -> None:
        """No other site asks on the person's behalf. Browsers send Origin with whatever `changes` something,
        so there it has to be. Raises InspectorDenied."""
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "same-origin")
        if (
            (origin is None and changes)
            or (origin is not None and origin != f"http://{host}")
            or site not in ("same-origin", "none")
        ):
            raise InspectorDenied("another site may not use the inspector")

    def redeem(self, token: str) -> str:
        """The cookie's value for a token, which is used up by that. Raises InspectorLocked."""
        if not _same(token, self.token):
            raise InspectorLocked("this link has been used before, or is an old one")
        self.token = _secret()
        self.renewed(self.url)
        return self.session

    def _places(self) -> tuple[str, ...]:
        named = tuple(f"{host}:{self.port}" for host in HOSTS)
        return named + HOSTS if self.port == 80 else named


def is_loopback(peer: str | None) -> bool:
    """Whether an address is this machine's own; ::ffff:127.0.0.1 is as well."""
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
