"""YAML texts that people wrote, read the same way for every file: to a document, or to ConfigInvalid. Pure.

PyYAML has no limit for what is nested: its parser in Python ends in RecursionError, the one in C takes the
process with it. And what stands behind a wrong tag (`!!bool maybe`) ends in whatever error comes first.
"""

from typing import Any, Final

import yaml

from devroute.errors import ConfigInvalid
from devroute.target import quote

#: Lists and mappings inside each other: a policy needs five, a Deployment with everything some twenty, and
#: both parsers can do several times as many.
MAX_DEPTH: Final = 64

LOADER: Final[type[Any]] = getattr(
    yaml, "CSafeLoader", yaml.SafeLoader
)  # ten times as fast, where it was built

#: What PyYAML's constructors raise where a value is not of the type that its tag says.
_WRONG_VALUE: Final = (ValueError, KeyError, IndexError, AttributeError, TypeError)


def single(text: str, source: str, *, quotes: bool = False) -> tuple[object, yaml.Node | None]:
    """A file's document (None if it is empty), and its nodes, whose marks say where things are.

    A key that is there twice is refused: YAML would let the second one win, in silence. Raises ConfigInvalid
    naming the file; `quotes`: it may quote the text, which holds no secret.
    """
    try:
        _refuse_deep(text, source)
        loader = LOADER(text)
        node = loader.get_single_node()
        if node is None:
            return None, None
        _refuse_repeated(node, source)
        return loader.construct_document(node), node
    except (yaml.YAMLError, *_WRONG_VALUE) as error:
        raise _invalid(error, source, quotes) from None


def several(text: str, source: str, loader: type[Any] = LOADER) -> list[object]:
    """All documents of a text without secrets. Raises ConfigInvalid naming `source`."""
    try:
        _refuse_deep(text, source)
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


def _refuse_deep(text: str, source: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                line = event.start_mark.line + 1 if event.start_mark else 0
                raise ConfigInvalid(f"{source}:{line}: nested too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


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
