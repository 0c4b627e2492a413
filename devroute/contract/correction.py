"""Proposes the contract that was most likely meant by text that is none: other quotes or none, a comma too
many, `foo=alice`, names that no service can have. Pure and linear in the text, which a stranger may send.

Reads leniently and promises nothing: contract/grammar.py offers a proposal only if it is valid.
"""

import json
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from devroute.contract.name import SIGN, check_name
from devroute.contract.strict_json import JsonObject
from devroute.contract.target import Malformed, check_service, parse_target
from devroute.headers import CONTRACT

#: Characters of a proposal; it travels in error messages. Longer contracts are written by programs.
MAX_PROPOSED: Final = 1024

_STRAIGHT: Final = str.maketrans(
    {
        **dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb\u2033", '"'),
        **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032`\u00b4", "'"),
        **dict.fromkeys("\u00a0\u2007\u202f", " "),
    }
)
_TYPOGRAPHIC: Final = re.compile("[\u2018-\u201f\u2032\u2033\u00ab\u00bb\u00b4]")
_TRAILING_COMMA: Final = re.compile(r",\s*[}\]]")
#: A contract in one more pair of quotes.
_WRAPPED: Final = re.compile(r"(['\"])\s*(\{.*\})\s*\1", re.DOTALL)
_HEADER: Final = re.compile(rf"[ \t]*{CONTRACT}[ \t]*:", re.IGNORECASE)
_QUOTED: Final = re.compile(r"\"[^\"]*\"|'[^']*'")
_NAME: Final = re.compile(r'[^\s{}\[\],;:="\']+')
_SEPARATOR: Final = re.compile(r"\s*(?:=>|[:=])\s*")
#: A word without quotes, or an address in IPv6 that would else begin a list.
_WORD: Final = re.compile(r"\[[0-9A-Fa-f:.]+\]:[0-9]+|[^\s{}\[\],;\"']+")
_BETWEEN: Final = re.compile(r"[\s,;]*")
#: Braces around and between the entries add nothing that the reader needs.
_BETWEEN_ENTRIES: Final = re.compile(r"[\s,;{}]*")
_LITERALS: Final = {"true": True, "false": False}
_NUMBER: Final = re.compile(r"(?:0|[1-9][0-9]{0,9})(\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True)
class Correction:
    """`advice` is what to do, "" if the error's message says it; `contract` is what to send instead."""

    advice: str
    contract: str | None = None


def correct(raw: str) -> Correction:
    """What to do about a contract that is invalid. The proposed contract may be invalid too."""
    text = raw.translate(_STRAIGHT)
    if (header := _HEADER.match(text)) is not None:
        text = text[header.end() :]
    text = text.strip()
    if text[:3].upper() == "%7B":
        text = unquote(text)
    if (wrapped := _WRAPPED.fullmatch(text)) is not None:
        text = wrapped[2]
    try:
        entries = _Reader(text.replace('\\"', '"')).entries()
    except _Unclear:
        return Correction("")
    if not entries:
        return Correction('send X-devroute: {"SERVICE": "TARGET"}')
    name, value = entries[0]
    if value is _NOTHING:
        target = _target(name) if _is_target(name) else "TARGET"
        saved = f"; a saved contract is written {SIGN}{name}" if _is_name(name) else ""
        return Correction(f'name the service, too: X-devroute: {{"SERVICE": "{target}"}}{saved}')
    document = {_service(name): _value(value) for name, value in entries}
    proposed = json.dumps(document)
    if len(document) < len(entries) or len(proposed) > MAX_PROPOSED:
        return Correction("")
    return Correction(_advice(raw, text), proposed)


def _advice(raw: str, text: str) -> str:
    if _TYPOGRAPHIC.search(raw):
        return "write straight double quotes: an editor or a chat has made typographic ones"
    if '\\"' in text:
        return "write the quotes without backslashes"
    if '"' not in text and "'" not in text:
        if not text.startswith("{"):
            return "a contract is JSON"
        return (
            'the quotes are missing: Windows PowerShell and cmd remove them unless each is written \\",'
            ' and so does sh inside "..."'
        )
    if "'" in text:
        return "write double quotes instead of single ones"
    if _TRAILING_COMMA.search(text):
        return "remove the comma behind the last entry"
    return ""


class _Unclear(ValueError):
    """The text cannot be read."""


#: The value of a word that stands alone.
_NOTHING: Final = object()


class _Reader:
    """One pass over the text, from left to right."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def entries(self) -> list[tuple[str, object]]:
        """Each entry as (name, value), or one word with _NOTHING. Raises _Unclear."""
        found: list[tuple[str, object]] = []
        while self._skip(_BETWEEN_ENTRIES):
            name = self._quoted_or(_NAME)
            if self._take(_SEPARATOR) is not None:
                found.append((name, self._options() if self._take_one("{") else self._scalar()))
            elif found or self._skip(_BETWEEN_ENTRIES):
                raise _Unclear
            else:
                found.append((name, _NOTHING))
        return found

    def _options(self) -> JsonObject:
        options, names = JsonObject(), set[str]()
        while self._skip(_BETWEEN) and not self._take_one("}"):
            name = self._quoted_or(_NAME)
            if self._take(_SEPARATOR) is None or name in names:
                raise _Unclear
            names.add(name)
            options.append((name, self._list() if self._take_one("[") else self._scalar()))
        return options

    def _list(self) -> list[object]:
        values: list[object] = []
        while self._skip(_BETWEEN) and not self._take_one("]"):
            values.append(self._scalar())
        return values

    def _scalar(self) -> object:
        if self._text.startswith(('"', "'"), self._at):
            return self._quoted_or(_WORD)
        word = self._quoted_or(_WORD)
        if word.lower() in _LITERALS:
            return _LITERALS[word.lower()]
        if (number := _NUMBER.fullmatch(word)) is not None:
            return float(word) if number[1] else int(word)
        return word

    def _quoted_or(self, word: re.Pattern[str]) -> str:
        quoted = self._take(_QUOTED)
        found = quoted or self._take(word)
        if found is None or "\\" in found[0]:
            raise _Unclear
        return found[0][1:-1] if quoted else found[0]

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        """Whether anything follows."""
        self._take(pattern)
        return self._at < len(self._text)

    def _take_one(self, mark: str) -> bool:
        taken = self._text.startswith(mark, self._at)
        self._at += taken
        return taken

    def _take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self._text, self._at)
        if match is not None:
            self._at = match.end()
        return match


def _service(name: str) -> str:
    """A name that a service can have, or the same."""
    try:
        return check_service(name)
    except Malformed:
        labels = name.strip().lower().split(".")[:2]
        return ".".join(re.sub("[^a-z0-9]+", "-", label).strip("-") for label in labels)


def _value(value: object) -> object:
    if isinstance(value, JsonObject):
        return {name: _target(option) if name == "to" else option for name, option in value}
    return _target(value)


def _target(value: object) -> object:
    """A target that can be one, or the same."""
    if not isinstance(value, str):
        return value
    authority = value.strip().rpartition("://")[2].partition("/")[0].lower()
    likely = (value, authority, authority.replace("_", "-"))
    return next((each for each in likely if _is_target(each)), value)


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except Malformed:
        return False
    return True


def _is_target(text: str) -> bool:
    try:
        parse_target(text)
    except Malformed:
        return False
    return True
