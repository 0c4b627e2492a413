"""Rules for the words in comments, docstrings, messages and documents: the terms that the glossary in
ARCHITECTURE.md replaced do not come back.
"""

import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

#: A retired word, as a pattern, and what to write instead.
RETIRED = {
    r"whoever|whomever": "name the role: the caller, the peer, the client",
    r"nobody|somebody": "name the role, or write 'no one' of a person",
    r"trifles?": "control frames",
    r"signs? of life": "ping, pong",
    r"hand(?:s|ed|ing)?[- ]?backs?|handbacks?": "failover",
    r"eras?": "generation",
    r"tell|tells|told": "report, send, state, name",
    r"heard": "received",
    r"what is(?: not)? there": "name the thing",
    r"what (?:was|is|has been) said": "the value",
    r"(?:an?|the|its|each|every|no|this|that|whose|his|her|their|our|final|late|real) answers?": "response",
    r"answers? (?:of|from|to) (?:the|an?) (?:app|service|laptop|request|proxy)": "response",
    r"and its kin|and the like": "list them, or name the kind",
    r"by (?:whose|its|their) word": "according to",
}
_PATTERNS = [
    (re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), advice) for pattern, advice in RETIRED.items()
]
_FOLDERS = ("devroute", "lua", "tests", "bench", "soak", "fuzz", "demo", "docs", "checks")
#: This file holds the words, and the decision records quote history.
_EXEMPT = ("checks/words.py", "CHANGELOG.md", "bench/README.md")


def problems(root: Path, paths: Iterable[Path]) -> Iterator[str]:
    """One line for each retired word below `paths`, as "file:line: word: advice"."""
    files = [*root.glob("*.md"), *root.glob("*.py"), root / "Makefile"]
    for folder in _FOLDERS:
        files += (root / folder).rglob("*")
    for file in sorted(files):
        name = str(file.relative_to(root))
        if name in _EXEMPT or not any(file.is_relative_to(path) for path in paths):
            continue
        for line, text in _prose(file):
            for pattern, advice in _PATTERNS:
                for match in pattern.finditer(text):
                    number = line + text[: match.start()].count("\n")
                    yield f"{name}:{number}: '{' '.join(match[0].split())}': {advice}"


def _prose(file: Path) -> Iterator[tuple[int, str]]:
    """The parts of a file that people read, each with the number of its first line."""
    if file.suffix == ".py":
        yield from _of_python(file)
    elif file.suffix == ".md":
        yield from _of_markdown(file.read_text(encoding="utf-8"))
    elif file.suffix == ".lua":
        yield from _of_lines(file, re.compile(r"--\s(.*)"))
    elif file.suffix == ".js":
        yield from _of_lines(file, re.compile(r"(?:^|\s)//\s(.*)|^\s*/?\*+\s(.*)"))
    elif file.name == "Makefile":
        yield from _of_lines(file, re.compile(r"#\s(.*)"))


def _of_python(file: Path) -> Iterator[tuple[int, str]]:
    """Comments and strings; of tests comments, docstrings and names only, since they quote what they test."""
    source = file.read_text(encoding="utf-8")
    strings = file.parts[-2] != "tests" and "tests" not in file.parts
    previous = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        line = token.start[0]
        if token.type == tokenize.COMMENT:
            yield line, token.string
        elif token.type == tokenize.STRING or token.type == getattr(tokenize, "FSTRING_MIDDLE", -1):
            docstring = previous in (tokenize.NEWLINE, tokenize.INDENT) and token.string.startswith('"""')
            if docstring or strings:
                yield line, token.string
        elif token.type == tokenize.NAME and token.string.startswith("test_"):
            yield line, token.string.replace("_", " ")
        if token.type not in (tokenize.NL, tokenize.COMMENT):
            previous = token.type


def _of_markdown(text: str) -> Iterator[tuple[int, str]]:
    """Without fenced and indented code."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced and not line.startswith("    "):
            yield number, re.sub(r"`[^`]*`", "", line)


def _of_lines(file: Path, pattern: re.Pattern[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if match := pattern.search(line):
            yield number, match[1] or (match[2] if pattern.groups > 1 else "")
