"""The record as one SVG: a row for each axis, a column for each figure. Pure.

The values of an axis lie on a logarithmic scale, figures on a linear one from 0. What broke is red.
"""

import math
from collections.abc import Callable
from html import escape

from bench.scale.record import Axis, Point, Record, first_break

#: Of one plot, in pixels, and of the room around it.
WIDTH, HEIGHT = 210, 110
LEFT, TOP, RIGHT, BOTTOM = 20, 34, 60, 34
HEAD = 30
LINE, BROKEN, FRAME, TEXT = "#1d6fa5", "#d1495b", "#c3c9d1", "#2b2f36"

COLUMNS: tuple[tuple[str, Callable[[Point], float]], ...] = (
    ("requests/s", lambda point: point.rate),
    ("p99, ms", lambda point: point.p99),
    ("CPU of a request, µs", lambda point: point.cpu),
    ("memory of a replica, MiB", lambda point: point.memory),
)


def svg(record: Record) -> str:
    rows = list(record.measured())
    step_x, step_y = LEFT + WIDTH + RIGHT, TOP + HEIGHT + BOTTOM
    width, height = step_x * len(COLUMNS), HEAD + step_y * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}"'
        f' height="{height}" font-family="sans-serif" font-size="11" fill="{TEXT}">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for column, (title, value) in enumerate(COLUMNS):
        parts.append(_text(column * step_x + LEFT, 20, title, size=13))
        for row, (axis, points) in enumerate(rows):
            place = f"translate({column * step_x + LEFT} {HEAD + row * step_y + TOP})"
            parts.append(f'<g transform="{place}">{_plot(axis, points, value)}</g>')
    return "\n".join((*parts, "</svg>", ""))


def _plot(axis: Axis, points: list[Point], value: Callable[[Point], float]) -> str:
    good = [point for point in points if not point.problem]
    top = max((value(point) for point in good), default=0.0) or 1.0
    places = [(_x(point.at, points), HEIGHT * (1 - value(point) / top)) for point in good]
    found = first_break(axis, points)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    parts = [
        f'<path d="M0 0V{HEIGHT}H{WIDTH}" fill="none" stroke="{FRAME}"/>',
        f'<polyline points="{line}" fill="none" stroke="{LINE}" stroke-width="2"/>',
    ]
    for point, (x, y) in zip(good, places, strict=True):
        colour = BROKEN if found and point.at >= found.at else LINE
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
    for point in points:
        if point.problem:
            parts.append(_text(_x(point.at, points), HEIGHT - 4, "✕", colour=BROKEN, anchor="middle"))
    if good:
        parts.append(_text(places[-1][0] + 6, places[-1][1] + 4, short(value(good[-1]))))
    ends = sorted({points[0].at, points[-1].at})
    parts += [_text(_x(at, points), HEIGHT + 14, short(at), anchor="middle") for at in ends]
    parts += [_text(0, -8, axis.name), _text(WIDTH, -8, f"most: {short(top)}", anchor="end")]
    return "".join(parts)


def _x(at: int, points: list[Point]) -> float:
    first, last = math.log(points[0].at), math.log(points[-1].at)
    return WIDTH * (math.log(at) - first) / (last - first) if last > first else 0.0


def short(value: float) -> str:
    """Three digits, and a letter for thousands and millions."""
    for unit, letter in ((1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def _text(x: float, y: float, text: str, size: int = 11, colour: str = TEXT, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(text)}</text>"
