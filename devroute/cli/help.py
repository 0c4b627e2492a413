"""The lists of commands in --help, with whole sentences: the main list by user, in the order of first use."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import typer
from typer.core import TyperGroup

SECTIONS: Final[Mapping[str, Sequence[str]]] = {
    "On a laptop": (
        *("init", "up", "curl", "ls", "status", "trace", "doctor", "replay", "contract"),
        *("demo", "completion", "version"),
    ),
    "For the platform": ("proxy", "policy", "token", "sign", "sign-key", "manifests"),
}


class Commands(TyperGroup):
    """Lists each command with its whole first sentence, which Typer would cut off."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        self._format_section(formatter, "Commands", self.list_commands(ctx))

    def _format_section(self, formatter: Any, title: str, names: Sequence[str]) -> None:
        with formatter.section(title):
            formatter.write_dl([(name, _first_sentence(self.commands[name].help)) for name in names])


class MainCommands(Commands):
    """Lists the commands under SECTIONS, which tests hold to be complete."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for names in SECTIONS.values() for name in names if name in self.commands]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, names in SECTIONS.items():
            self._format_section(formatter, title, names)


def _first_sentence(text: str | None) -> str:
    return re.split(r"\.(?:\s|$)", " ".join((text or "").split()), maxsplit=1)[0]


def group(text: str) -> typer.Typer:
    """A command that only has commands below it."""
    return typer.Typer(help=text, cls=Commands, no_args_is_help=True, rich_markup_mode=None)


def option(text: str, metavar: str | None = None, *names: str, **more: Any) -> Any:
    """Typer's option, with this help and name of its value."""
    return typer.Option(*names, help=text, metavar=metavar, **more)


def argument(text: str, metavar: str) -> Any:
    return typer.Argument(help=text, metavar=metavar)
