"""The OIDC provider of these tests: npm's packages, installed once into a cache.

`python -m tests.sso.packages` installs what package-lock.json pins, and prints the folder.
"""

import shutil
import subprocess
from pathlib import Path

from tests.support import program_cache

PROVIDER = Path(__file__).parent / "provider"


def folder() -> Path:
    return program_cache.folder("devroute-sso/", (PROVIDER / "package-lock.json").read_bytes())


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
        with program_cache.filling(target) as unfinished:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(PROVIDER / name, unfinished)
            command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"]
            subprocess.run(command, cwd=unfinished, check=True)
    return target


if __name__ == "__main__":
    print(install())
