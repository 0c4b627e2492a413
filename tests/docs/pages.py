"""The pages for users, and what they show: commands, files, links and inline code.

A line in an indented block is a command; output, diagrams and code stand in fenced blocks that name their
language.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.paths import ROOT

#: All that a reader finds from README on. Wire protocols and notes for developers show no commands.
PAGES = [
    ROOT / "README.md",
    *(each for name in ("CONTRIBUTING.md", "SECURITY.md") if (each := ROOT / name).exists()),
    *sorted((ROOT / "docs").glob("*.md")),
]
#: Languages of fenced blocks that hold no commands. A fence needs one: else its lines would escape the tests.
LANGUAGES = {"csharp", "go", "html", "java", "js", "json", "php", "python", "ruby", "text", "yaml"}

_FENCE = re.compile(r"^ *```(?P<language>\S*)\n(?P<text>.*?)^ *```$", re.DOTALL | re.MULTILINE)
_COMMENT = re.compile(r"""(?:[^\s'"]|'[^']*'|"[^"]*"|\s(?!\s*#))*""")
_SLUG = re.compile(r"[^\w\- ]")


@dataclass(frozen=True)
class Command:
    """One line of a page's indented block, without its comment."""

    page: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}: {self.text}"


def commands(page: Path) -> list[Command]:
    """In their order on the page."""
    lines = _without_fences(page.read_text(encoding="utf-8")).splitlines()
    found = [(number, line) for number, line in enumerate(lines, 1) if re.match(r" {4,}\S", line)]
    return [Command(page, number, without_comment(line)) for number, line in found]


def without_comment(line: str) -> str:
    """The line up to a `#` that follows a space outside of quotes."""
    match = _COMMENT.match(line.strip())
    assert match is not None
    return match[0].rstrip()


def languages(page: Path) -> list[str]:
    return [match["language"] for match in _FENCE.finditer(page.read_text(encoding="utf-8"))]


def code(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in their order."""
    text = page.read_text(encoding="utf-8")
    return [match["text"] for match in _FENCE.finditer(text) if match["language"] == language]


def files(page: Path) -> dict[str, str]:
    """The YAML files that a page shows: blocks whose first line is their name in a comment."""
    blocks = code(page, "yaml")
    return {match[1]: block for block in blocks if (match := re.match(r"# ([\w.-]+\.yaml)\n", block))}


def inline_code(page: Path) -> Iterator[str]:
    text = _without_fences(page.read_text(encoding="utf-8"))
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Targets and fragments of the links to files of this repository."""
    text = re.sub(r"`[^`\n]*`", "", _without_fences(page.read_text(encoding="utf-8")))
    for target in re.findall(r"(?:\]\(|src=\"|srcset=\")([^)\"\s]+)", text):
        if not re.match(r"[a-z]+:", target):
            path, _, fragment = target.partition("#")
            yield path, fragment


def anchors(page: Path) -> set[str]:
    """The fragments of a page's headings, as the usual renderers of Markdown make them."""
    titles = re.findall(r"^#+ (.*)$", _without_fences(page.read_text(encoding="utf-8")), re.MULTILINE)
    return {_SLUG.sub("", re.sub(r"`|\]\([^)]*\)", "", title).lower()).replace(" ", "-") for title in titles}


def _without_fences(text: str) -> str:
    """With empty lines in their place, so that numbers of lines stay."""
    return _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
