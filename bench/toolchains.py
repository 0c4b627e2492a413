"""Builds that the bench makes once, outside the repository: its Go programs, and peers by name.

A build that is refused or takes too long leaves its peer out, with the reason.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from bench.processes import CannotRun

HERE = Path(__file__).parent
#: Seconds; Rust compiles for minutes, and a second run reuses the build.
BUILD_SECONDS = 900
#: Characters of a failed build's output that are kept.
TAIL = 200


def folder() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "devroute-bench" / "bin"


def prepare(into: Path) -> dict[str, str]:
    """Build what is missing. Returns the reasons for what could not be built, by program."""
    into.mkdir(parents=True, exist_ok=True)
    problems: dict[str, str] = {}
    for program in ("goref", "gotunnel", "gobulk", "godistance"):
        _try(problems, program, ["go", "build", "-o", f"{into}/", f"./{program}"])
    installs = {
        "chisel": ["go", "install", "github.com/jpillora/chisel@latest"],
        "frps": ["go", "install", "github.com/fatedier/frp/cmd/frps@latest"],
        "frpc": ["go", "install", "github.com/fatedier/frp/cmd/frpc@latest"],
        "rathole": ["cargo", "install", "--quiet", "--root", str(into.parent), "rathole"],
        "bore": ["cargo", "install", "--quiet", "--root", str(into.parent), "bore-cli"],
    }
    for program, command in installs.items():
        if not (into / program).exists():
            _try(problems, program, command, {"GOBIN": str(into)})
    return problems


def _try(
    problems: dict[str, str], program: str, command: list[str], env: dict[str, str] | None = None
) -> None:
    try:
        _build(command, env or {})
    except CannotRun as error:
        problems[program] = str(error)


def _build(command: list[str], env: dict[str, str]) -> None:
    if shutil.which(command[0]) is None:
        raise CannotRun(f"{command[0]} is not installed")
    try:
        done = subprocess.run(
            command, cwd=HERE, env=os.environ | env, capture_output=True, text=True, timeout=BUILD_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise CannotRun(f"{command[0]} took longer than {BUILD_SECONDS} s") from None
    if done.returncode:
        # Without addresses and paths, which are about this machine.
        lines = [re.sub(r"\S*/\S*", "…", line).strip() for line in done.stderr.splitlines() if line.strip()]
        raise CannotRun(f"{' '.join(command[:2])} failed: {' '.join(lines[-2:])[-TAIL:]}")
