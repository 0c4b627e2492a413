"""Runs one target for some seconds: python -m fuzz.worker [--own] TARGET SECONDS FIGURES

Exits with 1 if an invariant was broken, an input took too long, or memory grew; the input is kept under
artefacts/fuzz. Atheris is guided by coverage, the own driver by the values that targets return.
"""

import argparse
import faulthandler
import gc
import hashlib
import importlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Final

try:
    import atheris  # type: ignore[import-untyped]  # optional, and without stubs
except ImportError:
    atheris = None

ARTEFACTS: Final = Path("artefacts/fuzz")

#: CPU seconds for one input of at most 4 KiB; the slowest take some milliseconds.
MAX_SECONDS: Final = 1.0

#: After this long without an end, the stack is printed and the process exits.
HANG_SECONDS: Final = 20

#: Growth from the first fifth of the time to the end that is no leak, in Python objects: caches fill.
MAX_BLOCKS: Final = 40_000

#: The same in bytes, for memory outside of Python objects.
MAX_BYTES: Final = 32 * 1024 * 1024


class Watch:
    """Runs inputs and measures time and memory."""

    def __init__(self, name: str, seconds: float, figures: Path, engine: ModuleType | None) -> None:
        self.engine = engine
        module = self._load()
        self.name = name
        self.seconds = seconds
        self.target = module.TARGETS[name]
        self.figures = figures
        self.inputs = 0
        self.slowest = 0.0
        self.kinds = 0
        self.started = time.monotonic()
        self.baseline: tuple[int, int] | None = None
        faulthandler.enable()

    def _load(self) -> ModuleType:
        if self.engine is None:
            return importlib.import_module("fuzz.targets")
        with self.engine.instrument_imports(include=["devroute"]):
            return importlib.import_module("fuzz.targets")

    def one(self, data: bytes) -> object:
        self.inputs += 1
        began = time.process_time()
        try:
            value = self.target(data)
            took = time.process_time() - began
            assert took <= MAX_SECONDS, f"{took:.1f} s of CPU for {len(data)} bytes"
        except Exception:
            self.keep(data)
            raise
        self.slowest = max(self.slowest, took)
        if self.inputs % 1024 == 0:
            self.account()
        return value

    def keep(self, data: bytes) -> None:
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        path = ARTEFACTS / f"{self.name}-{hashlib.sha256(data).hexdigest()[:16]}"
        path.write_bytes(data)
        print(f"{path}: {data[:400]!r}", file=sys.stderr)

    def account(self) -> None:
        """Write the figures now and then: libFuzzer ends the process without a callback."""
        passed = time.monotonic() - self.started
        faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
        gc.collect()
        blocks = sys.getallocatedblocks()
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        if self.baseline is None and passed > self.seconds / 5:
            self.baseline = blocks, memory
        more_blocks, more_bytes = 0, 0
        if self.baseline is not None:
            more_blocks, more_bytes = blocks - self.baseline[0], memory - self.baseline[1]
        figures = {
            "inputs": self.inputs,
            "seconds": round(passed, 1),
            "kinds": self.kinds,
            "slowest_ms": round(self.slowest * 1000, 1),
            "more_blocks": more_blocks,
            "more_kib": more_bytes // 1024,
            "engine": "atheris" if self.engine else "own",
        }
        self.figures.write_text(json.dumps(figures))
        assert more_blocks < MAX_BLOCKS, f"{more_blocks} objects more than after the first fifth of the time"
        # Memory holds libFuzzer's corpus and counters too, so the bound on bytes is for the own driver.
        assert self.engine or more_bytes < MAX_BYTES, (
            f"{more_bytes} bytes more than after the first fifth of the time"
        )


def with_values(watch: Watch, seeds: list[bytes], tokens: list[bytes], random: Random) -> None:
    from .mutate import Mutator

    mutator = Mutator(seeds, tokens, random)
    for seed in seeds:
        mutator.learn(seed, watch.one(seed))
    until = watch.started + watch.seconds
    while time.monotonic() < until:
        for _ in range(64):
            data = mutator.next()
            mutator.learn(data, watch.one(data))
        watch.kinds = mutator.kinds
    watch.account()


def quoted(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


def with_coverage(watch: Watch, seeds: list[bytes], tokens: list[bytes], random: Random) -> None:
    from .targets import MAX_INPUT

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for number, seed in enumerate(seeds):
            (corpus / str(number)).write_bytes(seed)
        words = Path(folder) / "words"
        words.write_text("".join(f'"{quoted(token)}"\n' for token in tokens))
        atheris.Setup(
            [
                "fuzz",
                f"-max_total_time={max(1, int(watch.seconds))}",
                f"-max_len={MAX_INPUT}",
                f"-dict={words}",
                f"-seed={random.randrange(1 << 31)}",
                f"-timeout={HANG_SECONDS}",
                f"-artifact_prefix={folder}/",
                "-rss_limit_mb=1024",
                "-verbosity=0",
                "-print_final_stats=0",
                str(corpus),
            ],
            lambda data: watch.one(bytes(data)) and None,
        )
        atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("target")
    parser.add_argument("seconds", type=float)
    parser.add_argument("figures", type=Path)
    parser.add_argument("--own", action="store_true", help="use the own driver even if atheris is installed")
    options = parser.parse_args()
    engine = None if options.own else atheris
    watch = Watch(options.target, options.seconds, options.figures, engine)
    from .seeds import TOKENS, seeds

    run = with_coverage if engine else with_values
    run(watch, seeds(options.target), TOKENS, Random())


if __name__ == "__main__":
    main()
