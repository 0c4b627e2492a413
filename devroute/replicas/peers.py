"""Questions to all other replicas at once, over the links between them. Each is answered by what proxy and
registry have in memory; a replica that does not know a question, or does not respond in time, is left out.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from devroute.errors import DevrouteError
from devroute.replicas.node import Node, ask
from devroute.tunnel.proxy_link import ProxyLink

#: Seconds for the other replicas to respond.
ASK_SECONDS: Final = 1.0

#: The response to a question from its path, after the prefix, and its body. Raises NotFound.
Answer = Callable[[str, bytes], bytes]


class Peers:
    """`nodes()` are the other replicas."""

    def __init__(self, nodes: Callable[[], Iterable[Node]]) -> None:
        self._nodes = nodes

    @property
    def linked(self) -> frozenset[str]:
        """The ids of those that can be asked."""
        return frozenset(node.record.id for node in self._nodes() if node.link is not None)

    async def ask_all(self, question: bytes, body: bytes = b"") -> list[bytes]:
        """What those respond that know something of it. `question` with its prefix."""
        links = [node.link for node in self._nodes() if node.link is not None]
        found = await asyncio.gather(*(_asked(link, question, body) for link in links))
        return [each for each in found if each]


async def _asked(link: ProxyLink, question: bytes, body: bytes) -> bytes:
    """b"" if that replica knows nothing of it, or does not respond in time."""
    try:
        async with asyncio.timeout(ASK_SECONDS):
            return await ask(link, question, body=body)
    except (TimeoutError, DevrouteError):
        return b""
