"""Edits of YAML files that people edit as well: one setting or list item changes, and nothing else does.

The strict reader (yaml_text.py) says where each node stands, so nothing here parses YAML. Every edit is read
again: it holds exactly what was asked for, or is refused. Pure.
"""

from collections.abc import Collection, Mapping
from typing import Final

import yaml

from devroute.errors import ConfigInvalid
from devroute.yaml_text import read_document

#: Columns after which PyYAML would fold a value; no setting is as long.
_WIDTH: Final = 1 << 20


def with_settings(text: str, values: Mapping[str, object], source: str) -> str:
    """The text with these settings at its top level; None removes one. Raises ConfigInvalid."""
    document, _ = read_document(text, source)
    wanted = {**(document if isinstance(document, dict) else {}), **values}
    edited = text
    for key, value in values.items():
        _, root = read_document(edited, source)
        edited = _with_setting(edited, root, key, value)
    kept = {key: value for key, value in wanted.items() if key not in values or value is not None}
    return _verified(edited, kept or None, source, f"set {', '.join(values)}")


def without_items(text: str, positions: Collection[int], source: str) -> str:
    """The text of a list without the items at these positions. Raises ConfigInvalid."""
    document, root = read_document(text, source)
    items = root.value if isinstance(root, yaml.SequenceNode) else []
    edited = text
    for position in sorted(positions, reverse=True):
        edited = _without_lines(edited, items[position].start_mark.index, _end(items[position]))
    listed = document if isinstance(document, list) else []
    kept = [item for position, item in enumerate(listed) if position not in positions]
    return _verified(edited, kept or None, source, "edit it")


def _with_setting(text: str, root: yaml.Node | None, key: str, value: object) -> str:
    pairs = root.value if isinstance(root, yaml.MappingNode) and not root.flow_style else []
    found = next(((name, old) for name, old in pairs if name.value == key), None)
    if value is None:
        return text if found is None else _without_lines(text, found[0].start_mark.index, _end(found[1]))
    written = yaml.safe_dump({key: value}, allow_unicode=True, sort_keys=False, width=_WIDTH).rstrip("\n")
    if found is None:
        return text + ("\n" if text and not text.endswith("\n") else "") + written + "\n"
    start, end = found[0].start_mark.index, _end(found[1])
    return text[:start] + written + ("\n" if text[end - 1] == "\n" else "") + text[end:]


def _end(node: yaml.Node) -> int:
    """The position after a node's text. A block's own end mark is after the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _without_lines(text: str, start: int, end: int) -> str:
    first = text.rfind("\n", 0, start) + 1
    after = end if text[end - 1] == "\n" else text.find("\n", end) + 1
    return text[:first] + (text[after:] if after else "")


def _verified(text: str, wanted: object, source: str, remedy: str) -> str:
    try:
        if (read_document(text, source)[0] or None) == wanted:
            return text
    except ConfigInvalid:
        pass
    raise ConfigInvalid(
        f"{source}: cannot be edited without changing other parts of it", hint=f"{remedy} by hand"
    )
