"""`devroute down`: ends what `devroute up` has started, in the background or in another terminal."""

from typing import TYPE_CHECKING, Annotated, Final

import typer

from devroute.cli.exit_codes import FAILURE, exits_with_code
from devroute.cli.help import argument, option
from devroute.cli.output import Output, print_json, wants_json

if TYPE_CHECKING:
    from devroute.agent.control.running import Running

#: Seconds that open requests, the app and the log have.
PATIENCE: Final = 30.0


@exits_with_code
def down(
    context: typer.Context,
    name: Annotated[str | None, argument("Name of a laptop; default: all of yours", "NAME")] = None,
    timeout: Annotated[float, option("How long to wait", "SECONDS", min=0.1, max=3600)] = PATIENCE,
    output: Output = None,
) -> int:
    """End devroute up on this machine, and wait until open requests and the app have ended.

    It does not matter from which terminal or folder it was started. The exit code is 0 if none runs any more,
    also if none did, and 1 if one is left.

    \b
    Example: devroute down
    Example: devroute down alice--ci --timeout 60
    """
    from devroute.agent.control.running import all_running

    as_json = wants_json(output)
    found = [each for each in all_running(context.obj.state_folder) if name in (None, each.name)]
    ended: list[Running] = []
    left: list[Running] = []
    for each in found:
        from devroute.agent.control.client import stop  # and ssl: for nothing where none runs

        gone = stop(each, timeout)
        (ended if gone else left).append(each)
        if not as_json:
            state = "has ended" if gone else f"has not ended within {timeout:g} s"
            typer.echo(f"{each.name} {state} (process {each.pid}, {each.server})")
    if as_json:
        print_json({"ended": _listed(ended), "left": _listed(left)})
    elif not found:
        typer.echo("no devroute up runs" if name is None else f"no devroute up of {name} runs")
    return FAILURE if left else 0


def _listed(processes: "list[Running]") -> list[dict[str, object]]:
    return [{"name": each.name, "pid": each.pid, "server": each.server} for each in processes]
