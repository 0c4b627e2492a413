"""JSON paths, as in rules: `$.user.id`, `$.items[*].id`, `$..token`, `$['odd name']`. Pure."""

import re
from typing import Final

from devroute.errors import ConfigInvalid

#: A step that matches every key and index.
ANY: Final = object()
#: Matches any number of steps, including none.
DEEP: Final = object()

Step = str | int | object
#: The location of a value in a document: keys and indexes from the root.
Location = tuple[str | int, ...]

_STEP = re.compile(
    r"""(?P<deep>\.\.)(?=[\w*\[-])|\.?(?P<any>\*|\[\*\])|\.?(?P<name>[\w-]+)|\[(?P<index>\d{1,9})\]"""
    r"""|\['(?P<single>[^']*)'\]|\["(?P<double>[^"]*)"\]"""
)
_PLAIN = re.compile(r"[\w-]+")

#: Steps of one path: more than a useful rule has.
MAX_STEPS: Final = 64


class JsonPath:
    """A pattern of locations. `last`: the key of the values that it matches, None for any."""

    __slots__ = ("_steps", "last", "text")

    def __init__(self, text: str, steps: tuple[Step, ...]) -> None:
        self.text = text
        self._steps = steps
        last = steps[-1] if steps else None
        self.last = last if isinstance(last, str) else None

    @classmethod
    def parse(cls, text: str) -> "JsonPath":
        """Raises ConfigInvalid naming the path."""
        if not text.startswith("$"):
            raise ConfigInvalid(f"{text!r} is not a path: a path starts with $", hint="such as $.items[*].id")
        steps: list[Step] = []
        at = 1
        while at < len(text):
            match = _STEP.match(text, at)
            if match is None or len(steps) >= MAX_STEPS or (text[at] not in ".[" and steps[-1:] != [DEEP]):
                raise ConfigInvalid(
                    f"{text!r} is not a path: syntax error at {text[at : at + 20]!r}",
                    hint="such as $.timestamp, $.items[*].id, $..token, $['odd name']",
                )
            at = match.end()
            kind = match.lastgroup
            if kind == "deep":
                steps.append(DEEP)
            elif kind == "any":
                steps.append(ANY)
            elif kind == "index":
                steps.append(int(match["index"]))
            elif kind is not None:
                steps.append(match[kind])
        if steps and steps[-1] is DEEP:
            raise ConfigInvalid(f"{text!r} is not a path: a name is missing after '..'")
        return cls(text, tuple(steps))

    def matches(self, location: Location) -> bool:
        """Whether the path matches this location. Values below it are not matched."""
        reached = {0}  # the possible numbers of matched steps; needs no recursion
        steps = self._steps
        size = len(steps)
        reached = self._skip(reached)
        for part in location:
            after: set[int] = set()
            for taken in reached:
                if taken == size:
                    continue
                step = steps[taken]
                if step is DEEP:
                    after.add(taken)
                elif step is ANY or step == part:
                    after.add(taken + 1)
            reached = self._skip(after)
            if not reached:
                return False
        return size in reached

    def _skip(self, reached: set[int]) -> set[int]:
        """Adds the steps after each DEEP, which may match nothing."""
        steps = self._steps
        more = {taken + 1 for taken in reached if taken < len(steps) and steps[taken] is DEEP}
        return reached | more


def format_path(location: Location) -> str:
    """The path that matches this location only."""
    parts = ["$"]
    for part in location:
        if isinstance(part, int):
            parts.append(f"[{part}]")
        elif _PLAIN.fullmatch(part):
            parts.append(f".{part}")
        else:
            parts.append(f'["{part}"]' if "'" in part else f"['{part}']")
    return "".join(parts)
