"""Settings written into a YAML file that people edit, too: comments and everything else stay. Pure."""

import re
from collections.abc import Mapping
from typing import Final

import yaml

from devroute.errors import ConfigInvalid

#: A key at the top of a document, with the value behind it, a comment, and the lines that belong to it.
_ENTRY: Final = (
    r"(?m)^{}[ \t]*:(?P<value>[^#\n]*?)(?P<comment>[ \t]+#[^\n]*)?$(?P<below>(?:\n(?:[ \t]+|- )[^\n]*)*)"
)


def with_settings(text: str, values: Mapping[str, object], source: str) -> str:
    """The file's text with these settings at the top level, None for one that is to go.

    Raises ConfigInvalid where the text is written in a way in which that cannot be done line by line.
    """
    known = yaml.safe_load(text)  # read_file has read it before
    wanted = {**(known or {}), **values}
    wanted = {key: value for key, value in wanted.items() if key not in values or value is not None}
    for key, value in values.items():
        text = _with_setting(text, key, value)
    try:
        result = yaml.safe_load(text) or {}
    except yaml.YAMLError:
        result = None
    if result != wanted:  # a value of several lines, a mapping in braces, ...
        raise ConfigInvalid(
            f"{source}: it is written in a way that cannot be edited without losing what is there",
            hint=f"set {', '.join(values)} by hand",
        )
    return text


def _with_setting(text: str, key: str, value: object) -> str:
    entry = re.compile(_ENTRY.format(re.escape(key)))
    if value is None:
        return re.sub(entry.pattern + r"\n?", "", text)
    written = yaml.safe_dump({key: value}, allow_unicode=True, sort_keys=False, width=1 << 20).rstrip("\n")
    if not entry.search(text):
        return text + ("\n" if text and not text.endswith("\n") else "") + written + "\n"
    first, newline, rest = written.partition("\n")
    return entry.sub(lambda match: first + (match["comment"] or "") + newline + rest, text, count=1)
