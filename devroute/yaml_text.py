"""YAML texts that people wrote, read the same way for every file: to a document, or to ConfigInvalid. Pure.

PyYAML has no limit for what is nested, nor for what aliases stand for: its parser in Python ends in
RecursionError, the one in C takes the process with it, and who walks through ten lines of aliases never comes
to an end. And what stands behind a wrong tag (`!!bool maybe`) ends in whatever error comes first.
"""

from dataclasses import dataclass
from typing import Any, Final

import yaml

from devroute.errors import ConfigInvalid
from devroute.quoting import quote

#: Lists and mappings inside each other: a policy needs five, a Deployment with everything some twenty, and
#: both parsers can do several times as many.
MAX_DEPTH: Final = 64

#: Values that all aliases of a text together stand for: a list that ten others share needs hundreds.
MAX_ALIASED: Final = 10_000

LOADER: Final[type[Any]] = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # ten times as fast, where it was built

#: What PyYAML's constructors raise where a value is not of the type that its tag says.
_WRONG_VALUE: Final = (ValueError, KeyError, IndexError, AttributeError, TypeError)


@dataclass(slots=True)
class _Begun:
    """A list or mapping that is being read: what stood before it, and how deep it is so far."""

    anchor: str | None
    before: int
    depth: int = 1


def read_document(text: str, source: str, *, quotes: bool = False) -> tuple[object, yaml.Node | None]:
    """A file's document (None if it is empty), and its nodes, whose marks say where things are.

    A key that is there twice is refused: YAML would let the second one win, in silence. Raises ConfigInvalid
    naming the file; `quotes`: it may quote the text, which holds no secret.
    """
    try:
        _refuse_bombs(text, source)
        loader = LOADER(text)
        node = loader.get_single_node()
        if node is None:
            return None, None
        _refuse_repeated(node, source)
        return loader.construct_document(node), node
    except (yaml.YAMLError, *_WRONG_VALUE) as error:
        raise _invalid(error, source, quotes) from None


def read_documents(text: str, source: str, loader: type[Any] = LOADER) -> list[object]:
    """All documents of a text without secrets. Raises ConfigInvalid naming `source`."""
    try:
        _refuse_bombs(text, source)
        return list(yaml.load_all(text, Loader=loader))  # a safe one, or a subclass
    except (yaml.YAMLError, *_WRONG_VALUE) as error:
        raise _invalid(error, source, True) from None


def _invalid(error: Exception, source: str, quotes: bool) -> ConfigInvalid:
    if isinstance(error, yaml.YAMLError):
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        return ConfigInvalid(
            f"{source}: not valid YAML: {' '.join(str(error).split())}"
            if quotes
            else f"{source}: not valid YAML{place}"
        )
    if quotes and isinstance(error, ValueError):
        return ConfigInvalid(f"{source}: not valid YAML: {error}")
    return ConfigInvalid(f"{source}: not valid YAML: a value that is not of its type")


def _refuse_bombs(text: str, source: str) -> None:
    """What is nested too deeply, and aliases that stand for too much, each in the other: a few lines are as
    many values as one likes, for whoever walks through them."""
    known: dict[str | None, tuple[int, int]] = {}  # an anchor's size and depth, with all that aliases add
    begun: list[_Begun] = []
    size = added = 0
    for event in yaml.parse(text, Loader=LOADER):
        below = 0
        if isinstance(event, yaml.CollectionStartEvent):
            begun.append(_Begun(event.anchor, size))
            if event.anchor is not None:
                known[event.anchor] = (MAX_ALIASED + 1, 0)  # in itself, it has no end
            size += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            done = begun.pop()
            below = done.depth
            if done.anchor is not None:
                known[done.anchor] = (size - done.before, below)
            if begun:
                begun[-1].depth = max(begun[-1].depth, below + 1)
        elif isinstance(event, yaml.AliasEvent):
            more, below = known.get(event.anchor, (0, 0))  # what is not there, is found out later
            size, added = size + more, added + more
            if begun:
                begun[-1].depth = max(begun[-1].depth, below + 1)
        elif isinstance(event, yaml.ScalarEvent):
            size += 1
            if event.anchor is not None:
                known[event.anchor] = (1, 0)
        elif isinstance(event, yaml.DocumentStartEvent):
            known.clear()
        if len(begun) + below > MAX_DEPTH or added > MAX_ALIASED:
            line = event.start_mark.line + 1 if event.start_mark else 0
            problem = "aliases stand for too much" if added > MAX_ALIASED else "nested too deeply"
            raise ConfigInvalid(f"{source}:{line}: {problem}")


def _refuse_repeated(node: yaml.Node, source: str) -> None:
    waiting, seen = [node], set()
    while waiting:
        each = waiting.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, yaml.SequenceNode):
            waiting += each.value
        elif isinstance(each, yaml.MappingNode):
            names = set()
            for key, value in each.value:
                waiting.append(value)
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if key.value in names:
                    line, name = key.start_mark.line + 1, quote(key.value)
                    raise ConfigInvalid(f"{source}:{line}: {name} is there twice; keep one of them")
                names.add(key.value)
