"""What the phases found, and what they have to find: a table for people, JSON for programs. Pure."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Figure:
    """`bound`: None where a figure is only shown; `least`: it has to be at least that, else at most."""

    phase: str
    name: str
    value: float
    bound: float | None = None
    unit: str = ""
    least: bool = False

    @property
    def met(self) -> bool | None:
        """None without a bound. What is no number meets none."""
        if self.bound is None:
            return None
        if math.isnan(self.value):
            return False
        return self.value >= self.bound if self.least else self.value <= self.bound

    @property
    def must(self) -> str:
        if self.bound is None:
            return ""
        return f"{'≥' if self.least else '≤'} {self.bound:g}" if self.bound or self.least else "0"


@dataclass
class Report:
    """`broken`: why a phase did not come to its end, by its name. `notes`: the first bad requests, and what
    else explains a figure."""

    figures: list[Figure] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    notes: dict[str, list[str]] = field(default_factory=dict)
    machine: dict[str, object] = field(default_factory=dict)

    def add(self, phase: str, name: str, value: float, unit: str = "") -> None:
        self.figures.append(Figure(phase, name, value, unit=unit))

    def at_most(self, phase: str, name: str, value: float, bound: float, unit: str = "") -> None:
        self.figures.append(Figure(phase, name, value, bound, unit))

    def at_least(self, phase: str, name: str, value: float, bound: float, unit: str = "") -> None:
        self.figures.append(Figure(phase, name, value, bound, unit, least=True))

    def note(self, phase: str, lines: Sequence[str]) -> None:
        if lines:
            self.notes.setdefault(phase, []).extend(lines)

    @property
    def passed(self) -> bool:
        """Whether every bound is met, and there was one."""
        results = [each.met for each in self.figures if each.met is not None]
        return bool(results) and all(results) and not self.broken

    def table(self) -> str:
        rows = [("phase", "figure", "found", "must be", "")]
        before = ""
        for each in self.figures:
            sign = {True: "ok", False: "FAILED", None: ""}[each.met]
            shown = f"{_shown(each.value)} {each.unit}".rstrip()
            rows.append((each.phase if each.phase != before else "", each.name, shown, each.must, sign))
            before = each.phase
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        lines.insert(1, "  ".join("-" * width for width in widths[:4]))
        lines += [f"{phase}: did not finish: {reason}" for phase, reason in self.broken.items()]
        lines += [f"{phase}: {line}" for phase, found in self.notes.items() for line in found]
        return "\n".join(line.rstrip() for line in lines)

    def as_json(self) -> str:
        figures: list[Mapping[str, object]] = [
            {
                "phase": each.phase,
                "figure": each.name,
                "value": None if math.isnan(each.value) else each.value,
                "unit": each.unit,
                "bound": each.bound,
                "bound_is": None if each.bound is None else "least" if each.least else "most",
                "met": each.met,
            }
            for each in self.figures
        ]
        document = {
            "passed": self.passed,
            "machine": self.machine,
            "figures": figures,
            "broken": self.broken,
            "notes": self.notes,
        }
        return json.dumps(document, indent=1, ensure_ascii=False)


def _shown(value: float) -> str:
    if math.isnan(value):
        return "nothing"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
