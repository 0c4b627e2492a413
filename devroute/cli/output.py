"""The flag --output of every command that prints text for people or JSON for scripts."""

import json
from typing import Annotated

import typer

from devroute.cli.completion import one_of
from devroute.cli.config.names import COMMAND_LINE
from devroute.cli.help import option

_FORMS = (None, "text", "json")
Output = Annotated[str | None, option("Text for people or JSON for scripts", **one_of("text", "json"))]


def wants_json(output: str | None) -> bool:
    """Raises ConfigInvalid where it is neither text nor json."""
    if output in _FORMS:
        return output == "json"
    from devroute.cli.config.sources import Source, given_settings  # its error is that of the setting

    return given_settings([Source(COMMAND_LINE, {"output": output})]).output == "json"


def usage_wants_json(output: str | None) -> bool:
    """The same for commands that report a wrong value as wrong usage."""
    if output not in _FORMS:
        raise typer.BadParameter(f"'{output}' is neither text nor json", param_hint="--output")
    return output == "json"


def print_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=2))
