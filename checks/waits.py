"""The rule that tests wait for what happens, never for an amount of time: `asyncio.sleep(0)` alone."""

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

from checks.source import modules

ADVICE = "wait for what is to happen: eventually() or quiet() of tests/support/eventually.py"
#: Files that may sleep, and why.
EXCEPTIONS = {
    "tests/support/eventually.py": "looks again after a pause",
    "tests/abuse/test_in_flight.py": "an app that sends slowly",
    "tests/agent/test_network.py": "a slow network, and a silence after which the proxy pings",
    "tests/e2e/test_rolling_restart.py": "the pace of a client",
    "tests/istio/app.py": "an app that is slow on request",
    "tests/istio/changes.py": "looks again after a pause",
    "tests/istio/kubernetes.py": "looks again after a pause",
    "tests/upstream/test_http1_pool.py": "clients that return as an app closes their idle connections",
}


def problems(root: Path, paths: Iterable[Path]) -> Iterator[str]:
    """One line for each wait below `paths` that has no exception, as "file:line: what is wrong"."""
    for name, text in modules(root, "tests", paths):
        if name not in EXCEPTIONS:
            for line in sleeps(text):
                yield f"{name}:{line}: {ADVICE}"


def sleeps(text: str) -> list[int]:
    """The lines that call asyncio.sleep with anything but 0."""
    return sorted(
        node.lineno
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "asyncio.sleep"
        and not (node.args and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0)
    )
