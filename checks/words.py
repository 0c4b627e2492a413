"""Rules for the words in comments, docstrings, messages and documents: the terms that the glossary in
ARCHITECTURE.md replaced do not come back.

Reads prose: no code between backticks, and no string without a space, which is a name too. Of the names that
Python code defines, outside of tests, it reads each word, for the retired terms that are single words.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

from checks.source import docstrings

#: A retired word, as a pattern, and what to write instead. A space stands for any white space.
RETIRED = {
    r"whoever|whomever": "name the role: the caller, the peer, the client",
    r"nobody|somebody": "name the role, or write 'no one' of a person",
    r"anybody|everybody": "name the role: any client, all callers",
    r"trifles?": "control frames",
    r"signs? of life": "ping, pong",
    r"hand(?:s|ed|ing)?(?: it)?[- ]?backs?|handbacks?": "failover",
    r"eras?": "generation",
    r"tell|tells|told": "report, send, state, name",
    r"heard": "received",
    r"verdicts?": "comparison, decision, result",
    r"what is(?: not)? there": "name the thing",
    r"what (?:was|is|has been) said": "the value",
    r"(?:an?|the|its|each|every|no|this|that|whose|his|her|their|our|final|late|real) answers?": "response",
    r"answers? (?:of|from|to) (?:the|an?) (?:app|service|laptop|request|proxy)": "response",
    r"and its kin|and the like": "list them, or name the kind",
    r"by (?:whose|its|their) word": "according to",
    r"anew": "again",
    r"in vain": "without success",
    r"for ever": "forever, without end",
    r"in good order": "cleanly",
    r"an? (?:great|good) many": "many, or the number",
    r"said": "reported, sent, named, announced",
    r"without a word|(?:by|on) the word of": "without a message, according to",
    r"settled": "the verb that applies: frozen, fetched, acknowledged, flushed",
    r"(?:is|are|was|were|be|been|falls?) silent": "idle, sends nothing",
}
#: Words that are retired in names alone: prose has other senses of them.
RETIRED_NAMES = {
    r"silent": "idle, no_response",
    r"marks": "name the thing: counts, flags, fields",
}
#: Where a word that is retired means something else.
EXCEPT = re.compile(
    r"(?:that|DNS|name servers?'?) answers?\b|tell\w*(?: \w+)? apart|\bsaid[- ]so\b", re.IGNORECASE
)
_PATTERNS = [
    (re.compile(rf"\b(?:{pattern})\b".replace(" ", r"\s+"), re.IGNORECASE), advice)
    for pattern, advice in RETIRED.items()
]
_NAME_PATTERNS = [
    (re.compile(pattern, re.IGNORECASE), advice)
    for pattern, advice in (RETIRED | RETIRED_NAMES).items()
    if " " not in pattern
]
_FOLDERS = ("devroute", "lua", "tests", "bench", "soak", "ha", "fuzz", "demo", "docs", "checks", ".ci")
#: Folders whose names are checked, too.
_NAMED = ("devroute", "bench", "fuzz", "ha", "checks")
#: This file and its tests hold the words, and the changelog and the bench's records quote history.
_EXEMPT = ("checks/words.py", "tests/checks/test_words.py", "CHANGELOG.md", "bench/README.md")
_HASH = {".toml", ".yaml", ".yml", ".sh"}
_HASH_NAMES = {"Makefile", "Dockerfile", "run"}

#: The number of a block's first line, and its text with its line ends.
Prose = tuple[int, str]


def problems(root: Path, paths: Iterable[Path]) -> Iterator[str]:
    """One line for each retired word below `paths`, as "file:line: 'word': advice"."""
    files = [path for path in root.iterdir() if path.is_file()]
    for folder in _FOLDERS:
        files += (path for path in (root / folder).rglob("*") if path.is_file())
    for file in sorted(files):
        name = file.relative_to(root).as_posix()
        if name in _EXEMPT or not any(file.is_relative_to(path) for path in paths):
            continue
        for line, word, advice in found_in(prose(file, tests=name.startswith("tests/"))):
            yield f"{name}:{line}: '{word}': {advice}"
        if file.suffix == ".py" and name.partition("/")[0] in _NAMED:
            for line, defined, advice in retired_names(file.read_text(encoding="utf-8")):
                yield f"{name}:{line}: the name '{defined}': {advice}"


def found_in(blocks: Iterable[Prose]) -> Iterator[tuple[int, str, str]]:
    """Each retired word: its line, the word, and what to write instead."""
    for first, text in blocks:
        bare = EXCEPT.sub(_blank, re.sub(r"`[^`\n]*`", _blank, text))
        for pattern, advice in _PATTERNS:
            for match in pattern.finditer(bare):
                yield first + bare[: match.start()].count("\n"), " ".join(match[0].split()), advice


def retired_names(source: str) -> Iterator[tuple[int, str, str]]:
    """Each name that a Python source defines with a retired word in it: its line, the name, and advice."""
    for line, name in sorted(set(_defined_names(ast.parse(source)))):
        words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
        for pattern, advice in _NAME_PATTERNS:
            if any(pattern.fullmatch(word) for word in words):
                yield line, name, advice


def _defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Names of classes, functions, parameters, variables and attributes, where they get their value."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", "_", match[0])


def prose(file: Path, *, tests: bool = False) -> Iterator[Prose]:
    """The parts of a file that people read; none of an unknown kind of file. `tests`: it is a test, and its
    strings quote what it tests."""
    if file.suffix == ".py":
        yield from _of_python(file.read_text(encoding="utf-8"), tests=tests)
    elif file.suffix == ".md":
        yield from _of_markdown(file.read_text(encoding="utf-8"))
    elif file.suffix == ".lua":
        yield from _of_lines(file, re.compile(r"(?:^|\s)--+\s(.*)"))
        yield from _of_lines(file, re.compile(r"""^(?!\s*--).*?"([^"]* [^"]*)\""""))
    elif file.suffix in (".js", ".go"):
        yield from _of_lines(file, re.compile(r"(?:^|\s)//\s(.*)"))
        yield from _of_lines(file, re.compile(r"^\s*/?\*+\s(.*)"))
    elif file.suffix in _HASH or file.name in _HASH_NAMES:
        yield from _of_lines(file, re.compile(r"(?:^|\s)#\s(.*)"))


def _of_python(source: str, *, tests: bool) -> Iterator[Prose]:
    """Comments and strings; of tests comments, docstrings and names only, since they quote what they test."""
    yield from _comments(source)
    tree = ast.parse(source)
    documented = docstrings(tree)
    for node in ast.walk(tree):
        named = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, named) and node.name.startswith("test_"):
            yield node.lineno, node.name.replace("_", " ")
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield from [(node.lineno, node.value)] if node in documented or not tests else []


def _comments(source: str) -> Iterator[Prose]:
    """Comments, each with the lines of the same block."""
    block: list[str] = []
    last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            text = re.sub(r"^#:? ?", "", token.string)
            whole_line = not token.line[: token.start[1]].strip()
            if block and not (whole_line and token.start[0] == last + 1):
                yield last - len(block) + 1, "\n".join(block)
                block = []
            block.append(text)
            last = token.start[0]
    if block:
        yield last - len(block) + 1, "\n".join(block)


def _of_markdown(text: str) -> Iterator[Prose]:
    """Paragraphs, without fenced and indented code."""
    fenced = False
    block: list[str] = []
    for number, line in enumerate([*text.splitlines(), ""], 1):
        fence = line.lstrip().startswith("```")
        if fence or fenced or not line.strip() or line.startswith("    "):
            if block:
                yield number - len(block), "\n".join(block)
                block = []
            fenced ^= fence
        else:
            block.append(line)


def _of_lines(file: Path, pattern: re.Pattern[str]) -> Iterator[Prose]:
    """What the pattern finds, lines that follow each other as one block."""
    block: list[str] = []
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate([*lines, ""], 1):
        match = pattern.search(line)
        if match:
            block.append(match[1])
        elif block:
            yield number - len(block), "\n".join(block)
            block = []
