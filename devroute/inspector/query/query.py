"""Parses a query, and says which captures match it."""

from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches

from devroute.errors import QueryInvalid
from devroute.inspector.capture import Capture
from devroute.inspector.query.fields import FIELDS, OTHER_NAMES, Test, anywhere
from devroute.inspector.query.syntax import Term, terms, written


@dataclass(frozen=True, slots=True)
class Query:
    """A parsed query. A capture matches if it matches every term; an empty query matches all."""

    terms: tuple[Term, ...]
    _tests: tuple[Test, ...]

    @classmethod
    def parse(cls, text: str) -> "Query":
        """Raises QueryInvalid, which says what is wrong with which term."""
        parsed = tuple(map(_known, terms(text)))
        # What reads bodies comes last.
        ordered = sorted(parsed, key=lambda term: not term.field or FIELDS[term.field].deep)
        return cls(parsed, tuple(map(_test, ordered)))

    def matches(self, capture: Capture) -> bool:
        return all(test(capture) for test in self._tests)


def _known(term: Term) -> Term:
    """The term, as a text if its name is of no field. Raises QueryInvalid for a name that is almost one."""
    if not term.field or term.field in FIELDS:
        return term
    near = OTHER_NAMES.get(term.field) or next(iter(get_close_matches(term.field, FIELDS, 1, 0.75)), None)
    if near is not None:
        text = f"{term.field}:{','.join(term.values)}"
        raise QueryInvalid(
            f"there is no field '{term.field}:'; did you mean '{near}:'?",
            hint=f"to search for the text, put it in quotes: {written(text)}",
        )
    return Term(
        "", (f"{term.field}:{','.join(term.values)}",), term.negated, term.start, term.start, term.end
    )


def _test(term: Term) -> Test:
    make = FIELDS[term.field].test if term.field else anywhere
    tests = [_made(term, make, value) for value in term.values]
    one = tests[0] if len(tests) == 1 else lambda capture: any(test(capture) for test in tests)
    return (lambda capture: not one(capture)) if term.negated else one


def _made(term: Term, make: Callable[[str], Test], value: str) -> Test:
    if term.field and not value:
        raise QueryInvalid(f"'{term.field}:' has no value; it takes {FIELDS[term.field].words}")
    try:
        return make(value)
    except ValueError as error:
        raise QueryInvalid(f"'{term.field}:' takes {error}, not '{value}'") from None
