"""Redacts fields in JSON (also lines of JSON and event streams), XML, forms and multipart bodies. Pure.

Works on bytes, not on parsed documents: everything else stays byte for byte, and truncated or malformed
bodies are searched too. In case of doubt it redacts too much.
"""

import codecs
import json
import re
from collections.abc import Iterable
from contextlib import suppress
from typing import Final
from urllib.parse import quote_plus, unquote_plus

from devroute.http.secret_names import SecretNames, might_have_secret
from devroute.inspector.capture import REDACTED, REDACTED_QUERY
from devroute.inspector.json_path import JsonPath, PathMatcher
from devroute.inspector.patterns import without_patterns

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
_WORDS = re.compile(r"[\W_]+|(?<=[a-z])(?=[A-Z])")
_SEGMENTS = re.compile(r"[\[\].]+")

# For JSON inside a JSON string, and for JSON that the tokenizer cannot follow: a name, and then its value.
_NAME = re.compile(rb'\\{0,8}"([^"\\\s]{1,64}+)\\{0,8}"\s*+:\s*+')
_VALUE = re.compile(rb'(\\{0,8}")([^"]*?)(\\{0,8}"|\Z)|[^\s"\\,{}\[\]]++')
# An argument in the text of a GraphQL document.
_ARGUMENT = re.compile(rb'(?<![\w$"\\])([A-Za-z_]\w{1,63}+)\s*+:\s*+(?=\\{0,8}")')
# Text that is no document: lines of logs, of headers, of settings.
_LINE = re.compile(rb"(?m)^[ \t]*+([\w.-]{1,64}+)[ \t]*+[:=][ \t]*+(?=[^ \t\r\n])")
_REST = re.compile(rb"[^\r\n]++")
_ELEMENT = re.compile(rb"(<(?:[\w.-]{1,64}+:)?([\w.-]{1,64}+)(?:\s[^<>]{0,2048}+)?>)([^<]++)")
_ATTRIBUTE = re.compile(rb"""(\s(?:[\w.-]{1,64}+:)?([\w.-]{1,64}+)=)("[^"<]*+"?|'[^'<]*+'?)""")
_PART_NAME = re.compile(
    rb'(?i)[;\s]name(?:\*=\s*[\w-]*\'[\w-]*\'([^\s;]+)|\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]+)))'
)

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
    """The fields to redact in bodies: by name at any depth, and by path in JSON."""

    def __init__(self, added: Iterable[str], removed: Iterable[str], paths: Iterable[JsonPath]) -> None:
        """`added` and `removed`: changes to the default names."""
        added = tuple(added)
        self.names = SecretNames(added, removed)
        self.paths = tuple(paths)
        hints = {path.last.lower() for path in self.paths if path.last is not None}
        # A name may be spelled with other separators than in the rule.
        hints |= {max(_WORDS.split(name), key=len).lower() for name in added}
        self._always = any(not hint.isascii() for hint in hints) or any(p.last is None for p in self.paths)
        self._hints = tuple(part.encode() for part in _hints(hints))

    def might_be_in(self, data: bytes) -> bool:
        """A cheap test: False means that the body has no field to redact."""
        low = data.lower()
        find = low.find  # `in` raises and catches an exception each time
        if find(b"%") >= 0 or (find(b"\\") >= 0 and find(b"\\u") >= 0):
            return True
        return self._might_be_plain_in(low)

    def _might_be_plain_in(self, low: bytes) -> bool:
        """The same for names without escapes, in lower case."""
        if self._always:
            return True
        find = low.find
        for hint in self._hints:  # any() costs five times as much
            if find(hint) >= 0:
                return True
        return might_have_secret(low)

    # --- JSON

    def json(self, data: bytes) -> bytes:
        encoding = _encoding(data)
        if encoding is None:
            return self._json(data)
        text = data.decode(encoding, "ignore").encode("utf-8", "replace")
        redacted = self._json(text)
        return data if redacted == text else redacted.decode("utf-8", "replace").encode(encoding)

    def _json(self, data: bytes) -> bytes:
        data = without_patterns(data, _REDACTED)
        if not self.might_be_in(data):
            return data
        if data.lstrip()[:1] not in (b"{", b"[", b'"'):
            data = self._replaced(data, _LINE, _REST)
        data = self._replaced(_JsonMask(self, data).run(), _NAME, _VALUE)
        return self._replaced(data, _ARGUMENT, _VALUE) if b"query" in data or b"mutation" in data else data

    def quoted(self, data: bytes) -> bytes:
        """Redacts values after a name and a colon where one of them is in quotation marks: in HTML, scripts
        and binary data, which the tokenizer of JSON cannot follow."""
        data = without_patterns(data, _REDACTED)
        if data.find(b'"') < 0 or not self._might_be_plain_in(data.lower()):
            return data
        return self._replaced(self._replaced(data, _NAME, _VALUE), _ARGUMENT, _VALUE)

    def _replaced(self, data: bytes, name: re.Pattern[bytes], value: re.Pattern[bytes]) -> bytes:
        """The text with a redaction for each `value` that follows a secret `name`."""
        pieces: list[bytes] = []
        at = 0
        for match in name.finditer(data):
            if match.start() < at or match[1].decode("utf-8", "replace") not in self.names:
                continue
            if (found := value.match(data, match.end())) is None:
                continue
            pieces.append(data[at : found.start()])
            if value is _REST:
                pieces.append(_REDACTED)
            elif found[1] is not None:
                pieces += (found[1], _REDACTED, found[3])
            else:
                pieces.append(b"0" if b"\\" in match[0] else _REDACTED_JSON)
            at = found.end()
        pieces.append(data[at:])
        return b"".join(pieces)

    # --- forms

    def form(self, data: bytes) -> bytes:
        """Redacts application/x-www-form-urlencoded, and queries."""
        if not self.might_be_in(data):
            return without_patterns(data, _REDACTED_QUERY)
        pairs = data.split(b"&", MAX_PAIRS)
        if len(pairs) > MAX_PAIRS:
            pairs[-1] = _REDACTED_QUERY
        return without_patterns(b"&".join([self.parameter(pair) for pair in pairs]), _REDACTED_QUERY)

    def parameter(self, pair: bytes) -> bytes:
        """One parameter of a form or query. Patterns are left to the caller."""
        name, equals, value = pair.partition(b"=")
        if not equals:
            return pair
        if self._named(unquote_plus(name.decode("latin-1"))):
            return name + b"=" + _REDACTED_QUERY
        if value[:1] in _OPEN or value[:3].upper() in (b"%7B", b"%5B"):
            return name + b"=" + self._json_parameter(value)
        return pair

    def _json_parameter(self, value: bytes) -> bytes:
        """A value that is JSON, as GraphQL has its variables in a query."""
        document = unquote_plus(value.decode("latin-1"), "latin-1").encode("latin-1")
        redacted = self.json(document)
        return value if redacted == document else quote_plus(redacted).encode()

    def _named(self, name: str) -> bool:
        """Whether to redact a parameter. Frameworks nest names as `user[password]` and `user.password`."""
        return name in self.names or any(part in self.names for part in _SEGMENTS.split(name))

    def multipart(self, data: bytes, boundary: bytes) -> bytes:
        """Redacts multipart/form-data (RFC 7578), and documents in the parts of any multipart body."""
        if not self.might_be_in(data) or not boundary:
            return without_patterns(data, _REDACTED)
        parts = data.split(b"--" + boundary, MAX_PARTS)
        if len(parts) > MAX_PARTS:
            parts[-1] = _REDACTED
        for index, part in enumerate(parts):
            gap = b"\r\n\r\n" if b"\r\n\r\n" in part else b"\n\n"
            head, gap, content = part.partition(gap)
            if not gap:
                continue
            named = _PART_NAME.search(head)
            name = b"" if named is None else named[1] or named[2] or named[3] or b""
            if self._named(unquote_plus(name.decode("utf-8", "replace"))):
                end = b"\r\n" if content.endswith(b"\r\n") else b"\n" if content.endswith(b"\n") else b""
                parts[index] = head + gap + _REDACTED + end
            elif content.lstrip()[:1] in (b"{", b"["):
                parts[index] = head + gap + self.json(content)
        return without_patterns((b"--" + boundary).join(parts), _REDACTED)

    # --- XML

    def xml(self, data: bytes) -> bytes:
        """Redacts the text of elements, and attributes."""
        if self.might_be_in(data):
            data = _ELEMENT.sub(self._element, _ATTRIBUTE.sub(self._attribute, data))
        return without_patterns(data, _REDACTED)

    def _element(self, match: re.Match[bytes]) -> bytes:
        if not match[3].strip() or match[2].decode("utf-8", "replace") not in self.names:
            return match[0]
        return match[1] + _REDACTED

    def _attribute(self, match: re.Match[bytes]) -> bytes:
        if match[2].decode("utf-8", "replace") not in self.names:
            return match[0]
        return match[1] + match[3][:1] + _REDACTED + match[3][:1]


def _encoding(data: bytes) -> str | None:
    """The encoding of a document that is not in UTF-8 (RFC 4627 §3, RFC 8259 §8.1)."""
    first = data[:4]
    if b"\0" not in first and first[:2] not in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        return None
    found = json.detect_encoding(first)
    return None if found.startswith("utf-8") else found


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
        self._names = masks.names
        # At the container of `_location`, or of the one to redact.
        self._paths = PathMatcher(masks.paths) if masks.paths else None
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
            return not self._arrays and self._paths is not None and self._paths.matches_part(None)
        part = self._location[-1] if self._location else None
        if named and isinstance(part, str) and part in self._names:
            return True
        return self._paths is not None and self._paths.matches_part(part)

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
        if self._location and self._cut < 0 and self._paths is not None:
            self._paths.enter(self._location[-1])
        self._arrays.append(array)
        self._location.append(0 if array else "")

    def _closed(self, end: int) -> None:
        if not self._arrays:
            return
        self._arrays.pop()
        self._location.pop()
        if self._location and self._cut < 0 and self._paths is not None:
            self._paths.leave()
        if self._cut >= 0 and len(self._arrays) == self._cut_depth:
            self._replace(self._cut, end)
            self._cut = -1
