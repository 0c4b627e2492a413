"""What differs between Linux, macOS and Windows: the one place that asks which of them this is.

Owns paths of configuration, signals, child processes and the keyboard; everything else is the same code on
all of them. Windows lacks fcntl, termios, SIGTERM from others and signal handlers of the loop; modules that
one system lacks are imported inside functions.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

WINDOWS: Final = sys.platform == "win32"


def config_folder(environment: Mapping[str, str], *, windows: bool = WINDOWS) -> Path | None:
    """Where a person's own settings are: ~/.config/devroute, %APPDATA%\\devroute on Windows. None without a
    home, as in a container."""
    if windows:
        base = environment.get("APPDATA")
        home = environment.get("USERPROFILE")
        return Path(base, "devroute") if base else Path(home, ".config", "devroute") if home else None
    base = environment.get("XDG_CONFIG_HOME", "")
    if base.startswith("/"):  # the XDG base directory specification: relative ones are to be ignored
        return Path(base, "devroute")
    home = environment.get("HOME")
    return Path(home, ".config", "devroute") if home else None
