"""What the rules read: the Python files below given paths, and the docstrings in a file."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path


def modules(root: Path, folder: str, paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    """The Python files of `folder` that are below `paths`: each one's name, from `root` on, and its text."""
    paths = list(paths)
    for file in sorted((root / folder).rglob("*.py")):
        if any(file.is_relative_to(path) for path in paths):
            yield file.relative_to(root).as_posix(), file.read_text(encoding="utf-8")


def docstrings(tree: ast.AST) -> set[ast.expr]:
    """The literals that are docstrings."""
    return {
        node.body[0].value  # type: ignore[attr-defined]
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
    }
