"""Pydantic in our commands: what it asks for plugins, and what a later release might."""

import subprocess
import sys

_BEFORE = "from devroute.cli.no_plugins import without_plugins as it; it()"


def run(*lines: str) -> None:
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_models_are_built_without_a_look_at_what_is_installed() -> None:
    model = "from pydantic import BaseModel; type('Model', (BaseModel,), {})()"
    run(_BEFORE, model, "import sys", "assert 'importlib.metadata' not in sys.modules")


def test_a_release_that_wants_more_of_that_part_gets_pydantics_own() -> None:
    asked = "from pydantic.plugin._loader import _loading_plugins, get_plugins"
    run(_BEFORE, asked, "assert (_loading_plugins, list(get_plugins())) == (False, [])")
