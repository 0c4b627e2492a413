"""What the proxy reports of other processes of this laptop: they joined, or took services over."""

from collections.abc import Callable
from dataclasses import dataclass

from devroute.agent.message_receiver import MessageReceiver
from devroute.http.message import RequestHead
from devroute.tunnel.protocol.handshake import Notice, decode


@dataclass(eq=False)
class NoticeReceiver(MessageReceiver):
    """Each notice goes to `noticed`."""

    noticed: Callable[[Notice], None]

    def receive(self, head: RequestHead, document: bytes) -> None:
        self.noticed(decode(Notice, document))
