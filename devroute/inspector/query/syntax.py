"""The terms of a query, and how a value is written.

A query is terms, separated by white space, that all have to match:

    term   = ["-"] (field ":" value *("," value) | value)
    value  = a word, or text in double quotes, in which \\" is a quote and \\\\ a backslash

`-` negates a term, a comma separates alternatives of a field. A quote that is not closed ends with the query,
so that a query can be tried while it is typed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from devroute.errors import QueryInvalid

#: Characters and terms of a query.
MAX_LENGTH: Final = 2000
MAX_TERMS: Final = 50

_NAME = re.compile(r"([A-Za-z][A-Za-z-]*):")
_PLAIN = re.compile(r'[^\s",]+')


@dataclass(frozen=True, slots=True)
class Term:
    """`field` is in lower case, "" for a term without one. `start` and `end`: its place in the query;
    `values_at`: that of its first value."""

    field: str
    values: tuple[str, ...]
    negated: bool
    start: int
    values_at: int
    end: int

    def __str__(self) -> str:
        name = f"{self.field}:" if self.field else ""
        return ("-" if self.negated else "") + name + ",".join(map(written, self.values))


def terms(text: str) -> list[Term]:
    """The terms of a query, whether or not there are such fields. Raises QueryInvalid if it is too long."""
    if len(text) > MAX_LENGTH:
        raise QueryInvalid(f"the query is longer than {MAX_LENGTH} characters")
    found = list(_terms(text))
    if len(found) > MAX_TERMS:
        raise QueryInvalid(f"the query has more than {MAX_TERMS} terms")
    return found


def written(value: str) -> str:
    """A value as it is written in a query."""
    if _PLAIN.fullmatch(value) and value[0] != "-" and not _NAME.match(value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _terms(text: str) -> Iterator[Term]:
    at, end = 0, len(text)
    while at < end:
        if text[at].isspace():
            at += 1
            continue
        start = at
        negated = text[at] == "-" and at + 1 < end and not text[at + 1].isspace()
        at += negated
        name = _NAME.match(text, at)
        # A URL is a text, not a field.
        field = "" if name is None or text.startswith("//", name.end()) else name[1].lower()
        values_at = name.end() if field and name is not None else at
        values, at = _values(text, values_at, alternatives=bool(field))
        yield Term(field, values, negated, start, values_at, at)


def _values(text: str, at: int, *, alternatives: bool) -> tuple[tuple[str, ...], int]:
    """The values from `at` on, and where they end."""
    values: list[str] = []
    pieces: list[str] = []
    quoted = False
    end = len(text)
    while at < end:
        char = text[at]
        if quoted and char == "\\" and text[at + 1 : at + 2] in ('"', "\\"):
            at += 1
            pieces.append(text[at])
        elif char == '"':
            quoted = not quoted
        elif not quoted and char.isspace():
            break
        elif not quoted and char == "," and alternatives:
            values.append("".join(pieces))
            pieces.clear()
        else:
            pieces.append(char)
        at += 1
    values.append("".join(pieces))
    return tuple(values), at
