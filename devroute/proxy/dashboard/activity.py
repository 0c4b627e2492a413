"""The activity of one replica's requests and links: its encoding for other replicas, and the sum over all.
Pure.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from devroute.proxy.telemetry.activity import MAX_FALLBACKS, MAX_REASON, Fallback
from devroute.quoting import MAX_NAME, shortened

#: Bytes of what a replica sends: 20,000 laptops.
MAX_ENCODED: Final = 4 * 1024 * 1024

_Name = Annotated[str, Field(max_length=MAX_NAME)]
_Count = Annotated[int, Field(ge=0, lt=1 << 53)]


class ReplicaActivity(BaseModel):
    """`rates`: service, target, requests and failed ones of the last minute. `round_trips`: name and
    generation of a process whose link ends there, and milliseconds."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    rates: tuple[tuple[_Name, _Name, _Count, _Count], ...] = ()
    fallbacks: Annotated[
        tuple[
            tuple[_Name, _Name, _Name, Annotated[str, Field(max_length=MAX_REASON)], _Count, float],
            ...,
        ],
        Field(max_length=MAX_FALLBACKS),
    ] = ()
    round_trips: tuple[tuple[_Name, _Count, float], ...] = ()

    def encode(self) -> bytes:
        return self.model_dump_json().encode()


def decode_activity(raw: bytes) -> ReplicaActivity:
    """An empty one for what no replica would send."""
    try:
        return ReplicaActivity.model_validate_json(raw) if len(raw) <= MAX_ENCODED else ReplicaActivity()
    except ValidationError:
        return ReplicaActivity()


def named(text: str) -> str:
    return shortened(text, MAX_NAME)


class TotalActivity:
    """The activity of all replicas. `requests` and `failed` of the last minute, by service and target;
    `round_trips` in milliseconds, by name and generation; `fallbacks`, the newest first."""

    def __init__(self, replicas: Iterable[ReplicaActivity]) -> None:
        self.requests: Counter[tuple[str, str]] = Counter()
        self.failed: Counter[tuple[str, str]] = Counter()
        self.round_trips: dict[tuple[str, int], int] = {}
        found: dict[tuple[str, str, str], Fallback] = {}
        for replica in replicas:
            for service, target, requests, failed in replica.rates:
                self.requests[service, target] += requests
                self.failed[service, target] += failed
            for name, generation, milliseconds in replica.round_trips:
                self.round_trips[name, generation] = round(milliseconds)
            for each in map(Fallback._make, replica.fallbacks):
                _add(found, each)
        newest = sorted(found.values(), key=lambda each: each.last, reverse=True)
        self.fallbacks = newest[:MAX_FALLBACKS]


def _add(found: dict[tuple[str, str, str], Fallback], each: Fallback) -> None:
    key = each.service, each.target, each.code
    other = found.get(key)
    if other is None:
        found[key] = each
    else:
        last = max(each, other, key=lambda one: one.last)
        found[key] = last._replace(times=each.times + other.times)


def as_row(fallback: Fallback) -> Mapping[str, object]:
    return fallback._asdict()
