"""Redacts fields in JSON (also lines of JSON and event streams), in forms and in multipart bodies. Pure.

Works on bytes, not on parsed documents: everything else stays byte for byte, and truncated or malformed
bodies are searched too. In case of doubt it redacts too much.
"""

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Final
from urllib.parse import unquote_plus

from devroute.inspector.capture import REDACTED, REDACTED_QUERY
from devroute.inspector.json_path import JsonPath

_REDACTED: Final = REDACTED.encode()
_REDACTED_JSON: Final = b'"' + _REDACTED + b'"'
_REDACTED_QUERY: Final = REDACTED_QUERY.encode()

# Field names of event streams are skipped: a document may extend over several `data:` lines.
_TOKEN = re.compile(
    rb'(?m:^(?:data|event|id|retry):)|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[{}\[\],:]|[^\s"{}\[\],:]++', re.DOTALL
)
_QUOTE, _COLON, _COMMA = ord('"'), ord(":"), ord(",")
_OPEN: Final = b"{["
_CLOSE: Final = b"}]"
_SEGMENTS = re.compile(r"[\[\].]+")

#: Tokens of a document, pairs of a form, parts of a multipart body. Everything after them is redacted,
#: because this runs on the requests' event loop. A document of 1 MiB has fewer.
MAX_TOKENS: Final = 250_000
MAX_PAIRS: Final = 50_000
MAX_PARTS: Final = 1000

#: The shortest substring that is searched for: shorter ones occur in every body.
_MIN_HINT: Final = 6

#: Depth of nesting. Deeper values are redacted as a whole.
MAX_DEPTH: Final = 200


class Masks:
    """The fields to redact in bodies: by name at any depth, ignoring case, and by path in JSON."""

    def __init__(self, names: Iterable[str], paths: Iterable[JsonPath]) -> None:
        self.names = frozenset(name.lower() for name in names)
        self.paths = tuple(paths)
        hints = {*self.names, *(path.last.lower() for path in self.paths if path.last is not None)}
        self._always = any(not hint.isascii() for hint in hints) or any(p.last is None for p in self.paths)
        self._hints = tuple(part.encode() for part in _hints(hints))
        spelled = b"|".join(re.escape(name.encode()) for name in sorted(self.names))
        # For JSON inside a JSON string, and for JSON that the tokenizer cannot follow.
        self._quoted = re.compile(
            rb'(\\{0,8}"(?:%b)\\{0,8}"\s*+:\s*+)(?:(\\{0,8}")([^"]*?)(\\{0,8}"|\Z)|[^\s"\\,{}\[\]]++)'
            % spelled,
            re.IGNORECASE,
        )

    def __bool__(self) -> bool:
        return bool(self.names or self.paths)

    def might_be_in(self, data: bytes) -> bool:
        """A cheap test: False means that the body has no field to redact."""
        low = data.lower()
        if self._always or b"\\u" in low or b"%" in low:
            return True
        for hint in self._hints:  # noqa: SIM110  # any() costs five times as much
            if hint in low:
                return True
        return False

    # --- JSON

    def json(self, data: bytes) -> bytes:
        if not self or not self.might_be_in(data):
            return data
        redacted = _JsonMask(self, data).run()
        return self._quoted.sub(self._requoted, redacted) if self.names else redacted

    @staticmethod
    def _requoted(match: re.Match[bytes]) -> bytes:
        if match[2] is None:
            return match[1] + _REDACTED_JSON if match[1].count(b"\\") == 0 else match[1] + b"0"
        return b"%b%b%b%b" % (match[1], match[2], _REDACTED, match[4])

    def matches(self, key: str | None, location: list[str | int]) -> bool:
        if key is not None and key.lower() in self.names:
            return True
        return bool(self.paths) and any(path.matches(tuple(location)) for path in self.paths)

    # --- forms

    def form(self, data: bytes) -> bytes:
        """Redacts application/x-www-form-urlencoded, and queries."""
        if not self.names or not self.might_be_in(data):
            return data
        pairs = data.split(b"&", MAX_PAIRS)
        if len(pairs) > MAX_PAIRS:
            pairs[-1] = _REDACTED_QUERY
        for index, pair in enumerate(pairs):
            name, equals, _ = pair.partition(b"=")
            if equals and self._named(unquote_plus(name.decode("latin-1"))):
                pairs[index] = name + b"=" + _REDACTED_QUERY
        return b"&".join(pairs)

    def _named(self, name: str) -> bool:
        """Whether to redact a parameter. Frameworks nest names as `user[password]` and `user.password`."""
        low = name.lower().strip()
        return low in self.names or any(part in self.names for part in _SEGMENTS.split(low))

    def multipart(self, data: bytes, boundary: bytes) -> bytes:
        """Redacts multipart/form-data (RFC 7578)."""
        if not self.names or not self.might_be_in(data) or not boundary:
            return data
        parts = data.split(b"--" + boundary, MAX_PARTS)
        if len(parts) > MAX_PARTS:
            parts[-1] = _REDACTED
        for index, part in enumerate(parts):
            head, gap, content = part.partition(b"\r\n\r\n")
            if not gap:
                continue
            named = re.search(rb'(?i)\bname=(?:"((?:[^"\\]|\\.)*)"|([^\s;]+))', head)
            if named is not None:
                name = (named[1] or named[2] or b"").decode("utf-8", "replace")
                if self._named(unquote_plus(name)):
                    parts[index] = head + gap + _REDACTED + (b"\r\n" if content.endswith(b"\r\n") else b"")
        return (b"--" + boundary).join(parts)


def _hints(words: set[str]) -> list[str]:
    """A small set of substrings such that each word contains one: fewer searches than for the words."""
    left, parts = set(words), []
    while left:
        pieces = {
            word[start : start + size]
            for word in left
            for size in range(min(_MIN_HINT, len(word)), len(word) + 1)
            for start in range(len(word) - size + 1)
        }
        part = max(sorted(pieces), key=lambda piece: (sum(piece in word for word in left), len(piece)))
        parts.append(part)
        left = {word for word in left if part not in word}
    return parts


class _JsonMask:
    """One pass over one text. `_location` is that of the current value."""

    def __init__(self, masks: Masks, data: bytes) -> None:
        self._masks = masks
        self._data = data
        self._location: list[str | int] = []
        self._arrays: list[bool] = []  # for each open container, whether it is an array
        self._out: list[bytes] = []
        self._copied = 0
        self._cut = -1  # where the container to redact begins
        self._cut_depth = 0

    def run(self) -> bytes:
        data = self._data
        last: tuple[int, int] = (0, 0)
        after_colon = False
        for count, match in enumerate(_TOKEN.finditer(data)):
            start, end = match.span()
            if count >= MAX_TOKENS:
                self._cut = start if self._cut < 0 else self._cut
                break
            first = data[start]
            if first == _COLON:
                self._key(data[last[0] : last[1]])
                after_colon = True
            elif first == _COMMA:
                self._comma()
                after_colon = False
            elif first in _CLOSE:
                self._closed(end)
                after_colon = False
            elif first in _OPEN:
                self._opened(start, first == _OPEN[1], named=after_colon)
                after_colon = False
            elif data[end - 1] == _COLON and first != _QUOTE:
                continue  # a field name of an event stream
            else:
                if self._cut < 0 and self._matches(after_colon):
                    self._replace(start, end)
                last = start, end
                after_colon = False
        if self._cut >= 0:
            self._replace(self._cut, len(data))
        self._out.append(data[self._copied :])
        return b"".join(self._out)

    def _matches(self, named: bool) -> bool:
        if not named and not (self._arrays and self._arrays[-1]):
            return not self._arrays and bool(self._masks.paths) and self._masks.matches(None, [])
        key = self._location[-1] if self._location and named else None
        return self._masks.matches(key if isinstance(key, str) else None, self._location)

    def _replace(self, start: int, end: int) -> None:
        self._out += (self._data[self._copied : start], _REDACTED_JSON)
        self._copied = end

    def _key(self, token: bytes) -> None:
        text = token.decode("utf-8", "replace").strip('"')
        if b"\\" in token:
            with suppress(ValueError):
                text = json.loads(token)
        if self._location:
            self._location[-1] = text
        else:
            self._location = [text]  # a fragment of a document, which still has a name

    def _comma(self) -> None:
        if self._arrays and self._arrays[-1]:
            index = self._location[-1]
            self._location[-1] = index + 1 if isinstance(index, int) else 0

    def _opened(self, start: int, array: bool, *, named: bool) -> None:
        if self._cut < 0 and (self._matches(named) or len(self._arrays) >= MAX_DEPTH):
            self._cut, self._cut_depth = start, len(self._arrays)
        if not self._arrays and not named:
            self._location = []
        self._arrays.append(array)
        self._location.append(0 if array else "")

    def _closed(self, end: int) -> None:
        if not self._arrays:
            return
        self._arrays.pop()
        self._location.pop()
        if self._cut >= 0 and len(self._arrays) == self._cut_depth:
            self._replace(self._cut, end)
            self._cut = -1
