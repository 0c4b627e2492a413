"""The reporter that draws one page on a terminal, instead of lines that scroll.

Owns the terminal's alternate screen, cursor and echo until `close`, which restores them and leaves one line.
A thread draws, at most FRAMES_PER_SECOND times a second and only lines that have changed, so that neither a
blocked terminal nor a hundred requests a second slow the tunnel down.
"""

import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Final, TextIO

from rich.cells import cell_len
from rich.console import COLOR_SYSTEMS, Console
from rich.style import Style

from devroute.agent.ui.layout import Line, View, clock, lines, open_row, row_of
from devroute.agent.ui.reporter import Event, Reporter, places
from devroute.agent.ui.writer import LAST_SECONDS
from devroute.errors import AppUnreachable
from devroute.platforms import keyboard_unbuffered
from devroute.tunnel.served_stream import Finished, OpenRequest

FRAMES_PER_SECOND: Final = 8

#: Requests that are kept: more than a screen has lines.
MAX_ROWS: Final = 256


def can_draw(out: TextIO) -> bool:
    """Whether this is a terminal on which a page can be drawn."""
    console = Console(file=out)
    return out.isatty() and not console.is_dumb_terminal and not console.legacy_windows


class PageReporter(Reporter):
    """`flush` wakes the thread that draws the page."""

    reads_keys = True

    def __init__(self, out: TextIO, console: Console | None = None) -> None:
        super().__init__()
        self._out = out
        self._console = console or Console(file=out, highlight=False, soft_wrap=True)
        self._view = View()
        self._finished: deque[tuple[str, Finished]] = deque(maxlen=MAX_ROWS)
        self._started = time.monotonic()
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._draw, name="devroute-screen", daemon=True)
        self._drawn: list[Line] = []
        self._width = 0
        self._ansi_codes: dict[str, tuple[str, str]] = {}
        self._offline = False
        self._missing: dict[str, str] = {}
        self._listens_since: dict[str, int] = {}  # the number of requests at that time

    # --- what happens, on the loop

    def show(self, event: Event) -> None:
        """Longer than 40 lines: one case for each event."""
        view, fields = self._view, event.fields
        match event.name:
            case "online":
                view.name, view.server, view.inspector = (fields[k] for k in ("name", "server", "inspector"))
                self._show_services(fields, fields["services"])
                view.mode = fields["mode"]
                self._thread.start()
            case "added" | "removed":
                self._show_services(fields, fields["serving"])
            case "ended":
                pass  # `close` leaves a line
            case "reach":
                view.mode = [*view.mode, *event.text.rstrip().splitlines()]
            case "offline" | "retry":
                self._offline = True
                view.trouble, view.round_trip_ms = event.text, None
            case "back":
                self._offline = False
                view.trouble = None
            case "network":
                if fields["now"] is None:
                    view.trouble = event.text
                elif not self._offline:
                    view.trouble = None
            case "rules":
                view.rules = event.text if fields["rules"] else ""
            case "inspector":
                view.inspector = fields["url"]
            case "taken-over":
                view.services = [each for each in view.services if each[0] not in fields["services"]]
                view.warning = event.text
            case "app-missing":
                self._missing[fields["service"]] = f"{fields['reason']}: start the app"
            case "app-listens":
                self._missing.pop(fields["service"], None)
                self._listens_since[fields["service"]] = view.requests
            case "shadow":
                view.shadow = str(self.tally)
            case _:
                view.warning = event.text

    def _show_services(self, fields: Mapping[str, Any], served: Sequence[Mapping[str, str | None]]) -> None:
        view = self._view
        view.contract, view.curl, view.link = (fields[k] for k in ("contract", "curl", "link"))
        view.services = places(served)
        names = {name for name, _ in view.services}
        self._missing = {name: problem for name, problem in self._missing.items() if name in names}

    def request(self, finished: Finished) -> None:
        self._view.requests += 1
        self._view.failed += finished.failed
        self._finished.appendleft((clock(), finished))

    def open(self, requests: Sequence[OpenRequest]) -> None:
        self._view.open = [open_row(each) for each in requests]
        self.flush()

    def round_trip(self, seconds: float | None) -> None:
        self._view.round_trip_ms = None if seconds is None else seconds * 1000

    def flush(self) -> None:
        self._changed.set()

    def close(self) -> None:
        """Leaves one line with the totals."""
        self._closing.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join(LAST_SECONDS)

    # --- the page, in the thread

    def _draw(self) -> None:
        try:
            with ExitStack() as restored:
                restored.enter_context(keyboard_unbuffered(self._out))
                self._console.set_alt_screen(True)
                restored.callback(self._console.set_alt_screen, False)
                self._console.show_cursor(False)
                restored.callback(self._console.show_cursor, True)
                while not self._closing.is_set():
                    self._changed.clear()
                    self._paint()
                    self._closing.wait(1 / FRAMES_PER_SECOND)
                    self._changed.wait(1.0)  # a minute may have passed, or the window may have been resized
            self._console.print(self._farewell())
        except (OSError, ValueError):  # the terminal is gone: run on without it
            return

    def _paint(self) -> None:
        console, view = self._console, self._view
        width, height = console.size
        view.minutes = int((time.monotonic() - self._started) / 60)
        recent = list(self._finished)
        view.rows = [row_of(each, at) for at, each in recent[:height]]
        newest = zip(range(view.requests, 0, -1), (each for _, each in recent), strict=False)
        since = self._listens_since
        refused = _unreachable(each for number, each in newest if number > since.get(each.service, 0))
        view.unreachable = refused | dict(self._missing)
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
        """A line that overwrites the one before. Rich's own printing takes 20 ms a frame at a hundred
        requests a second, in which the tunnel's thread hardly runs."""
        blank = " " * (width - sum(cell_len(text) for text, _ in line))
        codes = self._codes
        return "".join(f"{codes(style)[0]}{text}{codes(style)[1]}" for text, style in line) + blank

    def _codes(self, style: str) -> tuple[str, str]:
        """Escape sequences before and after a text of this style."""
        if (codes := self._ansi_codes.get(style)) is None:
            parsed = Style.parse(style)
            if self._console.no_color:
                parsed = parsed.without_color
            # No codes are written without a colour system.
            shown = parsed.render("|", color_system=COLOR_SYSTEMS.get(self._console.color_system or ""))
            before, _, after = shown.partition("|")
            codes = self._ansi_codes[style] = (before, after)
        return codes

    def _farewell(self) -> str:
        view = self._view
        minutes = int((time.monotonic() - self._started) / 60)
        was = f"{view.requests} request{'s' if view.requests != 1 else ''}"
        failed = f", {view.failed} failed" if view.failed else ""
        shadow = f", {view.shadow}" if view.shadow else ""
        return f"{view.name} was online for {minutes} min: {was}{failed}{shadow}"


def _unreachable(newest_first: Iterable[Finished]) -> dict[str, str]:
    """What to do about services whose app could not be reached the last time."""
    last: dict[str, str] = {}
    for each in newest_first:
        if each.outgoing:
            continue
        if each.service not in last and (each.status or each.code == AppUnreachable.code):
            last[each.service] = each.code
    return {name: "does not listen: start the app" for name, code in last.items() if code}
