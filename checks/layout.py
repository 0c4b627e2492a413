"""Rules for the layout: which modules may lie at the top of the package, that each package says what it is,
that tests mirror the packages, and how long a module or a function may be before its docstring has to give
the reason.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from checks.source import modules

#: Modules that every package may import and that belong to none (ARCHITECTURE.md, "The map").
LEAVES = {
    "bounded_cache",
    "descriptors",
    "__init__",
    "__main__",
    "errors",
    "headers",
    "log",
    "platforms",
    "private_files",
    "quoting",
    "settings",
    "tasks",
    "timestamps",
    "token_bucket",
    "yaml_text",
}
#: Folders of tests that mirror no package: whole systems, attacks, documents, packages, and what tests share.
TIERS = {
    "abuse",
    "checks",
    "conformance",
    "docs",
    "e2e",
    "envoy",
    "istio",
    "lua",
    "packaging",
    "sso",
    "support",
    "tracers",
}
MAX_MODULE_LINES = 350
MAX_FUNCTION_LINES = 40
#: How a docstring or a comment in the function gives the reason: "Longer than 40 lines: ...".
REASON = "Longer than "


def problems(root: Path, paths: Iterable[Path]) -> Iterator[str]:
    """One line for each violation below `paths`, as "file:line: what is wrong"."""
    paths = list(paths)
    for name, text in modules(root, "devroute", paths):
        file = root / name
        if file.parent == root / "devroute" and file.stem not in LEAVES:
            yield f"{name}:1: a module at the top of the package; move it into its package (ARCHITECTURE.md)"
        if file.name == "__init__.py" and not ast.get_docstring(ast.parse(text)):
            yield f"{name}:1: a package without a docstring; say what it is, what it owns, and where to start"
        yield from long_parts(name, text)
    for name, _ in modules(root, "tests", paths):
        file = root / name
        if file.name.startswith("test_") and (problem := _misplaced(root, file)):
            yield f"{name}:1: {problem}"


def _misplaced(root: Path, file: Path) -> str | None:
    """What is wrong with the place of a test module, if anything is."""
    folder = file.parent.relative_to(root / "tests")
    if not folder.parts:
        leaf = file.stem.removeprefix("test_")
        return None if leaf in LEAVES else "tests of no leaf module; move it into its package or tier"
    if folder.parts[0] in TIERS or (root / "devroute" / folder / "__init__.py").exists():
        return None
    return f"there is no devroute/{folder.as_posix()}/ whose tests these could be, and no such tier"


def long_parts(name: str, text: str) -> Iterator[str]:
    """The module and those of its functions that are too long and give no reason."""
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
