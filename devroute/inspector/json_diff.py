"""Finds where two JSON documents differ. Pure."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

from devroute.inspector.capture import REDACTED
from devroute.inspector.json_path import Location

#: Values that are compared at most; this takes a few tenths of a second.
MAX_STEPS: Final = 100_000

#: Below this depth a difference is reported for the whole subtree.
MAX_DEPTH: Final = 100

#: The value where one document has none, and the result of parsing what is not JSON.
MISSING: Final = object()

#: First bytes of JSON values, with the NaN and Infinity that Python's and JavaScript's writers emit.
_FIRST_BYTES: Final = frozenset(bytes((byte,)) for byte in b'{["-0123456789tfnNI')

#: A difference: its location, the left value and the right value.
Found = tuple[Location, Any, Any]


class DiffTooLarge(Exception):
    """The comparison takes more than MAX_STEPS."""


class _Overflow(str):
    """The text of a number that a float cannot hold, such as 1e400."""


def parse_json(data: bytes) -> Any:
    """The document, or MISSING if `data` is not JSON. NaN and Infinity are floats, as Python reads them."""
    if data.lstrip()[:1] not in _FIRST_BYTES:
        return MISSING
    try:
        return json.loads(data, parse_float=_float)
    except (ValueError, RecursionError):
        return MISSING


def _float(text: str) -> float | _Overflow:
    number = float(text)
    return number if math.isfinite(number) else _Overflow(text)


class JsonDiff:
    """One comparison. It counts its steps: aligning lists inside lists multiplies them with each level."""

    def __init__(self, ignores: Callable[[Location], bool]) -> None:
        self._ignores = ignores
        self._steps = 0

    def values(self, left: Any, right: Any, location: Location) -> Iterator[Found]:
        """Each difference at or below `location`. Raises DiffTooLarge, and RecursionError for documents that
        nest deeper than Python recurses."""
        self._count()
        if self._ignores(location) or left == REDACTED or right == REDACTED:
            return
        if len(location) >= MAX_DEPTH:
            if not self._equal(left, right):
                yield location, left, right
        elif isinstance(left, dict) and isinstance(right, dict):
            for key in [*left, *(key for key in right if key not in left)]:
                inner = (*location, key)
                if key in left and key in right:
                    yield from self.values(left[key], right[key], inner)
                elif not self._ignores(inner):
                    yield inner, left.get(key, MISSING), right.get(key, MISSING)
        elif isinstance(left, list) and isinstance(right, list):
            yield from self._lists(left, right, location)
        elif not _equal_scalars(left, right):
            yield location, left, right

    def _lists(self, left: list[Any], right: list[Any], location: Location) -> Iterator[Found]:
        """Lists of different lengths are aligned at both ends, so that one insertion is one difference."""
        first = shorter = min(len(left), len(right))
        last = 0
        if len(left) != len(right):
            first = 0
            while first < shorter and self._same(left[first], right[first], (*location, first)):
                first += 1
            while last < shorter - first:
                index = len(left) - 1 - last
                if not self._same(left[index], right[-1 - last], (*location, index)):
                    break
                last += 1
            first = shorter - last
        for index in range(first):
            yield from self.values(left[index], right[index], (*location, index))
        for side, values in enumerate((left, right)):
            for index in range(first, len(values) - last):
                inner = (*location, index)
                if not self._ignores(inner):
                    value = values[index]
                    yield (inner, value, MISSING) if side == 0 else (inner, MISSING, value)

    def _same(self, left: Any, right: Any, location: Location) -> bool:
        return next(self.values(left, right, location), None) is None

    def _equal(self, left: Any, right: Any) -> bool:
        """Whether two subtrees are equal, redacted and ignored values included."""
        self._count()
        if isinstance(left, dict) and isinstance(right, dict):
            return left.keys() == right.keys() and all(self._equal(left[key], right[key]) for key in left)
        if isinstance(left, list) and isinstance(right, list):
            return len(left) == len(right) and all(map(self._equal, left, right))
        return _equal_scalars(left, right)

    def _count(self) -> None:
        self._steps += 1
        if self._steps > MAX_STEPS:
            raise DiffTooLarge


def _equal_scalars(left: Any, right: Any) -> bool:
    """Numbers are equal by value (1 and 1.0, 0 and -0.0) and NaN equals NaN; other values need the same type,
    so that true is not 1 and "NaN" is not NaN."""
    if type(left) in (int, float) and type(right) in (int, float):
        return bool(left == right or (left != left and right != right))  # only NaN differs from itself
    return type(left) is type(right) and bool(left == right)
