"""Keeps pages of web sites away from the local ports of forwards: a page may send requests to 127.0.0.1, and
one whose name resolves to it may read the responses (DNS rebinding). At a port for bytes its request may be
HTTP to the service, too, or commands of another protocol in the request's body. Pure.
"""

import re
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from devroute.agent.reach.mesh_port import MeshPort
from devroute.errors import ReachPageDenied
from devroute.http.http1.fields import END_OF_HEAD, TOKEN
from devroute.inspector.access import is_loopback

_LINES: Final = re.compile(rb"\r\n(host|origin|sec-fetch-site):[ \t]*([^\r]*)", re.IGNORECASE)
#: The first line of a page's request, which other protocols lack (`GET key` is Redis), and what may become
#: one. A page chooses any method (RFC 9110 §9.1).
_REQUEST_LINE: Final = re.compile(TOKEN + rb" [^\0- \x7f]+ HTTP/1\.[01]\r?\n")
_BEGINNING: Final = re.compile(TOKEN + rb"(?: [^\0- \x7f]*(?: (.{0,9}))?)?\Z", re.DOTALL)
_VERSIONS: Final = (b"HTTP/1.0\r", b"HTTP/1.1\r")
#: Bytes of a request at a port for bytes by which its head has to end.
MAX_FIRST_HEAD: Final = 64 * 1024
#: Names of this machine, the last one as containers on it use it.
_LOCAL: Final = ("localhost", "host.docker.internal", "host.containers.internal")


class BrowserGuard:
    """Of one destination. `entries()`: the URLs at which people call the mesh, whose pages are its own.
    `is_known(head)`: the request belongs to one that is being answered here, so that an app has sent it,
    which may pass on what browsers say."""

    def __init__(
        self, to: MeshPort, entries: Callable[[], Iterable[str]], is_known: Callable[[bytes], object]
    ) -> None:
        labels = to.host.split(".")
        # c.shop may be a domain of the internet too, whose owner may have it lead here.
        self._own = {labels[0], *([to.host] if labels[2:3] == ["svc"] else [])}
        self._entries = entries
        self._is_known = is_known

    def is_admitted(self, first: bytes) -> bool:
        """Whether a client's first bytes at a port for bytes are no request of a page; False while they may
        become one, as any word may. Raises ReachPageDenied."""
        if _REQUEST_LINE.match(first) is None and not _is_beginning(first):
            return True
        end = first.find(END_OF_HEAD, 0, MAX_FIRST_HEAD)
        if end >= 0:
            head = first[: end + 4]
            if b"\r\nhost:" in head.lower():  # each browser sends it
                self.check(head)
            return True
        if len(first) >= MAX_FIRST_HEAD:
            raise ReachPageDenied(
                f"a request at this port for bytes has a head of more than {MAX_FIRST_HEAD} bytes",
                hint="reach the service without tcp://, where requests are read",
            )
        return False

    def check(self, head: bytes) -> None:
        """Raises ReachPageDenied."""
        values = {name.lower(): value.strip().decode("latin-1") for name, value in _LINES.findall(head)}
        host = values.get(b"host", "")
        if not self._is_ours(host):
            raise ReachPageDenied(
                "the Host of this request names neither this machine nor the service",
                hint="send it to 127.0.0.1; a web site whose name leads here could read the mesh otherwise",
            )
        origin = values.get(b"origin")
        foreign = values.get(b"sec-fetch-site") == "cross-site" if origin is None else not self._may(origin)
        if foreign and not self._is_known(head):
            raise ReachPageDenied(
                f"a page of {origin or 'another site'} may not send requests into the mesh",
                hint="an app that passes on Origin and Sec-Fetch-Site has to pass on traceparent or"
                " x-request-id too, or leave them out",
            )

    def _may(self, origin: str) -> bool:
        if any(origin == _origin(url) for url in self._entries()):
            return True
        try:
            return self._is_ours(urlsplit(origin).netloc)
        except ValueError:
            return False

    def _is_ours(self, authority: str) -> bool:
        """Whether it names this machine, or the service as the mesh alone does."""
        host = authority.lower().rpartition(":")[0] if _PORT.search(authority) else authority.lower()
        if host in _LOCAL or host.endswith(".localhost") or is_loopback(host.strip("[]")):
            return True
        return host in self._own


_PORT: Final = re.compile(r":[0-9]*\Z")


def _is_beginning(first: bytes) -> bool:
    """Whether these bytes may become the first line of a request."""
    begun = _BEGINNING.match(first)
    return begun is not None and any(each.startswith(begun[1] or b"") for each in _VERSIONS)


def _origin(url: str) -> str:
    """Empty for what is no URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc}"
