"""`devroute --help`: who needs which command, in the order in which they are needed."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from typer.core import TyperGroup

SECTIONS: Final[Mapping[str, Sequence[str]]] = {
    "On a laptop": (
        *("init", "up", "curl", "ls", "status", "trace", "doctor", "replay", "contract"),
        *("demo", "completion", "version"),
    ),
    "For the platform": ("proxy", "policy", "token", "sign", "sign-key", "manifests"),
}


class Sections(TyperGroup):
    """A group whose commands stand under SECTIONS; test_cli.py sees to it that each does."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for names in SECTIONS.values() for name in names if name in self.commands]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for title, names in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, _first_sentence(self.commands[name].help)) for name in names])


def _first_sentence(text: str | None) -> str:
    return re.split(r"\.(?:\s|$)", " ".join((text or "").split()), maxsplit=1)[0]
