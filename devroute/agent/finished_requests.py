"""Handles each request that has ended: counts it, reports its line, and may show what is wrong with the app.
Compiled, since every request passes here; the reporter's lines are made in batches, a moment later.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from devroute.inspector.redaction import Redaction
from devroute.tunnel.served_stream import Finished

#: Least time between two flushes of the reporter, in seconds.
REPORT_SECONDS: Final = 0.02


class Reports(Protocol):
    """What this needs of agent/ui/fan_out.py."""

    def finished(self, finished: Finished, redaction: Redaction) -> None: ...
    def skip(self, count: int) -> None: ...
    def flush(self) -> None: ...

    @property
    def full(self) -> bool: ...

    @property
    def waiting(self) -> bool: ...


class FinishedRequests:
    """`advise` gets each whose response may show what is wrong with the app. None unless they are wanted:
    `count` gets each that came for this laptop's services, and `ended` the head of any that came."""

    __slots__ = ("_full", "_loop", "_redaction", "_reports", "_skipped", "_timer", "advise", "count", "ended")

    def __init__(
        self,
        reports: Reports,
        redaction: Redaction,
        loop: asyncio.AbstractEventLoop,
        advise: Callable[[Finished], None],
    ) -> None:
        self.advise = advise
        self.count: Callable[[Finished], None] | None = None
        self.ended: Callable[[bytes], None] | None = None
        self._reports = reports
        self._redaction = redaction
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._full = False  # until the next flush
        self._skipped = 0  # since then

    def observe(self, finished: Finished) -> None:
        if self.ended is not None and not finished.outgoing:
            self.ended(finished.head)
        if finished.service.startswith("@"):
            return
        if self.count is not None and not finished.outgoing:
            self.count(finished)
        if self._full:
            self._skipped += 1
        else:
            self._reports.finished(finished, self._redaction)
            self._full = self._reports.full
        if self._timer is None:
            self.flush_soon()
        if (finished.code or finished.refusal) and not (finished.rule or finished.outgoing):
            self.advise(finished)

    def counted(self) -> bool:
        """Whether of a request that succeeded nothing but the number is wanted, which is then counted: what
        `observe` takes need not be made."""
        wanted = not self._full or self.count is not None or self.ended is not None
        if not wanted:
            self._skipped += 1
        return not wanted

    def flush_soon(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(REPORT_SECONDS, self.flush)

    def flush(self) -> None:
        """Have the reporter write, now and until nothing waits."""
        self.close()
        self._reports.flush()
        self._full = False
        if self._reports.waiting:
            self.flush_soon()

    def close(self) -> None:
        """Flush nothing later: the reporter's own end does."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._skipped:
            self._reports.skip(self._skipped)
            self._skipped = 0
