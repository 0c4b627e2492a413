"""What a laptop's link needs of proxy/egress, where the streams that its agent opens go."""

from collections.abc import Callable
from typing import Protocol

from devroute.auth.identity import Identity
from devroute.tunnel.proxy_link import ProxyLink


class Reach(Protocol):
    """The mesh, for laptops."""

    def attach(self, link: ProxyLink, laptop: str, identity: Callable[[], Identity]) -> None:
        """Let the agent of this link open streams, before its WELCOME is sent. `identity`: the current one of
        the link."""

    def review_identity(self, subject: str) -> None:
        """A link of this subject has the identity of a newer token."""
