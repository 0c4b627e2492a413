"""The reference reader of /resolve responses (routing/SIDECAR.md), as strict as the sidecars' own."""

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
_FORMS: Final = {
    "ttl": re.compile(r"\d{1,4}"),
    "status": re.compile(r"[45]\d\d"),
    "timeout": re.compile(r"\d+"),
    "owner": re.compile(r"[\da-f.:\[\]]{1,63}:\d{1,5}"),
    "percent": re.compile(r"(\d|[1-9]\d)(\.\d+)?|100(\.0+)?"),
}


def decode(body: bytes) -> dict[str, list[str]]:
    """The values of each key, in their order. Raises ValueError for a body that sidecars do not accept."""
    first, *lines = body.decode("ascii").split("\n")
    if len(body) > MAX_BYTES or first != VERSION_LINE or not lines or lines.pop():
        raise ValueError("not a body of this version, or too long")
    fields: dict[str, list[str]] = {}
    for line in lines:
        if (match := _LINE.fullmatch(line)) is None:
            raise ValueError(f"malformed line: {line!r}")
        key, value = match.groups()
        if key in fields and key != COPY:
            raise ValueError(f"'{key}' is repeated")
        if key in _FORMS and _FORMS[key].fullmatch(value) is None:
            raise ValueError(f"malformed {key}: {value!r}")
        fields.setdefault(key, []).append(value)
    decision = fields.get("decision", [""])[0]
    if decision not in _REQUIRED:
        raise ValueError(f"unknown decision: {decision!r}")
    if missing := [key for key in _REQUIRED[decision] if key not in fields]:
        raise ValueError(f"a decision '{decision}' without {', '.join(missing)}")
    return fields
