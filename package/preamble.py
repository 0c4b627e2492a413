"""Runs first in devroute.pyz: its compiled parts load into one version of Python, on one kind of machine.

shiv runs it with the global `site_packages`, the folder that it has extracted.
"""

import re
import sys
from pathlib import Path

try:
    import pydantic_core  # noqa: F401
except ImportError:
    found = [each.name for each in Path(site_packages).glob("pydantic_core/*")]  # type: ignore[name-defined]  # noqa: F821
    built = [match for each in found if (match := re.search(r"\.cp(?:ython-)?(\d)(\d+)-([^.]+)", each))]
    python = f"python{built[0][1]}.{built[0][2]}" if built else "another Python"
    machine = built[0][3] if built else "another machine"
    sys.exit(
        f"devroute: this file is for {python} on {machine}; this is {sys.implementation.name}"
        f" {sys.version_info[0]}.{sys.version_info[1]} on {sys.platform}\n"
        f"  hint: run it by {python}, or make one for this Python: make zipapp PYTHON={sys.executable}"
    )
