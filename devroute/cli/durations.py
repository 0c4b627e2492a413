"""Durations of options such as --ttl, written as 30m, 2h or 1d."""

import re
from typing import Final

import typer

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def parse_duration(text: str) -> int | None:
    """In seconds, at least 1; None if it is no duration."""
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    return int(match[1]) * _SECONDS[match[2]] if match else None


def seconds_of(text: str, flag: str) -> int:
    """The seconds of a duration. `flag`: the option that has it. Raises BadParameter."""
    seconds = parse_duration(text)
    if seconds is None:
        raise typer.BadParameter(f"'{text}' is not a time; write it like 30m, 2h or 1d", param_hint=flag)
    return seconds
