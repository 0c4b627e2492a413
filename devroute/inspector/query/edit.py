"""Changes the text of a query: completion, and terms that are switched on and off."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final, NamedTuple

from devroute.errors import QueryInvalid
from devroute.inspector.capture import Capture
from devroute.inspector.query.fields import FIELDS, values_of
from devroute.inspector.query.syntax import Term, terms, written

#: Suggestions at a time.
MAX_SUGGESTIONS: Final = 12


class Suggestion(NamedTuple):
    """`before` and `after`: the whole query around the cursor. `label`: the suggestion; `words` about it."""

    before: str
    after: str
    label: str
    words: str


def suggestions(before: str, after: str, captures: Callable[[], Iterable[Capture]]) -> list[Suggestion]:
    """What the term at the cursor, between `before` and `after`, can become. Raises QueryInvalid."""
    found = terms(before)
    term = found[-1] if found and found[-1].end == len(before) else None
    if term is not None and term.field in FIELDS:
        options = values_of(term.field, captures())
        return [*_values(before, after, term, options)][:MAX_SUGGESTIONS]
    typed = "" if term is None else before[term.values_at :]
    if term is not None and term.field:
        return []
    head = before[: len(before) - len(typed)]
    return [
        Suggestion(f"{head}{name}:", after, f"{name}:", field.words)
        for name, field in FIELDS.items()
        if name.startswith(typed.lower())
    ][:MAX_SUGGESTIONS]


def _values(before: str, after: str, term: Term, options: list[tuple[str, str]]) -> Iterable[Suggestion]:
    """The values that hold what was typed of the last one; first those that begin with it."""
    typed = term.values[-1].lower()
    head = before[: term.values_at] + "".join(written(value) + "," for value in term.values[:-1])
    # The cursor may be inside a word, which the suggestion replaces.
    rest = after.lstrip() if after[:1].isspace() or not after else after.partition(" ")[2]
    for value, words in sorted(options, key=lambda option: not option[0].lower().startswith(typed)):
        if typed in value.lower() and value not in term.values[:-1]:
            yield Suggestion(f"{head}{written(value)} ", rest, value, words)


def switched(text: str, field: str, value: str, *, negated: bool = False) -> str:
    """The query with `field:value` added to it as an alternative, or without it if it has it. Raises
    QueryInvalid."""
    if field not in FIELDS or not value:
        raise QueryInvalid(f"there is no field '{field}:'" if value else f"'{field}:' has no value")
    for term in terms(text):
        if term.field == field and term.negated == negated:
            left = tuple(each for each in term.values if each.lower() != value.lower())
            if len(left) == len(term.values):
                left = (*(each for each in left if each), value)
            changed = str(replace(term, values=left)) if left else ""
            parts = (text[: term.start].strip(), changed, text[term.end :].strip())
            return " ".join(filter(None, parts))
    added = f"{'-' if negated else ''}{field}:{written(value)}"
    return f"{text.strip()} {added}".strip()
