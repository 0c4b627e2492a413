"""`python -m checks [PATH ...]`: every rule over the whole checkout, or over the paths that are given."""

import sys
from pathlib import Path

from checks import layout, names, tasks, waits, words

ROOT = Path(__file__).parents[1]


def main(arguments: list[str]) -> int:
    paths = [Path(argument).resolve() for argument in arguments] or [ROOT]
    rules = (layout, names, tasks, waits, words)
    problems = [problem for rule in rules for problem in rule.problems(ROOT, paths)]
    print("\n".join(problems) if problems else "checks: no problems")
    return 1 if problems else 0


sys.exit(main(sys.argv[1:]))
