"""Single measurements of one peer: requests by wrk, large bodies by gobulk, their CPU time by /proc.

Raises CannotRun if a response was wrong: a figure with errors counts for nothing.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.peers import Peer
from bench.processes import CannotRun, Door, Stage, busy_seconds, cpu_seconds

GIB = 1 << 30
#: Seconds for 1 GiB through the slowest peer.
BULK_TIMEOUT = 60
WRK_SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass(frozen=True)
class Load:
    """Requests a second, times in µs, CPU seconds per 100,000 requests."""

    rate: float
    p50: float
    p99: float
    proxy_cpu: float
    agent_cpu: float


class Strangers:
    """The share of one core that other processes use meanwhile, for each measurement."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    @contextlib.contextmanager
    def watched(self, seconds: float) -> Iterator[None]:
        busy, ours = busy_seconds(), cpu_seconds([os.getpid()], ended_children=True)
        yield
        ours = cpu_seconds([os.getpid()], ended_children=True) - ours
        self.shares.append(max(0.0, busy_seconds() - busy - ours) / seconds)


def load(stage: Stage, peer: Peer, connections: int, seconds: float, strangers: Strangers) -> Load:
    proxy, agent = ([each.pid for each in role] for role in (peer.proxy, peer.agent))
    before = cpu_seconds(proxy), cpu_seconds(agent)
    with strangers.watched(seconds):
        result = wrk(stage, peer.app, connections, seconds)
    requests = result["requests"]
    cost = [
        (cpu_seconds(pids) - start) * 100_000 / requests
        for pids, start in zip((proxy, agent), before, strict=True)
    ]
    return Load(requests / result["seconds"], result["p50"], result["p99"], *cost)


def wrk(stage: Stage, door: Door, connections: int, seconds: float) -> dict[str, float]:
    """{requests, seconds, p50, p99}; times in µs."""
    headers = [part for name, value in door.headers.items() for part in ("-H", f"{name}: {value}")]
    shape = ("-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s", str(WRK_SCRIPT))
    place = f"http://127.0.0.1:{door.port}{door.path}"
    finished = subprocess.run(
        [stage.program("wrk"), *shape, *headers, place, "--", str(door.contracts)],
        capture_output=True,
        text=True,
        timeout=seconds + 30,
    )
    lines = finished.stdout.strip().splitlines()
    if finished.returncode or not lines or not lines[-1].startswith("{"):
        raise CannotRun(f"wrk failed: {finished.stderr.strip() or finished.stdout.strip()}")
    result: dict[str, float] = json.loads(lines[-1])
    if not result["requests"] and not result["errors"]:
        raise CannotRun(f"no response in {seconds:g} s")
    if result["errors"]:
        raise CannotRun(
            f"{result['errors']} errors in {result['requests']} requests"
            f" ({result['statuses']} wrong statuses, {result['timeouts']} time-outs)"
        )
    return result


def bulk(stage: Stage, peer: Peer, direction: str, size: int) -> float:
    """Bytes a second; `direction` is get or put."""
    headers = [f"{name}: {value}" for name, value in peer.bulk.headers.items()]
    place = (f"127.0.0.1:{peer.bulk.port}", str(size))
    try:
        finished = subprocess.run(
            [stage.program("gobulk"), direction, *place, *headers],
            capture_output=True,
            text=True,
            timeout=BULK_TIMEOUT,
        )
    except subprocess.TimeoutExpired:
        raise CannotRun(f"{direction} of {size} bytes took longer than {BULK_TIMEOUT} s") from None
    if finished.returncode:
        raise CannotRun(f"{direction} of {size} bytes failed: {finished.stderr.strip()}")
    return size / float(finished.stdout)
