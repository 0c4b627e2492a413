"""What became of each request of the load. Pure."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """`WRONG`: the response to another request, or of another laptop. `FALLBACK`: the service responded.
    `UNSENT`: the load itself had too many requests open."""

    GOOD = "good"
    WRONG = "wrong"
    FALLBACK = "fallback"
    FAILED = "failed"
    UNSENT = "unsent"


@dataclass(frozen=True, slots=True)
class Outcome:
    """`due`: when the request had to be sent, whether the load was late or not; `ended`: both in seconds of
    one clock. `slow`: its app was asked to take its time."""

    laptop: str
    due: float
    ended: float
    kind: Kind
    slow: bool = False
    detail: str = ""

    @property
    def took(self) -> float:
        return self.ended - self.due


def judge(laptop: str, nonce: str, status: int, headers: Mapping[str, str], body: str) -> tuple[Kind, str]:
    """The kind of a response that has arrived whole, and what is to be known of a bad one. An app's body is
    its laptop's name and the request's nonce (apps.py)."""
    result = headers.get("x-devroute-result", "")
    if result == "laptop" and status == 200:
        return (Kind.GOOD, "") if body == f"{laptop} {nonce}" else (Kind.WRONG, f"{laptop}: {body[:80]}")
    reason = headers.get("x-devroute-reason", "")
    if result == "fallback":
        return Kind.FALLBACK, reason
    return Kind.FAILED, f"{status} {_code(body)} {reason or body[:160]}"


def _code(body: str) -> str:
    try:
        found = json.loads(body)
    except ValueError:
        return ""
    return str(found.get("code", "")) if isinstance(found, dict) else ""


#: From and to, in seconds.
Span = tuple[float, float]
#: In what became of a request that took too long: what a machine explains that stood still meanwhile.
LATE = ("did not respond within", "did not respond in", "has not responded for", "TimeoutError")


def overlaps(outcome: Outcome, spans: Iterable[Span]) -> bool:
    return any(since <= outcome.ended and until >= outcome.due for since, until in spans)


def hindered(outcome: Outcome, spans: Iterable[Span]) -> bool:
    """Whether it failed since the machine stood still in these spans."""
    bad = outcome.kind in (Kind.FALLBACK, Kind.FAILED)
    return bad and any(word in outcome.detail for word in LATE) and overlaps(outcome, spans)


def count(outcomes: Iterable[Outcome], kind: Kind) -> int:
    return sum(each.kind is kind for each in outcomes)


def unexcused(outcomes: Iterable[Outcome], killed: float, gone: float) -> list[Outcome]:
    """The requests that failed, and may not have: a replica was killed at `killed`, and the operating system
    had ended it at `gone`. What was open then may fail; no response may be a wrong one."""
    return [
        each
        for each in outcomes
        if each.kind is Kind.WRONG
        or (each.kind is not Kind.GOOD and not (each.due <= gone and each.ended >= killed))
    ]


def longest(outcomes: Iterable[Outcome]) -> float:
    """Seconds."""
    return max((each.took for each in outcomes), default=0.0)


def quantile(values: Sequence[float], share: float) -> float:
    """By nearest rank; `share` from 0 to 1. 0 of nothing."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else 0.0


def p99(outcomes: Iterable[Outcome]) -> float:
    """Seconds, of the good responses whose app did not take its time."""
    return quantile([each.took for each in outcomes if each.kind is Kind.GOOD and not each.slow], 0.99)


def examples(outcomes: Iterable[Outcome], most: int = 5) -> list[str]:
    """The bad ones in words, the most frequent first."""
    found = Counter(f"{each.kind}: {each.detail}" for each in outcomes if each.kind is not Kind.GOOD)
    return [f"{times} times {what}" for what, times in found.most_common(most)]
