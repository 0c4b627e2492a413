"""Shell completion by Typer: `devroute completion SHELL` prints a script, which runs devroute with
_DEVROUTE_COMPLETE set. It reads no configuration and asks no server: Tab has to be quick.
"""

from typing import Annotated, Any, Final

import typer
from typer.completion import shell_complete

SHELLS: Final = ("bash", "zsh", "fish")
VARIABLE: Final = "_DEVROUTE_COMPLETE"


def one_of(*values: str) -> dict[str, Any]:
    """Metavar and completion of a parameter that takes one of these values."""
    return {
        "metavar": "|".join(values),
        "autocompletion": lambda incomplete: [value for value in values if value.startswith(incomplete)],
    }


def completion(
    context: typer.Context,
    shell: Annotated[str, typer.Argument(**one_of(*SHELLS))],
) -> None:
    """Print the script that completes devroute's commands and options in a shell.

    \b
    Example: devroute completion bash >> ~/.bashrc
    Example: devroute completion zsh > ~/.zfunc/_devroute
    Example: devroute completion fish > ~/.config/fish/completions/devroute.fish
    """
    if shell not in SHELLS:
        raise typer.BadParameter(f"'{shell}' is not one of {', '.join(SHELLS)}", param_hint="SHELL")
    root = context.find_root()
    raise typer.Exit(shell_complete(root.command, {}, str(root.info_name), VARIABLE, f"source_{shell}"))
