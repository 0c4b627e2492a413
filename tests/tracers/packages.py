"""The services of these tests with their tracers, installed once for each language into a cache.

`python -m tests.tracers.packages [LANGUAGE...]` installs what the files in each language's folder pin, and
prints where.
"""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.support import program_cache

HERE = Path(__file__).parent
#: Outside of the virtual environment, whose own OpenTelemetry would be found beside the pinned one.
PYTHON = str(getattr(sys, "_base_executable", sys.executable))


def _run(*command: str | Path, cwd: Path = HERE) -> None:
    subprocess.run([str(word) for word in command], cwd=cwd, check=True, stdout=sys.stderr)


def _python(into: Path) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-compile", "--no-deps", "--target", into)
    _run(sys.executable, "-m", "pip", "install", *quiet, "-r", HERE / "python" / "requirements.txt")


def _node(into: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / "node" / name, into)
    _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent", cwd=into)


def _go(into: Path) -> None:
    _run("go", "build", "-buildvcs=false", "-o", into / "middle", ".", cwd=HERE / "go")


def _java(into: Path) -> None:
    agent = (HERE / "java" / "agent.txt").read_text(encoding="utf-8").strip()
    copied = ("-Dmdep.stripVersion=true", f"-Dartifact={agent}", f"-DoutputDirectory={into}")
    _run("mvn", "--quiet", "--batch-mode", "dependency:copy", *copied)
    _run("javac", "-d", into, HERE / "java" / "App.java")


def _spring(into: Path) -> None:
    for starter in ("spring-boot-starter-opentelemetry", "spring-boot-starter-zipkin"):
        named = (f"-Dtracing={starter}", f"-Dinto={into}")
        _run("mvn", "--quiet", "--batch-mode", *named, "package", cwd=HERE / "spring")


class Language(NamedTuple):
    """`needs` are the programs that install and run it, `pins` the files that decide what is installed."""

    needs: tuple[str, ...]
    pins: tuple[str, ...]
    install: Callable[[Path], None]

    def folder(self, name: str) -> Path:
        pins = [(HERE / name / pin).read_bytes() for pin in self.pins]
        return program_cache.folder(f"devroute-tracers/{name}-", *pins)


LANGUAGES = {
    "python": Language((), ("requirements.txt",), _python),
    "node": Language(("node", "npm"), ("package-lock.json",), _node),
    "go": Language(("go",), ("go.mod", "go.sum", "main.go"), _go),
    "java": Language(("java", "javac", "mvn"), ("agent.txt", "App.java"), _java),
    "spring": Language(("java", "mvn"), ("pom.xml", "src/main/java/middle/App.java"), _spring),
}


def folder(name: str) -> Path:
    return LANGUAGES[name].folder(name)


def missing(name: str) -> str | None:
    """Why a language's services cannot be run, None if they can."""
    if absent := [each for each in LANGUAGES[name].needs if shutil.which(each) is None]:
        return f"there is no {absent[0]}"
    return None if folder(name).is_dir() else f"not installed: python -m tests.tracers.packages {name}"


def install(name: str) -> Path:
    """The folder, filled now if it is missing. Raises CalledProcessError, and FileNotFoundError without the
    language's programs."""
    target = folder(name)
    if not target.is_dir():
        with program_cache.filling(target) as unfinished:
            LANGUAGES[name].install(unfinished)
    return target


if __name__ == "__main__":
    for each in sys.argv[1:] or LANGUAGES:
        print(install(each), flush=True)
