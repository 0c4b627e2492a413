"""The lists of commands in --help, with whole sentences, and commands that are imported when they are run."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from devroute.platforms import without_collections


class Commands(TyperGroup):
    """Lists each command with its whole first sentence, which Typer would cut off."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            listed = [(name, first_sentence(self.commands[name].help)) for name in self.list_commands(ctx)]
            formatter.write_dl(listed)


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A command whose module is imported when it is run: together they take longer than --help may take.

    `summary`: the first sentence of its help, which tests compare with it. `made_by`: "module:name" in cli/,
    of a function, or of the Typer of a command with commands below it. `options`: Typer's settings of a
    function.
    """

    summary: str
    made_by: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self, name: str) -> Any:
        """Typer's command."""
        module, attribute = self.made_by.split(":")
        with without_collections():
            found = getattr(import_module(f"devroute.cli.{module}"), attribute)
        if not isinstance(found, typer.Typer):
            single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
            single.command(name, **self.options)(found)
            return get_command(single)
        command = get_group(found)
        command.name = name
        return command


class _Loading(Mapping[str, Any]):
    """Typer's commands by name, each loaded when it is looked up."""

    def __init__(self, lazy: Mapping[str, LazyCommand]) -> None:
        self._lazy = lazy
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._lazy[name].load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._lazy)

    def __len__(self) -> int:
        return len(self._lazy)


def main_commands(sections: Mapping[str, Mapping[str, LazyCommand]]) -> type[TyperGroup]:
    """The commands of `devroute` itself, listed under the titles of these sections, in their order."""
    lazy = {name: command for listed in sections.values() for name, command in listed.items()}

    class MainCommands(Commands):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings)
            self.commands = _Loading(lazy)  # type: ignore[assignment]  # nothing is added to it

        def list_commands(self, ctx: Any) -> list[str]:
            return list(lazy)

        def format_commands(self, ctx: Any, formatter: Any) -> None:
            for title, listed in sections.items():
                with formatter.section(title):
                    formatter.write_dl([(name, command.summary) for name, command in listed.items()])

    return MainCommands


def first_sentence(text: str | None) -> str:
    return re.split(r"\.(?:\s|$)", " ".join((text or "").split()), maxsplit=1)[0]


def group(text: str) -> typer.Typer:
    """A command that only has commands below it."""
    return typer.Typer(help=text, cls=Commands, no_args_is_help=True, rich_markup_mode=None)


def option(text: str, metavar: str | None = None, *names: str, **more: Any) -> Any:
    """Typer's option, with this help and name of its value."""
    return typer.Option(*names, help=text, metavar=metavar, **more)


def argument(text: str, metavar: str) -> Any:
    return typer.Argument(help=text, metavar=metavar)
