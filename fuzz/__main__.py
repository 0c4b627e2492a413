"""python -m fuzz [--own] SECONDS [TARGET...]: runs every target in turn and prints their figures."""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from .targets import TARGETS

COLUMNS = ("inputs", "seconds", "kinds", "slowest_ms", "more_blocks", "more_kib", "engine")


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("seconds", type=float, help="for all targets together")
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], help="default: all")
    parser.add_argument("--own", action="store_true", help="use the own driver even if atheris is installed")
    options = parser.parse_args()
    names = options.targets or list(TARGETS)
    print(f"{'target':<12}" + "".join(f"{column:>12}" for column in COLUMNS), flush=True)
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            figures = Path(folder) / name
            figures.write_text("{}")
            share = str(options.seconds / len(names))
            command = [sys.executable, "-m", "fuzz.worker", name, share, str(figures)]
            command += ["--own"] if options.own else []
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False)
            row = json.loads(figures.read_text())
            failure = "" if done.returncode == 0 else f"   FAILED ({done.returncode})"
            print(f"{name:<12}" + "".join(f"{row.get(c, '-'):>12}" for c in COLUMNS) + failure, flush=True)
            if done.returncode:
                failed.append(name)
                print(done.stderr.decode(errors="replace")[-6000:], file=sys.stderr)
    print(f"failed: {', '.join(failed)}" if failed else "no crash, no hang, no growth")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
