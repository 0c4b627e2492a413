"""The page of `devroute up` as lines of styled text: the laptop, its contract, its requests.

Never draws: page.py does, and redraws only lines that have changed.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from rich.cells import cell_len, set_cell_size

from devroute.contract.mesh_identity import caller_of
from devroute.headers import CALLER, VIA, line_start
from devroute.http.grpc import status_name
from devroute.tunnel.served_stream import Finished, OpenRequest

#: A text, and its style as rich names it.
Piece = tuple[str, str]
Line = tuple[Piece, ...]

#: Terminal widths below which the size and the caller are left out.
SIZE_COLUMNS: Final = 64
CALLER_COLUMNS: Final = 76

#: Columns of a caller and of a service's name.
CALLER_WIDTH: Final = 16
SERVICE_WIDTH: Final = 12

#: Most requests that are open; the others are counted.
MAX_OPEN_ROWS: Final = 5

#: The status of a request without a response so far.
OPEN: Final = -1

#: Most lines of a reason or a contract.
MAX_FOLDED: Final = 3


@dataclass(frozen=True, slots=True)
class Row:
    """A request. `problem`: what went wrong, `rule`: what a rule did, "" if nothing. While it is open,
    `status` is OPEN until there is a response, and `duration` its age."""

    clock: str
    service: str
    method: str
    path: str
    status: int
    duration: str
    size: str
    caller: str
    problem: str
    rule: str = ""


@dataclass(slots=True)
class View:
    """The state that is shown. `trouble`: why the laptop is offline, None while it is online; `warning`: any
    other fault; `mode`: what is unlike an offer of all requests; `rules`: which apply; `shadow`: counts of
    comparisons; `open`: requests that have been open for a while, the oldest first; `rows`: the newest
    completed request first."""

    name: str = ""
    server: str = ""
    services: Sequence[tuple[str, str]] = ()
    contract: str = ""
    curl: str = ""
    link: str | None = None
    inspector: str | None = None
    trouble: str | None = None
    warning: str = ""
    round_trip_ms: float | None = None
    minutes: int = 0
    requests: int = 0
    failed: int = 0
    shadow: str = ""
    rules: str = ""
    unreachable: dict[str, str] = field(default_factory=dict)
    mode: Sequence[str] = ()
    open: Sequence[Row] = ()
    rows: Sequence[Row] = ()


def row_of(finished: Finished, at: str) -> Row:
    """The row of a request that ended at this time of day. Paths and reasons cannot control the terminal."""
    return Row(
        at,
        "" if finished.outgoing else finished.service,
        finished.method,
        _path_of(finished),
        finished.status,
        duration(finished.duration),
        size(finished.size),
        "" if finished.outgoing else way_of(finished.head),
        printable(finished.reason or finished.code) if finished.code else grpc_failure(finished),
        finished.rule,
    )


def open_row(request: OpenRequest) -> Row:
    """The row of a request that has not ended; its clock is when it came."""
    came = time.strftime("%H:%M:%S", time.localtime(time.time() - request.age))
    service = "" if request.outgoing else request.service
    path, waited = _path_of(request), age(request.age)
    return Row(came, service, request.method, path, request.status or OPEN, waited, "", "", "")


def outgoing_to(request: Finished | OpenRequest) -> str:
    """Where an outgoing request goes, as an arrow and the service; "" for any other."""
    return f"-> {printable(request.service)}" if request.outgoing else ""


def _path_of(request: Finished | OpenRequest) -> str:
    path = printable(request.target)
    return f"{outgoing_to(request)} {path}" if request.outgoing else path


def grpc_failure(finished: Finished) -> str:
    """The name of a gRPC status other than OK, else ""."""
    return f"gRPC {status_name(finished.grpc_status)}" if finished.grpc_status else ""


def lines(view: View, width: int, height: int, *, plain_ascii: bool = False) -> list[Line]:
    """The whole screen: exactly `height` lines, none of them wider than `width`."""
    shown = [*_head(view, width, "*" if plain_ascii else "●"), (), *_reach(view, width), ()]
    services = max((cell_len(service) for service, _ in view.services), default=0)
    columns = min(services, SERVICE_WIDTH) if len(view.services) > 1 else 0
    rows = [*view.open[:MAX_OPEN_ROWS], *view.rows]
    callers = min(max((cell_len(row.caller) for row in rows), default=0), CALLER_WIDTH)
    counted = f"{view.requests:,} requests" if view.requests != 1 else "1 request"
    failures = ((f", {view.failed:,} failed", "red"),) if view.failed else ()
    shadow = ((f"  {view.shadow}", ""),) if view.shadow else ()
    waiting = ((f", {len(view.open)} open for a while", "cyan"),) if view.open else ()
    shown.append(((counted, "bold"), *failures, *waiting, *shadow))
    for row in rows:
        if len(shown) >= height - 2:
            break
        shown.append(_row(row, width, columns, callers))
        for text, style in ((row.problem, "yellow"), (row.rule, "cyan")):
            if text and len(shown) < height - 2:
                shown.append((("          " + text, style),))
    if not rows:
        hint = "none yet: send one with the line above" if view.services else "none yet"
        shown.append(((hint, "dim"),))
    shown = shown[: max(0, height - 1)]
    shown += [()] * (height - 1 - len(shown))
    switch: Line = ((f"  {view.rules} (o: on/off)", "cyan"),) if view.rules else ()
    shown.append((("Ctrl-C ends", "dim"), *switch))
    return [_cut(line, width) for line in shown[:height]]


def _head(view: View, width: int, dot: str) -> list[Line]:
    facts = []
    if view.trouble is None and view.round_trip_ms is not None:
        facts.append(f"{view.round_trip_ms:.0f} ms" if view.round_trip_ms >= 1 else "under 1 ms")
    if view.minutes:
        hours, minutes = divmod(view.minutes, 60)
        facts.append(f"up {hours} h {minutes} min" if hours else f"up {minutes} min")
    right = ", ".join(facts)
    colour = "green" if view.trouble is None else "red"
    state = " is online" if view.trouble is None else " is offline"
    left: Line = ((f"{dot} ", colour), (view.name, "bold"), (state, colour))
    gap = width - _width(left) - cell_len(right)
    first: Line = (*left, (" " * gap, ""), (right, "dim")) if right and gap > 0 else left
    found: list[Line] = [first, ((f"  {view.server}", "dim"),)]
    for part in _folded(view.trouble or view.warning, width - 2):
        found.append(((f"  {part}", "yellow" if view.trouble is None else "red"),))
    return found


def _reach(view: View, width: int) -> list[Line]:
    longest = max((cell_len(service) for service, _ in view.services), default=0)
    found: list[Line] = []
    for service, place in view.services:
        line: Line = (("  ", ""), (service.ljust(longest), "bold"), (f"  {place}", ""))
        if (why := view.unreachable.get(service)) is not None:
            line = (*line, (f"  {why}", "yellow"))
        found.append(line)
    for each in view.mode:
        found += [((f"  {part}", "magenta"),) for part in _folded(each, width - 2)]
    found.append(())
    if view.services:
        # At the left edge, so that selecting a line copies the header alone.
        found += [((part, "cyan"),) for part in _folded(f"X-devroute: {view.contract}", width)]
        found += [((part, "dim"),) for part in _folded(view.curl, width)]
    for label, link in (("Browser: ", view.link), ("Inspector: ", view.inspector)):
        if link and cell_len(label + link) <= width:
            found.append(((label, "dim"), (link, "")))
        elif link:  # one that is cut off does not work
            found += [((label, "dim"),), *(((part, ""),) for part in _folded(link, width))]
    return found


def _row(row: Row, width: int, services: int, callers: int) -> Line:
    status = "..." if row.status == OPEN else str(row.status or "---")
    left = [(row.clock, "dim")]
    if services:
        left.append((set_cell_size(row.service, services), ""))
    left.append((set_cell_size(row.method, max(6, len(row.method))), "bold"))
    right = [(status, _colour(row.status, row.problem)), (row.duration.rjust(7), "")]
    if width >= SIZE_COLUMNS:
        right.append((row.size.rjust(8), "dim"))
    if width >= CALLER_COLUMNS and callers:
        right.append((set_cell_size(row.caller, callers), "dim"))
    taken = sum(cell_len(text) + 2 for text, _ in (*left, *right))
    room = max(8, width - taken)
    path = row.path if cell_len(row.path) <= room else set_cell_size(row.path, room - 1).rstrip() + "…"
    cells = [*left, (set_cell_size(path, room), ""), *right]
    return tuple(piece for cell in cells for piece in (cell, ("  ", "")))[:-1]


def _colour(status: int, problem: str) -> str:
    if status == OPEN:
        return "cyan"
    if problem or status >= 500 or not status:
        return "red"
    return "yellow" if status >= 400 else "green" if status < 300 else "cyan"


def _folded(text: str, width: int) -> list[str]:
    """The text as lines that fit, at most MAX_FOLDED of them."""
    width = max(1, width)
    return re.findall(rf".{{1,{width}}}", text)[:MAX_FOLDED]


def _width(line: Line) -> int:
    return sum(cell_len(text) for text, _ in line)


def _cut(line: Line, width: int) -> Line:
    """The line cut to the width of the screen: a longer one would move everything below it."""
    if _width(line) <= width:
        return line
    kept: list[Piece] = []
    for text, style in line:
        room = width - _width(tuple(kept))
        if cell_len(text) > room:
            kept.append((set_cell_size(text, room), style))
            break
        kept.append((text, style))
    return tuple(kept)


# --- values as people read them -----------------------------------------------------------------------------


def printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def clock() -> str:
    return time.strftime("%H:%M:%S")


def duration(seconds: float) -> str:
    if seconds >= 10:
        return f"{seconds:.1f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.1f} ms"


def age(seconds: float) -> str:
    """In whole seconds and minutes: it goes on."""
    minutes, left = divmod(int(seconds), 60)
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def size(size: int) -> str:
    if size < 1000:
        return f"{size} B"
    for unit in ("kB", "MB"):
        if size < 1_000_000:
            return f"{size / 1000:.1f} {unit}"
        size //= 1000
    return f"{size / 1000:.1f} GB"


# --- the sender of a request --------------------------------------------------------------------------------

#: Services that a request was detoured at before, as far as a line shows them.
SHOWN_DETOURS: Final = 3
_VIA: Final = line_start(VIA)
_CALLER_FIELDS: Final = (f"\r\n{CALLER}:".encode(), b"\r\nx-forwarded-client-cert:")
_AGENT: Final = re.compile(rb"\r\nuser-agent: *([!-.0-~]{1,64})", re.IGNORECASE)


def sender_of(head: bytes) -> str:
    """The sender of a request: its caller in a mesh (see caller_of), else the program that sent it, or ""."""
    for name in _CALLER_FIELDS:
        if (at := head.find(name)) >= 0 and (caller := _caller_in(head[at : head.find(b"\r\n", at + 2)])):
            return caller
    if b"spiffe://" in head and (caller := caller_of(head)):
        return caller
    if (found := _AGENT.search(head)) is not None:
        return found[1].decode("latin-1")
    return ""


def detours_before(head: bytes) -> list[str]:
    """The services that have detoured the request before this one, as the sidecars wrote them."""
    at = head.find(_VIA)
    if at < 0:
        return []
    value = head[at + len(_VIA) : head.find(b"\r\n", at + 2)].decode("latin-1")
    return [printable(name.strip()) for name in value.split(",")][:-1]


def way_of(head: bytes) -> str:
    """By whom a request came, and which services have detoured it before: "shop/web via b", or ""."""
    before = detours_before(head)
    if not before:
        return sender_of(head)
    more = ["…"] if len(before) > SHOWN_DETOURS else []
    return f"{sender_of(head)} via {', '.join([*more, *before[-SHOWN_DETOURS:]])}".strip()


#: For one line: a mesh has few callers, and the lines of each are the same every time.
_caller_in = lru_cache(maxsize=256)(caller_of)
