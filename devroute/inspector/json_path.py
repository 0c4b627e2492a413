"""JSON paths, as in rules: `$.user.id`, `$.items[*].id`, `$..token`, `$['odd name']`. Pure."""

import re
from collections.abc import Iterable
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

    def start(self) -> set[int]:
        """The possible numbers of matched steps at the root."""
        return self._skip({0})

    def step(self, reached: set[int], part: str | int) -> set[int]:
        """Those one part below the place at which they are `reached`."""
        steps = self._steps
        after: set[int] = set()
        for taken in reached:
            if taken == len(steps):
                continue
            step = steps[taken]
            if step is DEEP:
                after.add(taken)
            elif step is ANY or step == part:
                after.add(taken + 1)
        return self._skip(after) if after else after

    def is_end(self, reached: set[int]) -> bool:
        return len(self._steps) in reached

    def _skip(self, reached: set[int]) -> set[int]:
        """Adds the steps after each DEEP, which may match nothing."""
        steps = self._steps
        for taken in tuple(reached):
            if taken < len(steps) and steps[taken] is DEEP:
                reached.add(taken + 1)
        return reached


class PathMatcher:
    """Matches the locations of one document with paths. A location costs only the parts that its container
    does not have in common with that of the one before, since strangers choose how deep it is."""

    __slots__ = ("_parts", "_paths", "_reached")

    def __init__(self, paths: Iterable[JsonPath]) -> None:
        self._paths = tuple(paths)
        self._parts: list[str | int] = []  # of the current container's location
        self._reached = [[path.start() for path in self._paths]]  # by each path, after each part

    def enter(self, part: str | int) -> None:
        """Go to the container that is this part of the current one."""
        self._parts.append(part)
        self._reached.append(self._step(part))

    def leave(self) -> None:
        del self._parts[-1], self._reached[-1]

    def matches_part(self, part: str | int | None) -> bool:
        """Whether one of the paths matches this part of the current container; None: the container."""
        reached = self._reached[-1] if part is None else self._step(part)
        return any(map(JsonPath.is_end, self._paths, reached))

    def matches(self, location: Location) -> bool:
        """Whether one of the paths matches this location. Values below it are not matched."""
        if not self._paths:
            return False
        common = 0
        for part, entered in zip(location[:-1], self._parts, strict=False):
            if part != entered:
                break
            common += 1
        while len(self._parts) > common:
            self.leave()
        for part in location[common:-1]:
            self.enter(part)
        return self.matches_part(location[-1] if location else None)

    def _step(self, part: str | int) -> list[set[int]]:
        reached = self._reached[-1]
        return [path.step(each, part) for path, each in zip(self._paths, reached, strict=True)]


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
