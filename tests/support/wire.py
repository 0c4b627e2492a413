"""A proxy's session and an agent's, joined by a wire that a test can delay and cut."""

import itertools
from collections.abc import Iterable

from devroute.tunnel.protocol import events
from devroute.tunnel.protocol.events import Event
from devroute.tunnel.protocol.session import Role, Session
from devroute.tunnel.protocol.windows import WindowBudget

HEAD = b"GET / HTTP/1.1\r\nhost: foo\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"


class Wire:
    def __init__(
        self, *, max_streams: int = 4096, greeted: bool = True, reach: bool = False, growth: int = 0
    ) -> None:
        """`growth`: bytes by which both sides let their windows grow together."""
        self.proxy = Session(Role.PROXY, max_streams=max_streams)
        self.agent = Session(Role.AGENT, max_streams=max_streams)
        if greeted:
            self.agent.send_hello(b"{}")
            assert self.to_proxy() == [events.HelloFrame(b"{}")]
            if reach:
                self.proxy.enable_reach()
            self.proxy.send_welcome(b"{}")
            assert self.to_agent() == [events.WelcomeFrame(b"{}")]
            if reach:
                self.agent.enable_reach()

        if growth:
            self.proxy.windows, self.agent.windows = WindowBudget(growth), WindowBudget(growth)

    def to_proxy(self) -> list[Event]:
        return self.proxy.receive(b"".join(self.agent.data_to_send()))

    def to_agent(self) -> list[Event]:
        return self.agent.receive(b"".join(self.proxy.data_to_send()))


def in_pieces(receiver: Session, data: bytes, cuts: Iterable[int]) -> list[Event]:
    """The events of `data`, received in pieces that end at these positions."""
    found: list[Event] = []
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    for start, stop in itertools.pairwise(places):
        found += receiver.receive(data[start:stop])
    return found
