"""Text that depends on conditions, as the templates of a Helm chart write it. Pure.

The same document, generated once for each case, becomes one text with `if` around the lines that differ.

Whatever the alignment of the lines is, a case that is chosen yields exactly the text that it was given.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class If:
    """Lines for where `condition`, an expression of Go's templates, is true, and for where it is not."""

    condition: str
    then: "Block"
    otherwise: "Block"


#: Lines without their ends, and conditions among them.
Block = tuple["str | If", ...]


def either(condition: str, then: Block, otherwise: Block) -> Block:
    """Both texts in one, with the lines that they share written once."""
    if then == otherwise:
        return then
    merged: list[str | If] = []
    matcher = SequenceMatcher(None, then, otherwise, autojunk=False)
    for kind, start, end, other_start, other_end in matcher.get_opcodes():
        if kind == "equal":
            merged.extend(then[start:end])
        else:
            merged.append(If(condition, then[start:end], otherwise[other_start:other_end]))
    return tuple(merged)


def one_of(cases: Sequence[tuple[str, Block]]) -> Block:
    """The text of the first case whose condition is true; the last one needs none."""
    *rest, (_, merged) = cases
    for condition, block in reversed(rest):
        merged = either(condition, block, merged)
    return merged


def resolve(block: Block, truth: Mapping[str, bool]) -> list[str]:
    """The lines that remain where conditions are true or false."""
    lines: list[str] = []
    for each in block:
        if isinstance(each, If):
            lines += resolve(each.then if truth[each.condition] else each.otherwise, truth)
        else:
            lines.append(each)
    return lines


def write(block: Block) -> str:
    """As a template. A control line takes away the line break before it, and blank lines too. Raises
    ValueError for a blank line that would be lost."""
    lines = _written(block)
    for before, line in pairwise(lines):
        if line.startswith("{{-") and not before.strip():
            raise ValueError(f"a blank line before {line} would be lost")
    return "".join(f"{line}\n" for line in lines)


def _written(block: Block) -> list[str]:
    lines: list[str] = []
    for each in block:
        if isinstance(each, str):
            lines.append(each)
        elif each.then:
            lines += [f"{{{{- if {each.condition} }}}}", *_written(each.then), *_else(each.otherwise)]
        else:
            lines += [f"{{{{- if not ({each.condition}) }}}}", *_written(each.otherwise), "{{- end }}"]
    return lines


def _else(otherwise: Block) -> list[str]:
    match otherwise:
        case ():
            return ["{{- end }}"]
        case (If(condition, then, rest),) if then:
            return [f"{{{{- else if {condition} }}}}", *_written(then), *_else(rest)]
    return ["{{- else }}", *_written(otherwise), "{{- end }}"]
