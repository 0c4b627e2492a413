"""The options of a laptop's offer: which requests it accepts, which responses fail over, and whether it gets
shadow traffic only. Owns their grammar, on the command line and in HELLO.

Pure; enforced elsewhere: paths by the sidecar and routing/router.py, statuses by upstream/failover.py, shadow
traffic by upstream/mirror.py.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from devroute.contract.conditions import check_length, read_method, read_path
from devroute.contract.target import Malformed
from devroute.quoting import quote

#: Safe methods (RFC 9110 §9.2.1): a second request changes nothing.
SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS", "TRACE")
#: Idempotent methods (RFC 9110 §9.2.2): two requests have the effect of one.
IDEMPOTENT_METHODS: Final = (*SAFE_METHODS, "PUT", "DELETE")


@dataclass(frozen=True, slots=True)
class OfferOptions:
    """`paths`: prefixes of the accepted requests' paths; empty accepts all. Responses with `except_status` to
    requests with `except_methods` fail over to the real service. `shadow`: the offer is for shadow traffic
    only, this percentage of the requests with one of `shadow_methods`."""

    paths: tuple[str, ...] = ()
    except_status: tuple[int, ...] = ()
    except_methods: tuple[str, ...] = IDEMPOTENT_METHODS
    shadow: float | None = None
    shadow_methods: tuple[str, ...] = SAFE_METHODS

    @classmethod
    def from_mapping(cls, document: object) -> "OfferOptions":
        """The options in HELLO. Unknown ones are refused: ignoring them would send the laptop requests that
        it does not want. Raises Malformed."""
        if not isinstance(document, Mapping):
            raise Malformed("the options are not a JSON object")
        for name in document:
            if name not in _READERS:
                raise Malformed(f"the option {quote(str(name))} is not known here: upgrade the server")
        given = {name: _READERS[name](value) for name, value in document.items() if value is not None}
        options = cls(**given)  # type: ignore[arg-type]  # the readers give the types
        options.check()
        return options

    def check(self) -> None:
        """Raises Malformed for options that exclude each other."""
        if self.shadow is not None and self.except_status:
            raise Malformed("responses to shadow traffic are discarded, so they cannot fail over")

    def in_words(self) -> list[str]:
        """What is unlike an offer without options, a line each."""
        words = []
        if self.shadow is not None:
            methods = ", ".join(self.shadow_methods)
            words.append(f"shadow {self.shadow:g} %: the service answers, copies come here ({methods})")
        if self.paths:
            words.append(f"only {' '.join(self.paths)}: the service answers requests for other paths")
        if self.except_status:
            statuses = ", ".join(map(str, self.except_status))
            methods = "idempotent methods"
            if self.except_methods != IDEMPOTENT_METHODS:
                methods = ", ".join(self.except_methods)
            words.append(f"except {statuses}: then the service answers instead ({methods})")
        return words

    def as_dict(self) -> dict[str, object]:
        """The options that differ from the defaults, for HELLO and the API."""
        return {
            name: getattr(self, name)
            for name in _READERS
            if getattr(self, name) != getattr(DEFAULT_OPTIONS, name)
        }


def _items(value: object, separators: str) -> list[object]:
    """The distinct values of a list, or of a text in which separators stand between them."""
    items = re.split(separators, value) if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        items = [items]
    items = [item for item in items if item != ""]
    check_length(items)
    # Not a set: values from JSON may not be hashable.
    return [item for at, item in enumerate(items) if item not in items[:at]]


def read_paths(value: object) -> tuple[str, ...]:
    """`/api/ /health`, or a list. Raises Malformed."""
    return tuple(read_path(item) for item in _items(value, r"\s+"))


def read_statuses(value: object) -> tuple[int, ...]:
    """`404,503` or a list of numbers. Raises Malformed."""
    return tuple(sorted(_status(item) for item in _items(value, r"[,\s]+")))


def _status(value: object) -> int:
    if isinstance(value, bool) or not re.fullmatch(r"[2-5][0-9][0-9]", str(value)):
        raise Malformed(f"{quote(str(value))} is not a status from 200 to 599; write a list such as 404,503")
    return int(str(value))


def read_methods(value: object) -> tuple[str, ...]:
    """`GET,POST`, or a list. Raises Malformed."""
    return tuple(read_method(item) for item in _items(value, r"[,\s]+"))


def read_percent(value: object) -> float:
    """`25%`, `25` or 0.5. Raises Malformed."""
    text = str(value).removesuffix("%")
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,6})?", text):
        raise Malformed(f"{quote(str(value))} is not a percentage, such as 25%")
    percent = float(text)
    if not 0 < percent <= 100:
        raise Malformed(f"{quote(str(value))} is not above 0% and at most 100%")
    return percent


_READERS: Final = {
    "paths": read_paths,
    "except_status": read_statuses,
    "except_methods": read_methods,
    "shadow": read_percent,
    "shadow_methods": read_methods,
}

#: The default: all requests are accepted, and no response fails over.
DEFAULT_OPTIONS: Final = OfferOptions()
