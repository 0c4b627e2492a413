"""`devroute demo` as people run it: it succeeds, can be used, and leaves nothing behind."""

import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devroute.mesh.demo import Reply, Scene, shown

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

#: The promised limit, once installed.
MAY_TAKE_S = 30.0


@contextmanager
def demo(*flags: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "devroute", "demo", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=10)


def read_until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if wanted in line:
            return lines
    raise AssertionError(f"{wanted!r} was not said:\n" + "\n".join(lines))


def descendants(pid: int) -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def test_each_reply_is_the_expected_one_and_the_mesh_can_be_kept(tmp_path: Path) -> None:
    began = time.monotonic()
    with demo("--keep") as process:
        lines = read_until(process, "-si http")
        assert time.monotonic() - began < MAY_TAKE_S
        scenes = [line for line in lines if line.lstrip()[:1] in ("✓", "✗")]
        assert len(scenes) >= 8
        assert all("✓" in line for line in scenes), "\n".join(lines)
        with urllib.request.urlopen(lines[-1].split()[-1], timeout=5) as response:
            assert response.status == 200
        children = descendants(process.pid)
        assert len(children) >= 5, "three sidecars, a proxy and a laptop at least"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        assert process.returncode == 0
    assert alive(children) == set()


def test_ctrl_c_leaves_nothing_behind_even_if_it_is_pressed_twice() -> None:
    with demo() as process:
        read_until(process, "x-devroute-result")
        children = descendants(process.pid)
        assert children
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        assert process.returncode == 130
    assert alive(children) == set()


def test_an_unexpected_reply_is_marked() -> None:
    expected = Reply(("mesh", "alice", "mesh"), "laptop", "tunnel")
    assert "✓" in shown(Scene("{}", expected, expected))
    assert "✗" in shown(Scene("{}", Reply(("mesh", "mesh", "mesh"), "fallback", "gone"), expected))
