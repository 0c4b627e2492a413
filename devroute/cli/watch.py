"""`devroute ls --watch`: who is on what, as it changes. On a terminal a page that is drawn in place;
elsewhere a line for each change, or one JSON object a line.
"""

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import datetime
from typing import Any, Final, Protocol, TextIO

from devroute.agent.api_client import follow
from devroute.agent.settings import ClientSettings
from devroute.errors import ServerUnreachable
from devroute.quoting import visible

#: Seconds before the next attempt where the server has ended the stream, as one that restarts does.
RETRY_SECONDS: Final = 1.0
#: Fallbacks below the laptops.
MAX_FALLBACKS: Final = 8
#: The columns, those that a narrow terminal leaves out last first.
COLUMNS: Final = ("LAPTOP", "SERVICES", "REQ/MIN", "FAILED", "RTT", "FOR", "VERSION")
#: Characters below which SERVICES is not cut, but a column is left out.
LEAST: Final = 12

Row = dict[str, Any]


class View(Protocol):
    def show(self, rows: Mapping[str, Row], changed: Iterable[Row], gone: Iterable[Row]) -> None:
        """All rows by id, and what has changed."""

    def interrupted(self, problem: str) -> None: ...


async def watch(settings: ClientSettings, out: TextIO) -> None:
    """Until it is interrupted. Raises what `follow` raises for the first connection, and what another attempt
    would end with, too."""
    from devroute.agent.ui.page import can_draw

    with ExitStack() as restored:
        view: View
        if settings.output == "json":
            view = JsonLines(out)
        elif can_draw(out):
            view = Screen(out, settings.server, restored)
        else:
            view = Lines(out)
        followed = Followed(view)
        while True:
            try:
                await followed.connect(settings)
                view.interrupted("the server has ended the connection")
            except ServerUnreachable as error:
                if not followed.connected:
                    raise
                view.interrupted(error.message)
            await asyncio.sleep(RETRY_SECONDS)


class Followed:
    """The rows by id, over several connections: each begins with all rows."""

    def __init__(self, view: View) -> None:
        self.connected = False
        self._view = view
        self._rows: dict[str, Row] = {}

    async def connect(self, settings: ClientSettings) -> None:
        """Until the server ends the connection."""
        arriving: dict[str, Row] | None = {}
        async for name, event in follow(settings, "/dashboard/events"):
            if name != "rows":
                continue
            try:
                arriving = self._take(event, arriving)
            except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
                problem = f"{settings.server} sends rows that this release of devroute cannot show"
                raise ServerUnreachable(
                    problem, hint="does the server run another release of devroute?"
                ) from None
            self.connected = True

    def _take(self, event: Row, arriving: dict[str, Row] | None) -> dict[str, Row] | None:
        """The rows that have arrived while not all have; None once they are shown. Raises whatever rows
        raise that no server of this release would send."""
        changed = {str(each["id"]): each for each in event["changed"]}
        if arriving is None:
            self._replace({k: v for k, v in self._rows.items() if k not in event["gone"]} | changed)
            return None
        arriving |= changed
        if not event["synced"]:
            return arriving
        self._replace(arriving)
        return None

    def _replace(self, rows: dict[str, Row]) -> None:
        before, self._rows = self._rows, rows
        gone = [row for key, row in before.items() if key not in rows]
        self._view.show(rows, [row for key, row in rows.items() if before.get(key) != row], gone)


class Lines:
    """A line for each laptop that comes or goes, and for each fallback."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._known: set[str] = set()

    def show(self, rows: Mapping[str, Row], changed: Iterable[Row], gone: Iterable[Row]) -> None:
        for row in gone:
            if row["kind"] == "laptop":
                self._known.discard(row["id"])
                self._print(f"offline   {row['laptop']}")
        for row in changed:
            if row["kind"] == "laptop" and row["id"] not in self._known:
                self._known.add(row["id"])
                self._print(f"online    {row['laptop']}: {_services(row)} (devroute {row['agent']})")
            elif row["kind"] == "fallback":
                self._print(f"fallback  {row['service']} -> {row['target']}: {row['reason']}")

    def interrupted(self, problem: str) -> None:
        self._print(f"trouble   {problem}")

    def _print(self, text: str) -> None:
        self._out.write(f"{time.strftime('%H:%M:%S')}  {visible(text)}\n")
        self._out.flush()


class JsonLines:
    def __init__(self, out: TextIO) -> None:
        self._out = out

    def show(self, rows: Mapping[str, Row], changed: Iterable[Row], gone: Iterable[Row]) -> None:
        for row in gone:
            self._print({"event": "gone", **row})
        for row in changed:
            self._print({"event": "changed", **row})

    def interrupted(self, problem: str) -> None:
        self._print({"event": "trouble", "reason": problem})

    def _print(self, document: Row) -> None:
        self._out.write(json.dumps(document) + "\n")
        self._out.flush()


class Screen:
    """Draws all lines with one write, and none that has not changed, so that nothing flickers. `restored`
    restores the terminal."""

    def __init__(self, out: TextIO, server: str, restored: ExitStack) -> None:
        from rich.console import Console

        self._out = out
        self._server = server
        self._console = Console(file=out, highlight=False)
        self._drawn: list[str] = []
        self._rows: Mapping[str, Row] = {}
        self._console.set_alt_screen(True)
        restored.callback(self._console.set_alt_screen, False)
        self._console.show_cursor(False)
        restored.callback(self._console.show_cursor, True)

    def show(self, rows: Mapping[str, Row], changed: Iterable[Row], gone: Iterable[Row]) -> None:
        self._rows = rows
        self._draw("live")

    def interrupted(self, problem: str) -> None:
        self._draw(f"reconnecting: {problem}")

    def _draw(self, state: str) -> None:
        width, height = self._console.size
        drawn = page(self._rows.values(), f"{self._server} · {state}", width, height, time.time())
        text = "".join(
            f"\x1b[{at + 1};1H{line}\x1b[K"
            for at, line in enumerate(drawn)
            if at >= len(self._drawn) or self._drawn[at] != line
        )
        self._drawn = drawn
        self._out.write(f"{text}\x1b[{len(drawn)};1H\x1b[J{drawn[-1]}")
        self._out.flush()


def page(rows: Iterable[Row], title: str, width: int, height: int, now: float) -> list[str]:
    """The lines of a terminal of this size, at most `height`. `now`: seconds since the epoch."""
    listed = list(rows)
    laptops = [each for each in listed if each["kind"] == "laptop"]
    fallbacks = sorted(
        (each for each in listed if each["kind"] == "fallback"), key=lambda each: -each["last"]
    )
    table = _table([_cells(each, now) for each in laptops], width) if laptops else ["no laptop is online"]
    shown = fallbacks[: min(MAX_FALLBACKS, max(0, height - 6))]
    below = ["", "LAST FALLBACKS", *map(_fallback, shown)] if shown else []
    room = max(1, height - 2 - len(below))
    if len(table) > room:
        table = [*table[: room - 1], f"and {len(table) - room + 1} more"]
    lines = [f"devroute · {len(laptops)} online · {title}", "", *table, *below]
    return [_cut(visible(line), width) for line in lines[:height]]


def _cells(row: Row, now: float) -> dict[str, str]:
    total = [sum(int(each[name]) for each in row["services"]) for name in ("requests", "failed")]
    since = datetime.fromisoformat(row["since"]).timestamp()
    trip = row["round_trip_ms"]
    return {
        "LAPTOP": row["laptop"],
        "SERVICES": _services(row),
        "REQ/MIN": str(total[0]),
        "FAILED": str(total[1]) if total[1] else "-",
        "RTT": "-" if trip is None else f"{trip} ms",
        "FOR": _span(now - since),
        "VERSION": row["agent"],
    }


def _table(cells: list[dict[str, str]], width: int) -> list[str]:
    """Columns that fit: SERVICES is cut first, then columns are left out from the right."""
    rows = [dict(zip(COLUMNS, COLUMNS, strict=True)), *cells]
    widths = {name: max(len(each[name]) for each in rows) for name in COLUMNS}
    for count in range(len(COLUMNS), 0, -1):
        names = COLUMNS[:count]
        spare = width - sum(widths[name] for name in names) - 2 * (count - 1)
        if spare >= 0 or "SERVICES" not in names or widths["SERVICES"] + spare >= LEAST:
            break
    if "SERVICES" in names and spare < 0:
        widths["SERVICES"] += spare
    return ["  ".join(_cut(each[name], widths[name]).ljust(widths[name]) for name in names) for each in rows]


def _services(row: Row) -> str:
    return ", ".join(str(each["service"]) for each in row["services"])


def _fallback(row: Row) -> str:
    at = time.strftime("%H:%M:%S", time.localtime(row["last"]))
    times = f" ({row['times']} times)" if row["times"] > 1 else ""
    return f"{at}  {row['service']} -> {row['target']}: {row['reason']}{times}"


def _span(seconds: float) -> str:
    """Short, for a column."""
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return "< 1 m"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"
