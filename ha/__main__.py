"""python -m ha [--quick] [--only PHASE ...]: exits with 0 if every figure is within its bound."""

import argparse
import asyncio
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from devroute import descriptors
from ha.figures import Report
from ha.phases import contest, directory, herd, kill, redis, restart, second_link, throughput, under_load
from ha.scale import FULL, QUICK, Scale
from tests.support.redis_server import NEEDED, SERVER

Part = Callable[[Path, Scale, Report, list[str]], Awaitable[None]]

#: What sets itself up once for the phases that it names.
PARTS: list[tuple[Part, list[str]]] = [
    (under_load.run, [restart.NAME, kill.NAME, redis.NAME]),
    (herd.run, [herd.NAME]),
    (second_link.run, [second_link.NAME]),
    (throughput.run, [throughput.NAME]),
    (directory.run, [directory.NAME, contest.NAME]),
]
#: Seconds after which a part is ended.
LIMIT_S, QUICK_LIMIT_S = 400.0, 120.0


async def run(options: argparse.Namespace, folder: Path) -> Report:
    scale = QUICK if options.quick else FULL
    report = Report(
        machine={
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
            "load_before": os.getloadavg()[0],
            "quick": options.quick,
        }
    )
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    for number, (part, names) in enumerate(PARTS):
        wanted = [each for each in names if not options.only or each in options.only]
        if not wanted:
            continue
        print(f"{', '.join(wanted)} ...", file=sys.stderr, flush=True)
        try:
            async with asyncio.timeout(QUICK_LIMIT_S if options.quick else LIMIT_S):
                await part(folder / str(number), scale, report, wanted)
        except asyncio.CancelledError:  # by a signal: what was found until then is shown
            task.uncancel()
            report.broken[wanted[0]] = "ended by a signal"
            break
        except Exception as error:  # noqa: BLE001  # the others show their figures all the same
            report.broken[wanted[0]] = _reason(error)
    report.machine["load_after"] = os.getloadavg()[0]
    return report


def _reason(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"


def main() -> int:
    every = [name for _, names in PARTS for name in names]
    parser = argparse.ArgumentParser(prog="ha", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute, with few laptops and wide bounds")
    parser.add_argument("--only", nargs="+", choices=every, metavar="PHASE", help=", ".join(every))
    parser.add_argument("--into", type=Path, default=Path("artefacts/ha.json"))
    options = parser.parse_args()
    if SERVER is None:
        print(f"ha: {NEEDED}", file=sys.stderr)
        return 2
    descriptors.reserve()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="devroute-ha-") as folder:
        report = asyncio.run(run(options, Path(folder)))
    report.machine["seconds"] = round(time.monotonic() - began, 1)
    options.into.parent.mkdir(parents=True, exist_ok=True)
    options.into.write_text(report.as_json(), encoding="utf-8")
    machine = report.machine
    print(report.table())
    print(
        f"\n{machine['seconds']} s on {machine['cores']} cores, load {machine['load_before']:.1f} before and"
        f" {machine['load_after']:.1f} after; as JSON: {options.into}"
    )
    print("PASSED" if report.passed else "FAILED")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
