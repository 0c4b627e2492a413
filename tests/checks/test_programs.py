"""The programs beside the package, which `make test` does not run: what they import is still there."""

import pkgutil
from importlib import import_module

import pytest


@pytest.mark.parametrize("program", ["bench", "fuzz", "ha", "soak"])
def test_each_module_of_a_program_can_be_imported(program: str) -> None:
    found = [each.name for each in pkgutil.walk_packages(import_module(program).__path__, f"{program}.")]
    assert found
    for name in found:
        if not name.endswith("__main__"):  # which would run
            import_module(name)
