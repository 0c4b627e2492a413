"""Turns off Pydantic's search for plugins, which reads the metadata of all installed packages before the
first model is built. That is a twentieth of the start of `devroute up`, most of it the import of what
reads them.

There is no need for any, and one would see every token. Pydantic's PYDANTIC_DISABLE_PLUGINS saves less than
half of that, and the app of `devroute up` would get it, too. A Pydantic that has no such part, or wants
more of it, gets its own.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any, Final

#: The part of Pydantic that looks for plugins.
_LOADER: Final = "pydantic.plugin._loader"


def without_plugins() -> None:
    """For all models of this process that are not built yet."""
    loader = ModuleType(_LOADER, "Finds no plugins.")
    vars(loader).update(get_plugins=tuple, __getattr__=_of_pydantics_own)
    sys.modules.setdefault(_LOADER, loader)


def _of_pydantics_own(name: str) -> Any:
    if name.startswith("__"):  # what looks through modules
        raise AttributeError(name)
    del sys.modules[_LOADER]
    return getattr(import_module(_LOADER), name)
