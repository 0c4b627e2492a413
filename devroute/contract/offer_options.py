"""On which terms a laptop answers: which requests it takes, which it hands back, or that it gets copies only.

Owns their grammar, on the command line and in HELLO. Pure; whoever enforces them is elsewhere: the sidecar
and routing/router.py the paths, upstream/failover.py the statuses, upstream/mirror.py the copies.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from devroute.contract.target import Malformed
from devroute.quoting import quote

#: Methods that only look (RFC 9110 §9.2.1): asking twice changes nothing for anybody.
SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS", "TRACE")
#: Methods of which two are meant to do what one does (RFC 9110 §9.2.2).
IDEMPOTENT_METHODS: Final = (*SAFE_METHODS, "PUT", "DELETE")

#: Paths, statuses or methods in one list: more are a mistake, and the sidecar tests them one after the other.
MAX_LIST: Final = 16
#: Bytes of a path's beginning, as in a contract.
MAX_PATH: Final = 1024


@dataclass(frozen=True, slots=True)
class OfferOptions:
    """`paths`: only requests under one of them, or all. `except_status`: such answers are handed back to the
    real service, for requests with `except_methods`. `shadow`: copies only, for this percentage of requests
    without a contract that have one of `shadow_methods`."""

    paths: tuple[str, ...] = ()
    except_status: tuple[int, ...] = ()
    except_methods: tuple[str, ...] = IDEMPOTENT_METHODS
    shadow: float | None = None
    shadow_methods: tuple[str, ...] = SAFE_METHODS

    @classmethod
    def from_mapping(cls, document: object) -> "OfferOptions":
        """From HELLO. What is not known is refused: who ignored it would send what is not wanted. Raises
        Malformed."""
        if not isinstance(document, Mapping):
            raise Malformed("the terms are no object")
        for name in document:
            if name not in _READERS:
                raise Malformed(f"there are no terms {quote(str(name))} here: upgrade the server")
        given = {name: _READERS[name](value) for name, value in document.items() if value is not None}
        options = cls(**given)  # type: ignore[arg-type]  # the readers give the types
        options.check()
        return options

    def check(self) -> None:
        """Raises Malformed for terms that are each fine, and cannot be had together."""
        if self.shadow is not None and self.except_status:
            raise Malformed("a shadow's answers go to nobody, so that none can be handed back")

    def as_dict(self) -> dict[str, object]:
        """What differs from the default, for HELLO and for the API."""
        return {
            name: getattr(self, name)
            for name in _READERS
            if getattr(self, name) != getattr(DEFAULT_OPTIONS, name)
        }

    def takes(self, path: str) -> bool:
        return not self.paths or path.startswith(self.paths)


def _items(value: object, separators: str) -> list[object]:
    """A list from a list, or from a text as it stands in a flag or variable."""
    items = re.split(separators, value) if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        items = [items]
    items = [item for item in items if item != ""]
    if not 0 < len(items) <= MAX_LIST:
        raise Malformed(f"{len(items)} are listed; from 1 to {MAX_LIST} are allowed")
    return [
        item for at, item in enumerate(items) if item not in items[:at]
    ]  # what is no text may have no hash


def read_paths(value: object) -> tuple[str, ...]:
    """`/api/`, several after spaces or as a list. Raises Malformed."""
    return tuple(_path(item) for item in _items(value, r"\s+"))


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise Malformed(f"{quote(str(value))}: write a path's beginning with its slash, such as /api/")
    if len(value) > MAX_PATH or not re.fullmatch(r"[!-~]+", value) or "?" in value or "#" in value:
        raise Malformed(f"{quote(value)} is not a path (no spaces, no query, at most {MAX_PATH} characters)")
    return value


def read_statuses(value: object) -> tuple[int, ...]:
    """`404,503` or a list of numbers. Raises Malformed."""
    return tuple(sorted(_status(item) for item in _items(value, r"[,\s]+")))


def _status(value: object) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[2-5][0-9][0-9]", str(value)):
        raise Malformed(f"{quote(str(value))} is not a status from 200 to 599; write them like 404,503")
    return int(str(value))


def read_methods(value: object) -> tuple[str, ...]:
    """`GET,POST` or a list. Raises Malformed."""
    methods = _items(value, r"[,\s]+")
    for method in methods:
        if not re.fullmatch(r"[A-Z][A-Z_-]{0,31}", str(method)):
            raise Malformed(f"{quote(str(method))} is not a method in capitals; write them like GET,POST")
    return tuple(str(method) for method in methods)


def read_percent(value: object) -> float:
    """`25%`, `25` or 0.5. Raises Malformed."""
    text = str(value).removesuffix("%")
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", text):
        raise Malformed(f"{quote(str(value))} is not a percentage; write it like 25%")
    percent = float(text)
    if not 0 < percent <= 100:
        raise Malformed(f"{quote(str(value))} is not more than 0% and at most 100%")
    return percent


_READERS: Final = {
    "paths": read_paths,
    "except_status": read_statuses,
    "except_methods": read_methods,
    "shadow": read_percent,
    "shadow_methods": read_methods,
}

#: The default: every request, and every answer stands.
DEFAULT_OPTIONS: Final = OfferOptions()
