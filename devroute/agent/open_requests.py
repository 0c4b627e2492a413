"""Reports requests that have been open for a while, such as one at a breakpoint.

One timer for all of them: most requests end before it looks, and cost nothing.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from devroute.inspector.redaction import Redaction
from devroute.tunnel.served_stream import OpenRequest

#: Between two looks, and the least age of what is reported, in seconds.
LOOK_SECONDS: Final = 0.5
LEAST_AGE: Final = 1.0
#: Most requests of one report.
MAX_OPEN: Final = 100


class HasOpenRequests(Protocol):
    """A link, or the outgoing requests."""

    def open_requests(self, least_age: float, most: int) -> list[OpenRequest]: ...


class OpenRequestWatch:
    """`sources` returns the open links, the newest last, and what else has requests. `report` gets the open
    requests with each look, as long as there are some, and once an empty list."""

    def __init__(
        self,
        sources: Callable[[], Sequence[HasOpenRequests]],
        report: Callable[[Sequence[OpenRequest]], None],
        redaction: Redaction,
    ) -> None:
        self._sources = sources
        self._report = report
        self._redaction = redaction
        self._timer: asyncio.TimerHandle | None = None
        self._some = False

    def start(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        self.start()
        found = [each for source in self._sources() for each in source.open_requests(LEAST_AGE, MAX_OPEN)]
        if not found and not self._some:
            return
        self._some = bool(found)
        shown = [each for each in found[:MAX_OPEN] if not each.service.startswith("@")]  # devroute's own
        self._report([each._replace(target=self._redaction.target_text(each.target)) for each in shown])
