"""The reference readers of responses of /resolve and /contract (routing/SIDECAR.md), as strict as the Lua."""

import re
from typing import Final

from devroute.routing.resolve_codec import COPY, MAX_BYTES, VERSION_LINE

_LINE: Final = re.compile(r"([a-z][a-z-]*) ([ -~]+)")
#: The keys that each decision needs.
_REQUIRED: Final[dict[str, tuple[str, ...]]] = {
    "service": (),
    "fallback": ("reason",),
    "detour": ("service",),
    "mirror": ("service",),
    "version": ("service", "version"),
    "error": ("status", "reason", "body"),
    "copy": ("service", COPY),
}
_RESOLVE_FORMS: Final = {
    "ttl": re.compile(r"\d{1,4}"),
    "status": re.compile(r"[45]\d\d"),
    "timeout": re.compile(r"\d+"),
    "owner": re.compile(r"[\da-f.:\[\]]{1,63}:\d{1,5}"),
    "percent": re.compile(r"(\d|[1-9]\d)(\.\d+)?|100(\.0+)?"),
}
_REPORT_FORMS: Final = {
    "ttl": re.compile(r"\d{1,4}"),
    "status": re.compile(r"[45]\d\d"),
    "code": re.compile(r"[a-z-]+"),
    "expires": re.compile(r"\d+"),
}


def decode(body: bytes) -> dict[str, list[str]]:
    """The values of each key, in their order. Raises ValueError for a body that sidecars do not accept."""
    fields = _lines(body, COPY, _RESOLVE_FORMS)
    decision = fields.get("decision", [""])[0]
    if decision not in _REQUIRED:
        raise ValueError(f"unknown decision: {decision!r}")
    if missing := [key for key in _REQUIRED[decision] if key not in fields]:
        raise ValueError(f"a decision '{decision}' without {', '.join(missing)}")
    return fields


def decode_report(body: bytes) -> dict[str, list[str]]:
    """The same for /contract. Raises ValueError for a body that gateways do not accept."""
    fields = _lines(body, "entry", _REPORT_FORMS)
    if "ttl" not in fields:
        raise ValueError("a report without a ttl")
    return fields


def _lines(body: bytes, repeatable: str, forms: dict[str, re.Pattern[str]]) -> dict[str, list[str]]:
    first, *lines = body.decode("ascii").split("\n")
    if len(body) > MAX_BYTES or first != VERSION_LINE or not lines or lines.pop():
        raise ValueError("not a body of this version, or too long")
    fields: dict[str, list[str]] = {}
    for line in lines:
        if (match := _LINE.fullmatch(line)) is None:
            raise ValueError(f"malformed line: {line!r}")
        key, value = match.groups()
        if key in fields and key != repeatable:
            raise ValueError(f"'{key}' is repeated")
        if key in forms and forms[key].fullmatch(value) is None:
            raise ValueError(f"malformed {key}: {value!r}")
        fields.setdefault(key, []).append(value)
    return fields
