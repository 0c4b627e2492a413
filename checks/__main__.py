"""`python -m checks [PATH ...]`: every rule over the whole checkout, or over the paths that are given."""

import sys
from pathlib import Path

from checks import layout, tasks, waits, words

ROOT = Path(__file__).parents[1]


def main(arguments: list[str]) -> int:
    paths = [Path(argument).resolve() for argument in arguments] or [ROOT]
    problems = [problem for rules in (layout, tasks, waits, words) for problem in rules.problems(ROOT, paths)]
    print("\n".join(problems) if problems else "checks: no problems")
    return 1 if problems else 0


sys.exit(main(sys.argv[1:]))
