"""Messages from the proxy to the agent itself: other processes of this laptop joined or took services over;
or the proxy is about to stop.
"""

from collections.abc import Callable
from dataclasses import dataclass

from devroute.agent.message_receiver import MessageReceiver
from devroute.http.message import RequestHead
from devroute.tunnel.protocol.handshake import Move, Notice, decode


@dataclass(eq=False)
class NoticeReceiver(MessageReceiver):
    """Each notice goes to `noticed`."""

    noticed: Callable[[Notice], None]

    def receive(self, head: RequestHead, document: bytes) -> None:
        self.noticed(decode(Notice, document))


@dataclass(eq=False)
class MoveReceiver(MessageReceiver):
    """Each Move goes to `asked`."""

    asked: Callable[[Move], None]

    def receive(self, head: RequestHead, document: bytes) -> None:
        self.asked(decode(Move, document))
