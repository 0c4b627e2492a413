"""Sends JSON to a laptop's agent, such as comparisons, each document as a request on its tunnel to a service
of devroute's own. The stream's credit bounds what waits, so an agent that does not read delays no other. Each
is sent once.
"""

from collections.abc import Callable
from typing import Final

from devroute.errors import DevrouteError
from devroute.headers import LOST
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.upstream.interface import Upstream, UpstreamStream

#: The agent's service that receives comparisons; no service of a mesh can have that name.
COMPARISON_SERVICE: Final = "@comparisons"
#: Documents on their way to one agent; further ones are dropped and counted.
MAX_UNACKNOWLEDGED: Final = 64


class Notifier:
    """Notifies one agent. `lost` counts what was dropped since the last document that was sent. `refused` is
    called for each that the agent did not take."""

    def __init__(
        self,
        agent: Upstream,
        path: bytes = b"/comparison",
        refused: Callable[[DevrouteError], None] = lambda error: None,
    ) -> None:
        self._agent = agent
        self._path = path
        self.refused = refused
        self.unacknowledged: set[_Message] = set()
        self.lost = 0

    def notify(self, document: bytes) -> None:
        """`document` is JSON."""
        if len(self.unacknowledged) >= MAX_UNACKNOWLEDGED:
            self.lost += 1
            return
        lost, self.lost = self.lost, 0
        wire = (
            b"POST %b HTTP/1.1\r\nhost: devroute\r\ncontent-type: application/json\r\n"
            b"%b: %d\r\ncontent-length: %d\r\n\r\n" % (self._path, LOST.encode(), lost, len(document))
        )
        head = RequestHead(b"POST", self._path, Framing.LENGTH, len(document), wire)
        _Message(self, self._agent, head, document)


class _Message:
    """A document, until the agent has acknowledged it by a response."""

    def __init__(self, notifier: Notifier, agent: Upstream, head: RequestHead, document: bytes) -> None:
        self._notifier = notifier
        notifier.unacknowledged.add(self)
        self._stream: UpstreamStream = agent.open(head, self)
        self._stream.send_data(document)
        self._stream.send_end([])

    def on_end(self, trailers: Headers) -> None:
        self._notifier.unacknowledged.discard(self)

    def on_error(self, error: DevrouteError) -> None:
        self._notifier.unacknowledged.discard(self)
        self._notifier.refused(error)

    def on_informational(self, head: ResponseHead) -> None: ...
    def on_head(self, head: ResponseHead) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...
