"""A reporter that passes events to several: that of this process' own terminal, and those of clients that
follow it by the control API (agent/control).
"""

from collections.abc import Sequence

from devroute.agent.ui.reporter import Event, Reporter
from devroute.inspector.redaction import Redaction
from devroute.tunnel.served_stream import Finished, OpenRequest


class FanOut(Reporter):
    """Passes everything on to `first` and, while there are any, to the others."""

    def __init__(self, first: Reporter) -> None:
        super().__init__()
        self.reads_keys = first.reads_keys
        self._all: tuple[Reporter, ...] = ()
        self.add(first)

    def add(self, reporter: Reporter) -> None:
        reporter.tally = self.tally  # counted here, once
        self._all = (*self._all, reporter)

    def remove(self, reporter: Reporter) -> None:
        self._all = tuple(each for each in self._all if each is not reporter)

    def show(self, event: Event) -> None:
        for each in self._all:
            each.show(event)

    def request(self, finished: Finished) -> None:
        for each in self._all:
            each.request(finished)

    def finished(self, finished: Finished, redaction: Redaction) -> None:
        """As `request`, of one whose target is not redacted."""
        target = redaction.target_text(finished.target)
        if target != finished.target:  # making another one takes as long as all else here
            finished = finished._replace(target=target)
        self.request(finished)

    @property
    def full(self) -> bool:
        for each in self._all:  # noqa: SIM110  # for each request: all() takes three times as long
            if not each.full:
                return False
        return True

    def skip(self, count: int) -> None:
        for each in self._all:
            each.skip(count)

    @property
    def waiting(self) -> bool:
        return any(each.waiting for each in self._all)

    def open(self, requests: Sequence[OpenRequest]) -> None:
        for each in self._all:
            each.open(requests)

    def round_trip(self, seconds: float | None) -> None:
        for each in self._all:
            each.round_trip(seconds)

    def flush(self) -> None:
        for each in self._all:
            each.flush()

    def close(self) -> None:
        for each in self._all:
            each.close()
