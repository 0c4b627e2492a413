"""`devroute env`: the environment that a workload's container has in the mesh, for its app on this laptop."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Final

import typer

from devroute.cli.completion import one_of
from devroute.cli.exit_codes import FAILURE, exits_with_code
from devroute.cli.help import argument, option
from devroute.cli.invocation import Invocation, read_input
from devroute.errors import ConfigInvalid
from devroute.platforms import WINDOWS, exit_code, runnable
from devroute.quoting import printable

if TYPE_CHECKING:
    from devroute.agent.workload.environment import WorkloadEnvironment

_FORMS: Final = ("dotenv", "shell", "json")
#: Variables of this laptop without which programs do not run as usual.
_OF_THE_LAPTOP: Final = ("PATH", "HOME", "USER", "SHELL", "TMPDIR")


@exits_with_code
def env(
    context: typer.Context,
    name: Annotated[str, argument("Workload, such as b, deploy/b or b.shop", "NAME")],
    source: Annotated[
        str, option("Manifests, or what kubectl prints as YAML or JSON; -: standard input", "FILE", "--from")
    ] = "-",
    container: Annotated[str | None, option("Container; default: the one that is no sidecar", "NAME")] = None,
    leave_out: Annotated[
        list[str] | None, option("Variable to leave out; repeatable", "NAME", "--except")
    ] = None,
    strict: Annotated[
        bool, option("Fail if anything of the environment is missing in the input", None, "--strict")
    ] = False,
    output: Annotated[
        str, option("A file for shells and dotenv libraries, lines for eval, or JSON", **one_of(*_FORMS))
    ] = "dotenv",
) -> int:
    """Print the environment that a workload's container has in the mesh, or run a command with it.

    Reads manifests and asks no cluster. ConfigMaps and Secrets are used as far as they are in the input; what
    is missing is named on standard error. The output holds what the Secrets hold.

    \b
    Example: kubectl get deploy,configmap -o yaml | devroute env b > .env
    Example: devroute env b --from deployment.yaml -- ./app
    """
    # Longer than 40 lines: one parameter per flag.
    if output not in _FORMS:
        raise typer.BadParameter(f"'{output}' is not one of {', '.join(_FORMS)}", param_hint="--output")
    if source == "-" and (sys.stdin is None or sys.stdin.isatty()):
        raise ConfigInvalid(
            "there is nothing to read", hint="pipe kubectl's output into it, or name a file: --from FILE"
        )
    invocation: Invocation = context.obj
    found = workload_environment(source, name, container, leave_out or ())
    report(found, runs=bool(invocation.command))
    if strict and found.missing:
        return FAILURE
    if invocation.command:
        return _run(invocation.command, invocation.environment, found.values)
    _print(found.values, output)
    return 0


def workload_environment(
    source: str, name: str, container: str | None = None, leave_out: Sequence[str] = ()
) -> "WorkloadEnvironment":
    """That of a container of the workload in a file, "-" for standard input. Raises ConfigInvalid."""
    from devroute.agent.workload.environment import environment_of
    from devroute.agent.workload.objects import Objects

    objects = Objects(*read_input(source))
    workload = objects.workload(name)
    found = environment_of(objects, workload, objects.container(workload, container))
    for each in leave_out:
        found.values.pop(each, None)
    return found


def report(found: "WorkloadEnvironment", *, runs: bool) -> None:
    """What is missing, and what is not as in the mesh, on standard error. `runs`: a program gets it."""
    for text in found.notes:
        _say(text)
    for name in _OF_THE_LAPTOP if runs else ():
        if name in found.values:
            _say(f"{name}: the workload's replaces this laptop's; devroute env --except {name} leaves it out")
    for text in found.missing:
        _say(f"missing: {text}")
    if found.absent:
        typer.echo("  hint: kubectl get deploy,configmap,secret -o yaml prints them along", err=True)


def _say(text: str) -> None:
    typer.echo(f"devroute: {printable(text)}", err=True)


def _print(values: Mapping[str, str], form: str) -> None:
    from devroute.agent.workload.formats import FORMS

    written = FORMS[form](values)
    for name in written.left_out:
        _say(f"{name}: left out, no shell can set a variable of this name; --output json has it")
    for name in written.unportable:
        _say(f"{name}: written for a shell; some dotenv libraries read it differently")
    sys.stdout.buffer.write(written.text.encode())
    sys.stdout.buffer.flush()


def _run(command: Sequence[str], own: Mapping[str, str], values: Mapping[str, str]) -> int:
    """Become the command, with these variables beside this laptop's own, save for the token. Raises
    ConfigInvalid."""
    from devroute.agent.child_process import TOKEN_VARIABLE

    kept = {name: value for name, value in own.items() if name.upper() != TOKEN_VARIABLE}
    environment = {**kept, **values}
    words = runnable(command)
    try:
        if WINDOWS:
            return exit_code(subprocess.run(words, env=environment, check=False).returncode)
        os.execvpe(words[0], words, environment)
    except FileNotFoundError:
        hint = "the words after -- are run with the environment"
        raise ConfigInvalid(f"cannot run '{command[0]}': there is no such command", hint=hint) from None
    except OSError as error:
        raise ConfigInvalid(f"cannot run '{command[0]}': {error.strerror}") from None
