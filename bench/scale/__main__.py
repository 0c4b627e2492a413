"""`python -m bench.scale`: how rate, p99, CPU and memory grow along each axis, and what breaks first."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

import devroute.http.message as compiled_or_not
from bench import toolchains
from bench.processes import CannotRun, stage
from bench.scale import chart
from bench.scale.axes import Rig, measure, start_rig
from bench.scale.record import AXES, Axis, Record, limits, table, with_part
from devroute import descriptors

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "sizing.md"
#: Axes that come after all others: what they start stays online, and processes make requests more expensive.
STAYING = {"laptops": 1, "processes": 2}
#: After so many seconds no further point begins.
LIMIT_S = 420.0


def main() -> int:
    options = _options()
    # A signal ends the run and the processes that it started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    descriptors.reserve()  # wrk and all others have the limit from here
    compiled = not str(compiled_or_not.__file__).endswith(".py")
    record = Record(options.seconds, os.cpu_count() or 0, compiled)
    started = time.monotonic()
    with stage(toolchains.folder(), {}) as ours:
        try:
            rig = start_rig(ours, options.seconds)
        except CannotRun as error:
            print(f"scale: {error}", file=sys.stderr)
            return 1
        for axis in sorted(AXES, key=lambda each: STAYING.get(each.name, 0)):
            if not options.only or axis.name in options.only:
                _along(rig, axis, record, options.quick, started + LIMIT_S)
    record.took = time.monotonic() - started
    _write(record, options.into)
    if options.record:
        _keep(record)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scale", description=__doc__.partition(": ")[2])
    parser.add_argument("--seconds", type=int, default=3, help="of load, at each point")
    parser.add_argument(
        "--quick", action="store_true", help="a minute: few points of a second, to small values"
    )
    parser.add_argument("--only", nargs="+", metavar="AXIS", choices=[axis.name for axis in AXES])
    parser.add_argument("--into", type=Path, default=Path("artefacts/scale"))
    parser.add_argument("--record", action="store_true", help="also write to bench/scale/ and docs/sizing.md")
    options = parser.parse_args()
    if options.record and (options.quick or options.only):
        parser.error(
            "--record takes a whole run, without --quick and --only: the limits on the page need every point"
        )
    if options.quick:
        options.seconds = 1
    return options


def _along(rig: Rig, axis: Axis, record: Record, quick: bool, until: float) -> None:
    """Until a point has no figures, or the time is over."""
    found = record.points.setdefault(axis.name, [])
    for at in axis.quick if quick else axis.values:
        if time.monotonic() > until:
            print(f"{axis.name}: no time for {at:,} and more", file=sys.stderr)
            return
        point = measure(rig, axis.name, at)
        found.append(point)
        figures = point.problem or (
            f"{point.rate:,.0f}/s, p99 {point.p99:,.1f} ms, {point.cpu:,.0f} µs, {point.memory:,.0f} MiB"
        )
        print(f"{axis.name:10}{at:12,}  {figures}", file=sys.stderr, flush=True)
        if point.problem:
            return


def _write(record: Record, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    (into / "scale.json").write_text(record.as_json(), encoding="utf-8")
    (into / "scale.svg").write_text(chart.svg(record), encoding="utf-8")
    (into / "scale.md").write_text(table(record), encoding="utf-8")
    print(f"{table(record)}\nfiles: {into}/scale.md, scale.json, scale.svg")


def _keep(record: Record) -> None:
    for name, text in (("scale.json", record.as_json()), ("scale.svg", chart.svg(record))):
        (HERE / name).write_text(text, encoding="utf-8")
    for page, part in ((HERE / "README.md", table(record)), (PAGE, limits(record))):
        page.write_text(with_part(page.read_text(encoding="utf-8"), "scale", part), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
