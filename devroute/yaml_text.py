"""The strict reader of every YAML file: it returns a document or raises ConfigInvalid. Pure.

PyYAML limits neither nesting nor aliases: its Python parser ends in RecursionError, its C parser crashes the
process, and ten lines of aliases expand without end. A value that does not fit its tag (`!!bool maybe`)
raises various errors.
"""

from dataclasses import dataclass
from typing import Any, Final

import yaml

from devroute.errors import ConfigInvalid
from devroute.quoting import quote

#: Nested lists and mappings: a policy needs five, a large Deployment some twenty, and both parsers manage
#: several times as many.
MAX_DEPTH: Final = 64

#: Values to which all aliases of a text expand: a list that ten others share needs hundreds.
MAX_ALIASED: Final = 10_000

LOADER: Final[type[Any]] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where available

#: Errors of PyYAML's constructors for a value that does not fit its tag.
_WRONG_VALUE: Final = (ValueError, KeyError, IndexError, AttributeError, TypeError)


@dataclass(slots=True)
class _Begun:
    """A list or mapping that is being read: the count of values before it, and its depth so far."""

    anchor: str | None
    before: int
    depth: int = 1


def read_document(text: str, source: str, *, quotes: bool = False) -> tuple[object, yaml.Node | None]:
    """A file's document (None if it is empty), and its root node, whose marks are positions in the text.

    A repeated key is refused: YAML would silently use the last one. Raises ConfigInvalid that names the file.
    `quotes`: it may quote the text, which holds no secrets.
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


def line_of(root: yaml.Node | None, key: str, index: int) -> int:
    """The line, from 1 on, of an item of the list below a key of the root, or else of what there is of it."""
    found = root
    if isinstance(root, yaml.MappingNode):
        found = next((value for name, value in root.value if name.value == key), root)
    if isinstance(found, yaml.SequenceNode) and index < len(found.value):
        found = found.value[index]
    return 1 if found is None else found.start_mark.line + 1


def read_documents(
    text: str, source: str, loader: type[Any] = LOADER, *, quotes: bool = True
) -> list[object]:
    """All documents of a text. Raises ConfigInvalid that names `source`; it may quote the text if that has no
    secrets (`quotes`)."""
    try:
        _refuse_bombs(text, source)
        return list(yaml.load_all(text, Loader=loader))  # a safe one, or a subclass
    except (yaml.YAMLError, *_WRONG_VALUE) as error:
        raise _invalid(error, source, quotes) from None


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
    return ConfigInvalid(f"{source}: not valid YAML: a value does not fit its type")


def _refuse_bombs(text: str, source: str) -> None:
    """Refuse excessive nesting and aliases, also in combination: a few lines can expand to any number of
    values."""
    known: dict[str | None, tuple[int, int]] = {}  # size and depth of each anchor, with its aliases expanded
    begun: list[_Begun] = []
    size = added = 0
    for event in yaml.parse(text, Loader=LOADER):
        below = 0
        if isinstance(event, yaml.CollectionStartEvent):
            begun.append(_Begun(event.anchor, size))
            if event.anchor is not None:
                known[event.anchor] = (MAX_ALIASED + 1, 0)  # an alias inside its own anchor is infinite
            size += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            done = begun.pop()
            below = done.depth
            if done.anchor is not None:
                known[done.anchor] = (size - done.before, below)
        elif isinstance(event, yaml.AliasEvent):
            more, below = known.get(event.anchor, (0, 0))  # unknown anchors are reported later
            size, added = size + more, added + more
        elif isinstance(event, yaml.ScalarEvent):
            size += 1
            if event.anchor is not None:
                known[event.anchor] = (1, 0)
        elif isinstance(event, yaml.DocumentStartEvent):
            known.clear()
        if begun:
            begun[-1].depth = max(begun[-1].depth, below + 1)
        if len(begun) + below > MAX_DEPTH or added > MAX_ALIASED:
            line = event.start_mark.line + 1 if event.start_mark else 0
            problem = "aliases expand to too many values" if added > MAX_ALIASED else "nested too deeply"
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
                    raise ConfigInvalid(f"{source}:{line}: {name} appears twice; keep one of them")
                names.add(key.value)
