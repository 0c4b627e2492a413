"""Two documents of JSON side by side: where they are not the same. Pure."""

import json
from collections.abc import Callable, Iterator
from typing import Any, Final

from devroute.inspector.capture import REDACTED
from devroute.inspector.json_path import Location

#: Values that are looked at: some tenths of a second.
MAX_STEPS: Final = 100_000

#: Nesting that is followed; below it, values are compared as a whole.
MAX_DEPTH: Final = 100

#: Stands where one of the documents has nothing, and for what is no document.
MISSING: Final = object()

_STARTS: Final = frozenset(bytes((byte,)) for byte in b'{["-0123456789tfn')


class TooLarge(Exception):
    """The documents have more in them than is worth comparing."""


def parse_json(data: bytes) -> Any:
    """JSON, or NOTHING. NaN and the like are their names, so that they equal themselves."""
    if data.lstrip()[:1] not in _STARTS:
        return MISSING
    try:
        return json.loads(data, parse_constant=str)
    except (ValueError, RecursionError):
        return MISSING


class JsonDiff:
    """One comparison. Aligning lists in lists takes steps that multiply with the depth: they are counted."""

    def __init__(self, ignores: Callable[[Location], bool]) -> None:
        self._ignores = ignores
        self._steps = 0

    def values(self, left: Any, right: Any, place: Location) -> Iterator[tuple[Location, Any, Any]]:
        """Each difference as (place, left, right). Raises Exhausted, and RecursionError for documents deeper
        than Python can compare."""
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise TooLarge
        if self._ignores(place) or left == REDACTED or right == REDACTED:
            return
        deep = len(place) >= MAX_DEPTH
        if isinstance(left, dict) and isinstance(right, dict) and not deep:
            for key in [*left, *(key for key in right if key not in left)]:
                inner = (*place, key)
                if key in left and key in right:
                    yield from self.values(left[key], right[key], inner)
                elif not self._ignores(inner):
                    yield inner, left.get(key, MISSING), right.get(key, MISSING)
        elif isinstance(left, list) and isinstance(right, list) and not deep:
            yield from self._lists(left, right, place)
        elif isinstance(left, bool) is not isinstance(right, bool) or left != right:
            yield place, left, right

    def _lists(
        self, left: list[Any], right: list[Any], place: Location
    ) -> Iterator[tuple[Location, Any, Any]]:
        """Aligned at both ends, so that what was put in or taken out in one place is named as that."""
        first = shorter = min(len(left), len(right))
        last = 0
        if len(left) != len(right):
            first = 0
            while first < shorter and self._same(left[first], right[first], (*place, first)):
                first += 1
            while last < shorter - first:
                index = len(left) - 1 - last
                if not self._same(left[index], right[-1 - last], (*place, index)):
                    break
                last += 1
            first = shorter - last
        for index in range(first):
            yield from self.values(left[index], right[index], (*place, index))
        for side, values in enumerate((left, right)):
            for index in range(first, len(values) - last):
                inner = (*place, index)
                if not self._ignores(inner):
                    value = values[index]
                    yield (inner, value, MISSING) if side == 0 else (inner, MISSING, value)

    def _same(self, left: Any, right: Any, place: Location) -> bool:
        return next(self.values(left, right, place), None) is None
