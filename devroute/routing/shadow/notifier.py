"""Telling a laptop's agent of a comparison, by a stream of its tunnel to a service of devroute's own.

So a stream's credit bounds what waits, and an agent that does not read delays nobody. Nothing is told twice.
"""

from typing import Final

from devroute.errors import DevrouteError
from devroute.headers import LOST
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.upstream.interface import Upstream, UpstreamStream

#: The service of the agent that takes comparisons; no service of a mesh can have that name.
COMPARISON_SERVICE: Final = "@comparisons"
#: Messages on their way to one agent; more are not sent, and counted.
MAX_UNACKNOWLEDGED: Final = 64


class Notifier:
    """Tells one agent."""

    def __init__(self, agent: Upstream) -> None:
        self._agent = agent
        self.unacknowledged: set[_Message] = set()
        self.lost = 0

    def __call__(self, document: bytes) -> None:
        if len(self.unacknowledged) >= MAX_UNACKNOWLEDGED:
            self.lost += 1
            return
        lost, self.lost = self.lost, 0
        wire = (
            b"POST /comparison HTTP/1.1\r\nhost: devroute\r\ncontent-type: application/json\r\n"
            b"%b: %d\r\ncontent-length: %d\r\n\r\n" % (LOST.encode(), lost, len(document))
        )
        head = RequestHead(b"POST", b"/comparison", Framing.LENGTH, len(document), wire)
        _Message(self, self._agent, head, document)


class _Message:
    """One of them, until the agent has it."""

    def __init__(self, teller: Notifier, agent: Upstream, head: RequestHead, document: bytes) -> None:
        self._teller = teller
        teller.unacknowledged.add(self)
        self._stream: UpstreamStream = agent.open(head, self)
        self._stream.send_data(document)
        self._stream.send_end([])

    def on_end(self, trailers: Headers) -> None:
        self._teller.unacknowledged.discard(self)

    def on_error(self, error: DevrouteError) -> None:
        self._teller.unacknowledged.discard(self)

    def on_informational(self, head: ResponseHead) -> None: ...
    def on_head(self, head: ResponseHead) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...
