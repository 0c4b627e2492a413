"""The rule that each header name of devroute's own is spelled once: devroute/headers.py has them all.

Reads literals only. What people read may name a header: docstrings, sentences, and the spelling `X-devroute`.
"""

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from checks.source import docstrings, modules

#: The module that spells the names.
OWNER = "devroute/headers.py"
ADVICE = "a header name spelled out; use its constant of devroute/headers.py"
_NAME = re.compile(r"(?<![0-9a-z-])x-devroute")
_AT_START = re.compile(r"\W*x-devroute")


def problems(root: Path, paths: Iterable[Path]) -> Iterator[str]:
    """One line for each header name that is spelled out below `paths`, as "file:line: what is wrong"."""
    for name, text in modules(root, "devroute", paths):
        if name != OWNER:
            for line in spelled_names(text):
                yield f"{name}:{line}: {ADVICE}"


def spelled_names(text: str) -> list[int]:
    """The lines with a literal that is, or begins with, a header name of devroute's own."""
    tree = ast.parse(text)
    documented = docstrings(tree)
    return sorted(
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node not in documented and _is_name(node.value)
    )


def _is_name(value: object) -> bool:
    """Bytes are read by programs only; text with a space is a sentence, unless it begins with a name."""
    if isinstance(value, bytes):
        return _NAME.search(value.decode("latin-1")) is not None
    if not isinstance(value, str):
        return False
    return _AT_START.match(value) is not None or (" " not in value and _NAME.search(value) is not None)
