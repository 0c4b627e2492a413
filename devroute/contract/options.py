"""What the options of a contract's entry may say: each is read from JSON, or refused with what to write
instead. Pure; which of them contradict each other is for contract/grammar.py to say.
"""

import re
from collections.abc import Callable, Mapping
from typing import Final, Literal

from devroute.contract.mesh_identity import URI_PATTERN
from devroute.contract.strict_json import JsonObject
from devroute.contract.target import Malformed
from devroute.quoting import quote

#: Methods or callers in one list.
MAX_LIST = 16
#: Bytes of a path prefix or of a caller's identity: ample, though a SPIFFE ID might have 2048.
MAX_TEXT = 1024
#: Seconds: longer than anybody waits at a breakpoint or wants to inject.
MAX_DURATION_S = 3600.0

Fallback = Literal["service", "fail"]


def _methods(value: object) -> tuple[str, ...]:
    methods = _texts(value, "POST")
    for method in methods:
        if not re.fullmatch(r"[A-Z][A-Z_-]{0,31}", method):
            advice = f"; write {method.upper()}" if re.fullmatch(r"[A-Za-z_-]{1,32}", method) else ""
            raise Malformed(f"{quote(method)} is not a method in capitals{advice}")
    return methods


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise Malformed("write a path's beginning with its slash, such as /api/")
    if len(value) > MAX_TEXT or not re.fullmatch(r"[!-~]+", value) or "?" in value or "#" in value:
        raise Malformed(f"{quote(value)} is not a path (no spaces, no query, at most {MAX_TEXT} characters)")
    return value


def _callers(value: object) -> tuple[str, ...]:
    callers = _texts(value, "spiffe://cluster.local/ns/shop/sa/web")
    for caller in callers:
        if len(caller) > MAX_TEXT or not re.fullmatch(rf"{URI_PATTERN}|[-a-z0-9]+/[-.a-z0-9]+", caller):
            raise Malformed(
                f"{quote(caller)} is not a mesh identity; write namespace/serviceaccount"
                " or spiffe://cluster.local/ns/NAMESPACE/sa/SERVICEACCOUNT"
            )
    return callers


def _texts(value: object, example: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) and not isinstance(value, JsonObject) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Malformed(f'write a list of texts, such as ["{example}"]')
    if len(texts) > MAX_LIST:
        raise Malformed(f"{len(texts)} are listed; at most {MAX_LIST} are allowed")
    return tuple(texts)


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
    raise Malformed('write "service" (the real service answers, the default) or "fail" (an error answers)')


def _duration(value: object) -> float:
    """Seconds from 3, 0.5, "500ms" or "3s"."""
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s)", value)):
        seconds = float(match[1]) / (1000 if match[2] == "ms" else 1)
    if seconds is None:
        raise Malformed('write a time such as "500ms" or "3s", or a number of seconds')
    if not 0 < seconds <= MAX_DURATION_S:
        raise Malformed(f"a time is more than 0 and at most {MAX_DURATION_S:.0f}s")
    return seconds


def _abort(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 200 <= value <= 599:
        raise Malformed("write an HTTP status from 200 to 599, such as 503")
    return value


#: By the option's name: the field of the entry, and what reads its value or raises Malformed.
OPTIONS: Final[Mapping[str, tuple[str, Callable[[object], object]]]] = {
    "methods": ("methods", _methods),
    "path": ("path", _path),
    "from": ("callers", _callers),
    "percent": ("percent", _percent),
    "mirror": ("mirror", _mirror),
    "fallback": ("fallback", _fallback),
    "timeout": ("timeout_s", _duration),
    "delay": ("delay_s", _duration),
    "abort": ("abort_status", _abort),
}
