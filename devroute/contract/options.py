"""The options of a contract's entry: reads each one from JSON. Pure; grammar.py rejects options that exclude
each other.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, Literal

from devroute.contract.conditions import check_length, read_caller, read_method, read_path
from devroute.contract.strict_json import JsonObject
from devroute.contract.target import Malformed

#: Seconds: longer than a debugging session at a breakpoint, and than any delay worth injecting.
MAX_DURATION_S = 3600.0

Fallback = Literal["service", "fail"]


def _list_of(read: Callable[[object], str]) -> Callable[[object], tuple[str, ...]]:
    def read_list(value: object) -> tuple[str, ...]:
        values = value if isinstance(value, list) and not isinstance(value, JsonObject) else [value]
        check_length(values)
        return tuple(map(read, values))

    return read_list


def _percent(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise Malformed("write a number from 0 to 100")
    return float(value)


def _mirror(value: object) -> bool:
    if not isinstance(value, bool):
        raise Malformed("write true or false")
    return value


def _fallback(value: object) -> Fallback:
    if value == "service":
        return "service"
    if value == "fail":
        return "fail"
    raise Malformed(
        'write "service" (the real service responds; the default) or "fail" (the caller gets an error)'
    )


def read_duration(value: object) -> float:
    """Seconds from 3, 0.5, "500ms" or "3s"."""
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s)", value)):
        seconds = float(match[1]) / (1000 if match[2] == "ms" else 1)
    if seconds is None:
        raise Malformed('write a duration such as "500ms" or "3s", or a number of seconds')
    if not 0 < seconds <= MAX_DURATION_S:
        raise Malformed(f"a duration is more than 0 and at most {MAX_DURATION_S:.0f}s")
    return seconds


def _abort(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 200 <= value <= 599:
        raise Malformed("write an HTTP status from 200 to 599, such as 503")
    return value


#: An option's name: the field of Entry that holds it, and the function that reads it or raises Malformed.
OPTIONS: Final[Mapping[str, tuple[str, Callable[[object], object]]]] = {
    "methods": ("methods", _list_of(read_method)),
    "path": ("path", read_path),
    "from": ("callers", _list_of(read_caller)),
    "percent": ("percent", _percent),
    "mirror": ("mirror", _mirror),
    "fallback": ("fallback", _fallback),
    "timeout": ("timeout_s", read_duration),
    "delay": ("delay_s", read_duration),
    "abort": ("abort_status", _abort),
}
