"""The reporter that prints lines: one for each request and event, as text, as JSON, or as JSON that has the
text, too. events.schema.json describes the JSON.

Lines leave in batches through a LineWriter; the number of lines that it does not take is reported.
"""

import json
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, Literal

from devroute.agent.ui.layout import (
    age,
    clock,
    detours_before,
    duration,
    grpc_failure,
    outgoing_to,
    printable,
    sender_of,
    size,
    way_of,
)
from devroute.agent.ui.reporter import Event, Reporter, Tally
from devroute.agent.ui.writer import LineWriter
from devroute.errors import AppUnreachable
from devroute.http.grpc import status_name
from devroute.tunnel.served_stream import Finished, OpenRequest

#: Of the JSON lines; grows when a member changes its meaning or disappears.
VERSION: Final = 1

#: Requests that a flush writes a line for: at 50 flushes a second, 1,600 a second. The loop passes none on
#: meanwhile, and 2,000 lines took it 20 ms.
AT_ONCE: Final = 32

#: Requests, and lines of events, that wait for a flush; the rest is counted.
MAX_LINES: Final = 2048

#: Least time between two lines that say how many requests were left out, in seconds.
LOST_SECONDS: Final = 1.0

#: A request that is open for so long, in seconds, is reported before it ends.
OPEN_SECONDS: Final = 5.0

#: Least time between two lines of the tally, in seconds.
TALLY_SECONDS: Final = 5.0


class LineReporter(Reporter):
    def __init__(self, form: Literal["text", "json", "both"], writer: LineWriter) -> None:
        super().__init__()
        self._json = form != "text"
        self._both = form == "both"
        self._writer = writer
        self._lines: list[str] = []
        self._finished: deque[Finished] = deque()
        self._lost = 0
        self._next_lost = 0.0
        self._unreachable: set[str] = set()
        self._open: dict[float, int] = {}  # minutes for which a request was open, by its start
        self._several = False
        self._printed_tally = ""
        self._next_tally = 0.0

    def show(self, event: Event) -> None:
        if event.name == "online":
            self._several = len(event.fields["services"]) > 1
        if len(self._lines) >= MAX_LINES:
            self._lost += 1
        elif self._json:
            self._print_json(event.name, event.fields, _line_of(event) if self._both else None)
        elif text := _line_of(event):
            self._lines.append(text)
            if event.name == "shadow":
                self._next_tally = 0.0

    def request(self, finished: Finished) -> None:
        if self.full:
            self.skip(1)
        else:
            self._finished.append(finished)

    @property
    def full(self) -> bool:
        return len(self._finished) >= MAX_LINES

    def skip(self, count: int) -> None:
        self._lost += count

    def open(self, requests: Sequence[OpenRequest]) -> None:
        """Those without a response, once after OPEN_SECONDS, and then with each whole minute."""
        reported: dict[float, int] = {}
        for each in requests:
            if each.status or each.age < OPEN_SECONDS:
                continue
            minutes = reported[each.started] = int(each.age // 60)
            if self._open.get(each.started) != minutes:
                to = outgoing_to(each) or each.service
                text = f"{to}  {each.method} {printable(each.target)}  open for {age(each.age)}"
                what = {"direction": _direction(each), "service": each.service}
                what |= {"method": each.method, "path": each.target}
                self.show(Event("open", text, what | {"seconds": round(each.age, 1)}))
        self._open = reported
        self.flush()

    def round_trip(self, seconds: float | None) -> None:
        """Only a page shows it."""

    @property
    def waiting(self) -> bool:
        return bool(self._finished)

    def flush(self) -> None:
        finished = self._finished
        now = clock()
        for _ in range(min(AT_ONCE, len(finished))):
            each = finished.popleft()
            if self._json:
                self._print_json(
                    "request", _as_fields(each), self._as_text(each, now) if self._both else None
                )
            else:
                self._lines.append(self._as_text(each, now))
            self._check_app(each)
        if not self._json:
            self._print_tally(time.monotonic())
        if self._lost and time.monotonic() >= self._next_lost:
            lost, self._lost = self._lost, 0
            self._next_lost = time.monotonic() + LOST_SECONDS
            self.show(Event("lost", f"({lost} more requests are not shown)", {"lines": lost}))
        if self._lines:
            if not self._writer.put("\n".join(self._lines) + "\n"):
                self._lost += len(self._lines)
                self._next_lost = 0.0
            self._lines.clear()

    def close(self) -> None:
        self._next_tally = self._next_lost = 0.0
        self.flush()
        while self._finished:
            self.flush()
        self._writer.close()

    # Without a Row, which costs 2 µs: one line is printed for each request, however many there are.
    def _as_text(self, each: Finished, now: str) -> str:
        service = f"{each.service}  " if self._several else ""
        if each.outgoing:
            service = f"{outgoing_to(each)}  "
        way = "" if each.outgoing else way_of(each.head)
        notes = (way, grpc_failure(each), each.code, each.rule)
        more = "".join(f"  {text}" for text in notes if text)
        status = each.status or "---"
        took, length = duration(each.duration), size(each.size)
        return f"{now}  {service}{each.method} {printable(each.target)}  {status}  {took}  {length}{more}"

    def _check_app(self, each: Finished) -> None:
        """Report an app that has stopped, once until it responds again."""
        if each.outgoing:
            return
        if each.code != AppUnreachable.code:
            if each.status:
                self._unreachable.discard(each.service)
        elif each.service not in self._unreachable:
            self._unreachable.add(each.service)
            text = f"{each.reason}: start the app of '{each.service}', or give its port"
            self.show(Event("app-unreachable", text, {"service": each.service, "reason": each.reason}))

    def _print_tally(self, now: float) -> None:
        text = str(self.tally)
        if now >= self._next_tally and text != self._printed_tally and self.tally != Tally():
            self._printed_tally, self._next_tally = text, now + TALLY_SECONDS
            self._lines.append(f"{clock()}  {text}")

    def _print_json(self, event: str, fields: Mapping[str, object], text: str | None) -> None:
        document = {"event": event, "version": VERSION, "time": round(time.time(), 3), **fields}
        self._lines.append(json.dumps(document if text is None else document | {"text": text}))


def _line_of(event: Event) -> str:
    """What is printed of an event for people, "" for nothing."""
    if event.name in ("online", "reach"):
        return event.text
    if event.text and event.name != "retry":  # the line of "offline" says that devroute dials again
        return f"{clock()}  {event.text}"
    return ""


def _as_fields(each: Finished) -> dict[str, object]:
    return {
        "direction": _direction(each),
        "service": each.service,
        "method": each.method,
        "path": each.target,
        "status": each.status,
        "ms": round(each.duration * 1000, 1),
        "bytes": each.size,
        "code": each.code or None,
        "grpc_status": None if each.grpc_status is None else status_name(each.grpc_status),
        "caller": None if each.outgoing else sender_of(each.head) or None,
        "rule": each.rule or None,
        "detoured_before": [] if each.outgoing else detours_before(each.head),
    }


def _direction(each: Finished | OpenRequest) -> str:
    return "out" if each.outgoing else "in"
