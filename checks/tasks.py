"""The rule that every task has an owner. Ruff cannot check it: its ban knows imported names only, and
`loop.create_task` is a method of a value.
"""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from checks.source import modules

#: The module that may start tasks for others.
OWNER = "devroute/tasks.py"
ADVICE = "a task needs an owner: start it in an asyncio.TaskGroup or by a devroute.tasks.TaskOwner"
_STARTS = {"create_task", "ensure_future"}


def problems(root: Path, paths: Iterable[Path]) -> Iterator[str]:
    """One line for each task below `paths` that has no owner, as "file:line: what is wrong"."""
    for name, text in modules(root, "devroute", paths):
        if name != OWNER:
            for line in loose_tasks(text):
                yield f"{name}:{line}: {ADVICE}"


def loose_tasks(text: str) -> list[int]:
    """The lines that start a task by anything but a name that `async with TaskGroup() as name` bound."""
    tree = ast.parse(text)
    groups = {
        item.optional_vars.id
        for node in ast.walk(tree)
        if isinstance(node, ast.AsyncWith)
        for item in node.items
        if isinstance(item.optional_vars, ast.Name) and _called(item.context_expr) == "TaskGroup"
    }
    return sorted(
        node.lineno
        for node in ast.walk(tree)
        if _called(node) in _STARTS
        and not (isinstance(node.func, ast.Attribute) and _name(node.func.value) in groups)  # type: ignore[attr-defined]
    )


def _called(node: ast.AST) -> str | None:
    """The last part of the name of what is called."""
    if not isinstance(node, ast.Call):
        return None
    return node.func.attr if isinstance(node.func, ast.Attribute) else _name(node.func)


def _name(node: ast.AST) -> str | None:
    return node.id if isinstance(node, ast.Name) else None
