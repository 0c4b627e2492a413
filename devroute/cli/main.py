"""The command line: its commands, and how a run ends.

Each command is a module of cli/, imported when it is run (commands.py). These modules alone read arguments,
environment and configuration files, and build the settings of the part that does the work. Errors become
one line, a hint and an exit code. Parts that take long to import (aiohttp, structlog) are imported inside
the commands.
"""

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from typer.completion import completion_init  # type: ignore[attr-defined]

from devroute import __version__
from devroute.cli.commands import SECTIONS
from devroute.cli.config.names import ENV_PREFIX
from devroute.cli.exit_codes import FAILURE
from devroute.cli.help import main_commands
from devroute.cli.invocation import Invocation
from devroute.cli.lazy_types import convert_lazily
from devroute.cli.no_plugins import without_plugins
from devroute.platforms import INTERRUPTED

# Typer's add_completion does the same, and adds two flags beside our command.
completion_init()
convert_lazily()
without_plugins()


def main() -> None:
    """The entry point of `devroute`."""
    sys.exit(run(sys.argv[1:], os.environ))


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run one command line; returns its exit code. The words after `--` are another command to be run."""
    own = list(arguments)
    cut = own.index("--") if own[:1] in (["up"], ["trace"], ["env"]) and "--" in own else len(own)
    try:
        app(own[:cut], prog_name="devroute", obj=Invocation(environment, tuple(own[cut + 1 :])))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  # no traceback unless DEVROUTE_DEBUG asks for one
        if environment.get(ENV_PREFIX + "DEBUG"):
            traceback.print_exc()
        typer.echo(f"devroute: internal error: {type(error).__name__}: {error}", err=True)
        typer.echo(f"  hint: please report it, with the traceback that {ENV_PREFIX}DEBUG=1 shows", err=True)
        return FAILURE
    return 0


app = typer.Typer(
    cls=main_commands(SECTIONS),
    help="Make a laptop part of a service mesh for one request at a time.",
    epilog="devroute COMMAND --help shows examples. Settings come from flags, then "
    "DEVROUTE_* variables, ./devroute.yaml, ~/.config/devroute/config.yaml.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"devroute {__version__}")
        raise typer.Exit


@app.callback()
def _devroute(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version")
    ] = False,
) -> None:
    pass
