"""Variables as text: a dotenv file, lines for a POSIX shell, JSON.

A dotenv file is read by shells (`set -a; . ./file`) and by libraries that agree with them on a part only:
python-dotenv reads `\\\\` in quotes as one backslash and puts in `${NAME}` even between single quotes, and
that of Node.js knows no escaped quote. Each value is written in the first way that all of them read as it is.
Where there is none, a shell reads it as it is, and `Written.unportable` names it.
"""

import json
import re
import shlex
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

#: A name that a shell can set.
_SHELL_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
#: A value that needs no quotes anywhere, `docker run --env-file` included.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@%+,=-]+")
#: What python-dotenv changes between any quotes.
_CHANGED: Final = re.compile(r"\\[\\'\"abfnrtv]|\$\{")
#: What a shell changes between double quotes.
_EXPANDED: Final = re.compile(r'[$`"\\]')


class Written(NamedTuple):
    """`left_out`: names that this form cannot have. `unportable`: names whose values a shell reads as they
    are, and some dotenv readers do not."""

    text: str
    left_out: list[str]
    unportable: list[str]


def as_dotenv(values: Mapping[str, str]) -> Written:
    lines: list[str] = []
    left_out: list[str] = []
    unportable: list[str] = []
    for name, value in values.items():
        if _SHELL_NAME.fullmatch(name) is None:
            left_out.append(name)
            continue
        text, portable = _quoted(value)
        lines.append(f"{name}={text}\n")
        if not portable:
            unportable.append(name)
    return Written("".join(lines), left_out, unportable)


def _quoted(value: str) -> tuple[str, bool]:
    """The value as it stands in a dotenv file, and whether all readers read it as it is."""
    if _PLAIN.fullmatch(value):
        return value, True
    same_everywhere = "\r" not in value and _CHANGED.search(value) is None
    if "'" not in value:
        return f"'{value}'", same_everywhere and not value.endswith("\\")
    double = _EXPANDED.sub(r"\\\g<0>", value)
    return f'"{double}"', same_everywhere and double == value


def as_shell(values: Mapping[str, str]) -> Written:
    """Lines for `eval` or `.` in a POSIX shell."""
    named = {name: value for name, value in values.items() if _SHELL_NAME.fullmatch(name)}
    text = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in named.items())
    return Written(text, [name for name in values if name not in named], [])


def as_json(values: Mapping[str, str]) -> Written:
    """One object."""
    return Written(json.dumps(values, indent=2) + "\n", [], [])


FORMS: Final[Mapping[str, Callable[[Mapping[str, str]], Written]]] = {
    "dotenv": as_dotenv,
    "shell": as_shell,
    "json": as_json,
}
