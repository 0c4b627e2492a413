"""Rules for the layout of the package: which modules may lie at its top, and how long a module or a function
may be before its docstring has to give the reason.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

#: Modules that every room may import and that belong to none (ARCHITECTURE.md, "The map").
LEAVES = {
    "__init__",
    "__main__",
    "errors",
    "headers",
    "log",
    "platforms",
    "quoting",
    "settings",
    "tasks",
    "token_bucket",
    "yaml_text",
}
MAX_MODULE_LINES = 350
MAX_FUNCTION_LINES = 40
#: How a docstring or a comment in the function gives the reason: "Longer than 40 lines: ...".
REASON = "Longer than "


def problems(root: Path, paths: Iterable[Path]) -> Iterator[str]:
    """One line for each violation below `paths`, as "file:line: what is wrong"."""
    package = root / "devroute"
    for file in sorted(package.rglob("*.py")):
        if not any(file.is_relative_to(path) for path in paths):
            continue
        name = file.relative_to(root)
        if file.parent == package and file.stem not in LEAVES:
            yield f"{name}:1: a module at the top of the package; move it into its room (ARCHITECTURE.md)"
        yield from _lengths(str(name), file.read_text(encoding="utf-8"))


def _lengths(name: str, text: str) -> Iterator[str]:
    tree = ast.parse(text)
    lines = text.splitlines()
    if len(lines) > MAX_MODULE_LINES and REASON not in (ast.get_docstring(tree) or ""):
        yield f"{name}:1: {len(lines)} lines; split it, or say why in its docstring: '{REASON}350 lines: …'"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            source = "\n".join(lines[node.lineno - 1 : node.end_lineno])
            if length > MAX_FUNCTION_LINES and REASON not in source:
                yield (
                    f"{name}:{node.lineno}: {node.name} has {length} lines; split it, or say why:"
                    f" '{REASON}40 lines: …'"
                )
