"""Which requests a rule matches. Pure, and linear in the request: a `*` is any text, from left to right."""

import re
from collections.abc import Callable
from typing import Final

from devroute.http.message import RequestHead

#: Characters of a pattern, and its stars.
MAX_PATTERN: Final = 512
MAX_STARS: Final = 8

Test = Callable[[bytes], bool]


def text_test(pattern: str) -> Test:
    """Whether a text matches: it is the pattern, with any text for each `*`."""
    pieces = pattern.encode("ascii").split(b"*")
    if len(pieces) == 1:
        return pieces[0].__eq__
    first, *middle, last = pieces

    def matches(text: bytes) -> bool:
        if not text.startswith(first):
            return False
        at = len(first)
        for piece in middle:
            at = text.find(piece, at)
            if at < 0:
                return False
            at += len(piece)
        return text.endswith(last) and len(text) - len(last) >= at

    return matches


def path_test(pattern: str) -> Test:
    """As text_test, of a target's path without its query; a pattern that ends with a slash matches all below
    it too. Compared as received: escapes are not decoded."""
    test = text_test(pattern + "*" if pattern.endswith("/") else pattern)
    return lambda target: test(target.partition(b"?")[0])


class Condition:
    """What a rule asks of a request, apart from its service."""

    __slots__ = ("_headers", "_methods", "_path")

    def __init__(self, methods: tuple[str, ...], path: str, headers: tuple[tuple[str, str], ...]) -> None:
        self._methods = frozenset(each.encode("ascii") for each in methods)
        self._path = None if path == "*" else path_test(path)
        self._headers = [(_lines_of(name), text_test(value)) for name, value in headers]

    def matches(self, head: RequestHead) -> bool:
        if self._methods and head.method not in self._methods:
            return False
        if self._path is not None and not self._path(head.target):
            return False
        return all(
            any(test(value.strip(b" \t")) for value in lines.findall(head.wire))
            for lines, test in self._headers
        )


def _lines_of(name: str) -> re.Pattern[bytes]:
    """Finds the values of a field's lines."""
    return re.compile(rb"\r\n%b:([^\r]*+)" % re.escape(name.encode()), re.IGNORECASE)
