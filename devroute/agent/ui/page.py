"""`devroute up` on a terminal: one calm page that says where things stand, instead of lines that scroll by.

Owns the terminal while it lasts: its alternate screen, cursor and keyboard's echo; all are given back, and
one line stays that says what was. Drawing happens in a thread of its own, at most FRAMES_PER_SECOND times a
second and only for lines that have changed: a terminal that stands still, or a hundred requests a second, are
nothing to the tunnel.
"""

import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Final, TextIO

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console
from rich.style import Style

from devroute.agent.comparisons import ComparisonResult
from devroute.agent.ui.layout import Line, Row, View, caller_of, lines
from devroute.agent.ui.lines import Tally, clock, duration, local, size
from devroute.contract.service_spec import ServiceSpec
from devroute.errors import AppUnreachable, DevrouteError
from devroute.platforms import keyboard_echo_off
from devroute.tunnel.agent_link import Finished

FRAMES_PER_SECOND: Final = 8

#: Requests that are kept for the screen: more than any has lines.
MAX_ROWS: Final = 256

#: How long the thread may take to finish when devroute ends, in seconds: the terminal may stand still.
LAST_SECONDS: Final = 1.0


#: By the names that a console gives them; without one there are no codes at all.
_SYSTEMS: Final = {
    "standard": ColorSystem.STANDARD,
    "256": ColorSystem.EIGHT_BIT,
    "truecolor": ColorSystem.TRUECOLOR,
}


def can_draw(out: TextIO) -> bool:
    """Whether this is a terminal on which a page can be drawn."""
    console = Console(file=out)
    return out.isatty() and not console.is_dumb_terminal and not console.legacy_windows


class PageReporter:
    """The same methods as devroute.report.LineReporter; `flush` has the page drawn, soon."""

    def __init__(self, out: TextIO, console: Console | None = None) -> None:
        self._out = out
        self._console = console or Console(file=out, highlight=False, soft_wrap=True)
        self._view = View()
        self._finished: deque[tuple[str, Finished]] = deque(maxlen=MAX_ROWS)
        self._started = time.monotonic()
        self._came = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="devroute-screen", daemon=True)
        self._drawn: list[Line] = []
        self._width = 0
        self._known: dict[str, tuple[str, str]] = {}
        self._offline = False
        self._tally = Tally()

    # --- what happens, on the loop

    def online(
        self, name: str, server: str, services: Sequence[ServiceSpec], inspector: str | None = None
    ) -> None:
        view = self._view
        view.inspector = inspector or ""
        view.name, view.server = name, server
        view.services = [(s.service, f"{s.direct} (direct)" if s.direct else local(s)) for s in services]
        view.contract = json.dumps({spec.service: name for spec in services})
        view.curl = f"curl -H 'X-devroute: {view.contract}' http://{services[0].service}/"
        self._thread.start()

    def inspector(self, url: str) -> None:
        self._view.inspector = url
        self.flush()

    def no_inspector(self, error: DevrouteError) -> None:
        self._view.warning = f"there is no inspector: {error.message} ({error.hint})"

    def request(self, finished: Finished) -> None:
        """On the request path: everything else happens in the thread."""
        view = self._view
        view.requests += 1
        if finished.code:
            view.failed += 1
        self._finished.appendleft((clock(), finished))

    def compared(self, verdict: ComparisonResult, lost: int) -> None:
        self._tally.count(verdict, lost)
        self._view.shadow = str(self._tally)

    def back(self, name: str) -> None:
        self._offline = False
        self._view.trouble = None

    def offline(self, reason: str) -> None:
        self._offline = True
        self._view.trouble = f"{reason}; dialling again"
        self._view.round_trip_ms = None

    def retry(self, error: DevrouteError, delay: float) -> None:
        self._view.trouble = f"{error.message}; dialling again"

    def not_renewed(self, error: DevrouteError) -> None:
        self._view.warning = f"the token is not renewed: {error.message}"

    def network(self, before: str | None, now: str | None) -> None:
        if now is not None and not self._offline:
            self._view.trouble = None
        elif now is None:
            self._view.trouble = "there is no network to the server; waiting for one"

    def round_trip(self, seconds: float | None) -> None:
        self._view.round_trip_ms = None if seconds is None else seconds * 1000

    def flush(self) -> None:
        self._came.set()

    def close(self) -> None:
        """Give the terminal back, with one line about what was."""
        self._over.set()
        self._came.set()
        if self._thread.is_alive():
            self._thread.join(LAST_SECONDS)

    # --- the page, in the thread

    def _draw(self) -> None:
        try:
            with ExitStack() as given_back:
                given_back.enter_context(keyboard_echo_off(self._out))
                self._console.set_alt_screen(True)
                given_back.callback(self._console.set_alt_screen, False)
                self._console.show_cursor(False)
                given_back.callback(self._console.show_cursor, True)
                while not self._over.is_set():
                    self._came.clear()
                    self._paint()
                    self._over.wait(1 / FRAMES_PER_SECOND)
                    self._came.wait(1.0)  # a minute may have passed, or the window have another size
            self._console.print(self._farewell())
        except (OSError, ValueError):  # the terminal has gone: run on in silence
            return

    def _paint(self) -> None:
        console, view = self._console, self._view
        width, height = console.size
        view.minutes = int((time.monotonic() - self._started) / 60)
        recent = list(self._finished)
        view.rows = [_row(at, each) for at, each in recent[:height]]
        view.unreachable = _unreachable(each for _, each in recent)
        page = lines(view, width, height, plain_ascii=not console.encoding.startswith("utf"))
        before = self._drawn if len(self._drawn) == len(page) and self._width == width else None
        drawn = "".join(
            f"\x1b[{y + 1};1H{self._ansi(line, width)}"
            for y, line in enumerate(page)
            if before is None or before[y] != line
        )
        if drawn:
            self._out.write(drawn)  # one write for all of it
            self._out.flush()
        self._drawn, self._width = page, width

    def _ansi(self, line: Line, width: int) -> str:
        """A line over whatever stood there before. Not by rich's own way to print: at a hundred requests a
        second it takes 20 ms a frame, in which the tunnel's thread gets to run only now and then."""
        blank = " " * (width - sum(cell_len(text) for text, _ in line))
        codes = self._codes
        return "".join(f"{codes(style)[0]}{text}{codes(style)[1]}" for text, style in line) + blank

    def _codes(self, style: str) -> tuple[str, str]:
        """What the terminal wants before and after a text of this style."""
        if (codes := self._known.get(style)) is None:
            parsed = Style.parse(style)
            if self._console.no_color:
                parsed = parsed.without_color
            shown = parsed.render("|", color_system=_SYSTEMS.get(self._console.color_system or ""))
            before, _, after = shown.partition("|")
            codes = self._known[style] = (before, after)
        return codes

    def _farewell(self) -> str:
        view = self._view
        minutes = int((time.monotonic() - self._started) / 60)
        was = f"{view.requests} request{'s' if view.requests != 1 else ''}"
        failed = f", {view.failed} failed" if view.failed else ""
        shadow = f", {view.shadow}" if view.shadow else ""
        return f"{view.name} was online for {minutes} min: {was}{failed}{shadow}"


def _row(at: str, each: Finished) -> Row:
    path = each.target if each.target.isprintable() else ascii(each.target)
    problem = (each.reason or each.code) if each.code else ""
    return Row(
        at,
        each.service,
        each.method,
        path,
        each.status,
        duration(each.duration),
        size(each.size),
        caller_of(each.head),
        problem if problem.isprintable() else ascii(problem),
    )


def _unreachable(newest_first: Iterable[Finished]) -> dict[str, str]:
    """What to do about services whose app did not answer the last time."""
    last: dict[str, str] = {}
    for each in newest_first:
        if each.service not in last and (each.status or each.code == AppUnreachable.code):
            last[each.service] = each.code
    return {name: "does not listen: start the app" for name, code in last.items() if code}
