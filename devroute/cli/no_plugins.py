"""Pydantic without plugins: to find some, it reads the metadata of all installed packages before it builds
its first model. That is a twentieth of the start of `devroute up`, most of it the import of what reads them.

There is no need for any, and one would see every token. Pydantic's PYDANTIC_DISABLE_PLUGINS saves less than
half of that, and the app of `devroute up` would get it, too. Where Pydantic has no such part, nothing
changes.
"""

import sys
from types import ModuleType
from typing import Final

#: The part of Pydantic that looks for plugins.
_LOADER: Final = "pydantic.plugin._loader"


def without_plugins() -> None:
    """For all models of this process that are not built yet."""
    loader = ModuleType(_LOADER, "Finds no plugins.")
    vars(loader)["get_plugins"] = tuple
    sys.modules.setdefault(_LOADER, loader)
