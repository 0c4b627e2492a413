"""Memory and file descriptors of the processes under load, and whether they grow."""

import asyncio
import contextlib
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from .ledger import MACHINE, Ledger

#: Seconds between two samples.
SAMPLE_S = 1.0
#: A shorter run shows nothing about growth: pools and caches are still filling.
LONG_S = 120.0
#: Growth from the first third to the last that is no leak: caches that fill, fragmentation.
MEMORY_GROWTH, MEMORY_KIB = 1.10, 8 * 1024
FD_GROWTH, FDS = 1.25, 16
#: Seconds without a turn of this process's loop that explain late responses.
STALL_S = 0.3
BEAT_S = 0.25
#: A process that was ready to run but not scheduled for more than this share of the time was starved.
STARVED = 0.4

PROC = Path("/proc")


@dataclass
class Watched:
    name: str
    pid: int
    samples: list[tuple[int, int]] = field(default_factory=list)  # KiB, file descriptors

    def sample(self) -> None:
        status = (PROC / str(self.pid) / "status").read_text()
        memory = int(status.partition("VmRSS:")[2].split()[0])
        self.samples.append((memory, len(list((PROC / str(self.pid) / "fd").iterdir()))))

    def waited(self) -> float:
        """Seconds for which its main thread was ready to run but not scheduled; 0 if unknown."""
        try:
            return int((PROC / str(self.pid) / "schedstat").read_text().split()[1]) / 1e9
        except (OSError, IndexError):
            return 0.0

    def thirds(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Medians of memory (KiB) and descriptors, in the first third and in the last."""
        third = max(1, len(self.samples) // 3)
        first, last = zip(*self.samples[:third], strict=True), zip(*self.samples[-third:], strict=True)
        (m1, f1), (m2, f2) = (tuple(map(statistics.median, each)) for each in (first, last))
        return (m1, f1), (m2, f2)

    def line(self) -> str:
        (m1, f1), (m2, f2) = self.thirds()
        peak, most = (max(values) for values in zip(*self.samples, strict=True))
        return (
            f"{self.name}: memory {m1 / 1024:.1f} -> {m2 / 1024:.1f} MiB (peak {peak / 1024:.1f}),"
            f" file descriptors {f1:.0f} -> {f2:.0f} (peak {most})"
        )

    @property
    def flat(self) -> bool:
        (m1, f1), (m2, f2) = self.thirds()
        return m2 <= m1 * MEMORY_GROWTH + MEMORY_KIB and f2 <= f1 * FD_GROWTH + FDS


async def sample(processes: list[Watched]) -> None:
    """Take samples until cancelled; without /proc there are none."""
    while True:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for process in processes:
                process.sample()
        await asyncio.sleep(SAMPLE_S)


async def beat(ledger: Ledger, processes: list[Watched]) -> None:
    """Record as outages the times in which this process or a watched one was not scheduled."""
    last = time.monotonic()
    waited = [process.waited() for process in processes]
    while True:
        await asyncio.sleep(BEAT_S)
        now = time.monotonic()
        before, waited = waited, [process.waited() for process in processes]
        starved = any(b - a > STARVED * (now - last) for a, b in zip(before, waited, strict=True))
        if starved or now - last > BEAT_S + STALL_S:
            ledger.outages.stalled(MACHINE, last, now)
        last = now
