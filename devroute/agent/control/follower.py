"""Events and requests of a `devroute up` for one client: the lines of --output json, each with its text."""

import asyncio
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.reporter import Event
from devroute.tunnel.served_stream import Finished, OpenRequest

#: Bytes of lines that wait for one client. Further ones are dropped, and their number is reported.
MAX_BYTES: Final = 1024 * 1024


class Lines:
    """Lines that wait for a client; implements devroute.agent.ui.writer.LineWriter."""

    def __init__(self) -> None:
        self.awake = asyncio.Event()
        self.closed = False
        self._waiting: deque[bytes] = deque()
        self._bytes = 0

    def put(self, text: str) -> bool:
        data = text.encode()
        if self._bytes + len(data) > MAX_BYTES:
            return False
        self._waiting.append(data)
        self._bytes += len(data)
        self.awake.set()
        return True

    def close(self) -> None:
        """What waits can still be taken."""
        self.closed = True
        self.awake.set()

    def take(self) -> bytes:
        """All that waits."""
        self.awake.clear()
        data = b"".join(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        return data


class Follower(LineReporter):
    """`services`: whose requests and events a client wants; None for all. Events of no service go to all."""

    def __init__(self, services: Collection[str] | None) -> None:
        self.lines = Lines()
        super().__init__("both", self.lines)
        self._services = services

    def _wants(self, service: object) -> bool:
        return self._services is None or service is None or service in self._services

    def show(self, event: Event) -> None:
        if self._wants(event.fields.get("service")):
            super().show(event)

    def request(self, finished: Finished) -> None:
        if self._wants(finished.service):
            super().request(finished)

    def open(self, requests: Sequence[OpenRequest]) -> None:
        super().open([each for each in requests if self._wants(each.service)])
