"""Runs first in devroute.pyz: its compiled parts load into some versions of Python, on one kind of machine.

shiv runs it with the global `site_packages`, the folder that it has extracted.
"""

import re
import sys
from pathlib import Path

try:
    import pydantic_core  # noqa: F401
except ImportError:
    found = [each.name for each in Path(site_packages).glob("pydantic_core/*")]  # type: ignore[name-defined]  # noqa: F821
    built = [match for each in sorted(found) if (match := re.search(r"\.cpython-(\d)(\d+)-(.+)\.\w+$", each))]
    versions = ", ".join(f"{each[1]}.{each[2]}" for each in built)
    machines = ", ".join({each[3] for each in built})
    sys.exit(
        f"devroute: this file is for Python {versions} on {machines};"
        f" this is {sys.implementation.name} {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}\n"
        "  hint: run it by one of these, or make one on a machine like this: make zipapp"
    )
