"""The command line: its commands, and how a run ends.

Each command is a module of cli/. These modules alone read arguments, environment and configuration files, and
build the settings of the part that does the work. Errors become one line, a hint and an exit code. Parts that
take long to import (aiohttp, structlog) are imported inside the commands that need them.
"""

import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Annotated, Final

import typer

from devroute import __version__
from devroute.cli.completion import completion
from devroute.cli.config.sources import ENV_PREFIX
from devroute.cli.curl import curl
from devroute.cli.demo import demo
from devroute.cli.doctor import doctor
from devroute.cli.edge import edge
from devroute.cli.exit_codes import FAILURE
from devroute.cli.help import MainCommands
from devroute.cli.init import init
from devroute.cli.invocation import Invocation
from devroute.cli.manifests import manifests_app
from devroute.cli.manifests_check import check
from devroute.cli.policy import policy_app
from devroute.cli.proxy import proxy
from devroute.cli.query import ls, status, trace_, version
from devroute.cli.replay import replay
from devroute.cli.sign import contract_app, sign, sign_key_app
from devroute.cli.token import token_app
from devroute.cli.up import up
from devroute.platforms import INTERRUPTED


def main() -> None:
    """The entry point of `devroute`."""
    sys.exit(run(sys.argv[1:], os.environ))


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run one command line; returns its exit code. The words after `--` are another command to be run."""
    own = list(arguments)
    cut = own.index("--") if own[:1] in (["up"], ["trace"]) and "--" in own else len(own)
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


#: Unknown options are curl's, and stay in their order.
_FOR_CURL: Final = {
    "ignore_unknown_options": True,
    "allow_extra_args": True,
    "allow_interspersed_args": False,
}

app = typer.Typer(
    cls=MainCommands,
    help="Make a laptop part of a service mesh for one request at a time.",
    epilog="devroute COMMAND --help shows examples. Settings come from flags, then "
    "DEVROUTE_* variables, ./devroute.yaml, ~/.config/devroute/config.yaml.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("up")(up)
app.command("init")(init)
app.command("curl", context_settings=_FOR_CURL, options_metavar="[OPTIONS] URL [CURL OPTIONS]")(curl)
app.command("ls")(ls)
app.command("status")(status)
app.command(
    "trace",
    context_settings={"allow_extra_args": True, "allow_interspersed_args": False},
    options_metavar="[OPTIONS] -- COMMAND...",
    epilog="COMMAND may be curl, wget, http, https or xh, with its arguments.",
)(trace_)
app.command("doctor")(doctor)
app.command("replay")(replay)
app.add_typer(contract_app, name="contract")
app.command("demo")(demo)
app.command("completion")(completion)
app.command("version")(version)
app.command("proxy")(proxy)
app.add_typer(policy_app, name="policy")
app.add_typer(token_app, name="token")
app.command("sign")(sign)
app.add_typer(sign_key_app, name="sign-key")
manifests_app.command("check")(check)
manifests_app.command("edge")(edge)
app.add_typer(manifests_app, name="manifests")


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
