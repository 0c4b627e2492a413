"""Completion for shells: `devroute completion SHELL` prints a script, which asks `devroute complete`.

Owns the walk through the tree of commands. It reads no configuration and asks no server: Tab has to be quick.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Final

import typer

#: COMP_WORDS and the like are the words so far; the last one is the one to be completed.
_SCRIPTS: Final = {
    "bash": """\
_devroute() {
    local IFS=$'\\n'
    COMPREPLY=($(devroute complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _devroute devroute
""",
    "zsh": """\
#compdef devroute
_devroute() {
    local -a found
    found=("${(@f)$(devroute complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    if [[ -n "$found" ]]; then compadd -- $found; else _files; fi
}
compdef _devroute devroute
""",
    "fish": """\
complete -c devroute -a '(devroute complete -- (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
""",
}


def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish")],
) -> None:
    """Print the script that completes devroute's commands and options in a shell.

    \b
    Example: devroute completion bash >> ~/.bashrc
    Example: devroute completion zsh > ~/.zfunc/_devroute
    Example: devroute completion fish > ~/.config/fish/completions/devroute.fish
    """
    if shell not in _SCRIPTS:
        raise typer.BadParameter(f"'{shell}' is not one of {', '.join(_SCRIPTS)}", param_hint="SHELL")
    typer.echo(_SCRIPTS[shell], nl=False)


def complete(
    context: typer.Context,
    words: Annotated[list[str] | None, typer.Argument(help="so far, the last one being typed")] = None,
) -> None:
    """Print what the last of the words may become, a line each (for the shells' scripts).

    \b
    Example: devroute complete -- contract ch
    """
    root: Any = context.find_root().command
    for candidate in candidates(root, words or [""]):
        typer.echo(candidate)


def candidates(command: Any, words: Sequence[str]) -> Iterator[str]:
    """Subcommands, options and values that the last word begins. `command` is click's, or typer's own."""
    *before, last = words
    if "--" in before:
        return
    expects: Any = None  # the option whose value the next word is
    for word in before:
        if expects is not None:
            expects = None
        elif word.startswith("-"):
            option = next((each for each in command.params if word in each.opts), None)
            expects = option if option is not None and not getattr(option, "is_flag", False) else None
        elif word in getattr(command, "commands", {}):
            command = command.commands[word]
    if expects is not None:
        yield from (each for each in _values(expects) if each.startswith(last))
    elif last.startswith("-"):
        options = [name for each in command.params for name in each.opts if name.startswith("-")]
        yield from (name for name in [*options, "--help"] if name.startswith("--") and name.startswith(last))
    else:
        commands = getattr(command, "commands", {})
        names = [name for name, each in commands.items() if not each.hidden]
        arguments = [each for each in command.params if not each.opts[0].startswith("-")]
        values = [value for each in arguments if not names for value in _values(each)]
        yield from (name for name in [*names, *values] if name.startswith(last))


def _values(parameter: Any) -> list[str]:
    """What a parameter's help says that it may be, such as text|json."""
    metavar = str(parameter.metavar or "")
    return metavar.split("|") if "|" in metavar and metavar.replace("|", "").islower() else []
