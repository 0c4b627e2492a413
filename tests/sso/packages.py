"""The OIDC provider of these tests: npm's packages, installed once into a cache.

`python -m tests.sso.packages` installs what package-lock.json pins, and prints the folder.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

PROVIDER = Path(__file__).parent / "provider"


def folder() -> Path:
    """Where the packages are, or will be: a folder of its own for each set of pins."""
    digest = hashlib.sha256((PROVIDER / "package-lock.json").read_bytes()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "devroute-sso" / digest[:16]


def missing() -> str | None:
    """Why the provider cannot be run, None if it can."""
    if shutil.which("node") is None:
        return "there is no node"
    return None if folder().is_dir() else "the provider is not installed: make test-sso (needs npm)"


def install() -> Path:
    """The folder, filled now if it is missing. Raises CalledProcessError, and FileNotFoundError without
    npm."""
    target = folder()
    if not target.is_dir():
        unfinished = target.with_name(f"{target.name}.{os.getpid()}")
        unfinished.mkdir(parents=True)
        try:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(PROVIDER / name, unfinished)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
            subprocess.run(command, cwd=unfinished, check=True)
            unfinished.rename(target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return target


if __name__ == "__main__":
    print(install())
