"""A trace as people and scripts read it: each hop, who answered there, and what became of the services that
the contract names. Pure.

What a trace can show is limited: a service without a sidecar reports nothing, and neither does one that is
called without the contract and without `traceparent`. Where more than one thing is possible, the sentence
names them all.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final

from devroute.agent.trace_advice import PAGE, advice_for
from devroute.contract.grammar import Entry
from devroute.contract.target import Laptop
from devroute.contract.verifier import read_any
from devroute.errors import DevrouteError
from devroute.quoting import NAMES_OTHERS, quote
from devroute.routing.trace import Hop

#: Who answers if it is not a laptop or a version: the mesh's own service; no one, where there was an error.
SERVICE: Final = "service"
NONE: Final = "none"
#: Who answers if a laptop got the request, and the proxy has not had the end of its response.
PENDING: Final = "pending"

#: Why a service that the contract names was not reached.
CONTRACT_LOST: Final = "contract-lost"
NOT_CALLED: Final = "not-called"
NO_SIDECAR: Final = "no-sidecar"

_NAMES_OTHERS: Final = re.compile(rf"(?:; )?names [^:]*{re.escape(NAMES_OTHERS)}$")


@dataclass(frozen=True, slots=True)
class TraceResult:
    """`services` are those whose sidecars the server knows, None if an older one does not state them.
    `problem` is why there are no hops, if the server could not be asked after the request. `exit_code` is the
    program's, `output` what it wrote where that was captured."""

    trace: str
    hops: list[Hop]
    services: list[str] | None
    total_ms: float
    exit_code: int
    output: str | None = None
    problem: DevrouteError | None = None


@dataclass(frozen=True, slots=True)
class Missing:
    """A service that the contract names, and that never received it. `why` is one of the codes above."""

    key: str
    why: str
    sentence: str


def entries_in(hops: Iterable[Hop]) -> dict[str, Entry]:
    """The entries of all contracts that were reported, by key; their signatures are not verified."""
    found: dict[str, Entry] = {}
    for raw in dict.fromkeys(hop.stands_for or hop.contract for hop in hops if hop.contract):
        try:
            contract = read_any(raw)
        except DevrouteError:
            continue
        found.update(contract.entries)
    return found


def is_at(hop: Hop, key: str) -> bool:
    """Whether a hop is the service that a contract's key names."""
    name, _, namespace = key.partition(".")
    names = {hop.service, hop.service.partition(".")[0], *hop.names}
    return name in names and namespace in ("", hop.namespace or namespace)


def responder(hop: Hop, entries: Mapping[str, Entry]) -> str:
    """The laptop's name or the address that responded, `version:NAME`, `service`, `none` or `pending`."""
    if hop.result == "error":
        return NONE
    if hop.result not in ("laptop", "version"):
        return SERVICE
    if hop.target is not None:
        return hop.target
    if hop.result == "laptop":
        return PENDING
    entry = next((entry for key, entry in entries.items() if is_at(hop, key)), None)
    return hop.result if entry is None else str(entry.target)


def is_complete(hops: Sequence[Hop]) -> bool:
    """Whether nothing more is to be waited for: every service of the contract has reported, and the proxy has
    every laptop's response."""
    pending = any(hop.result == "laptop" and hop.took_ms is None for hop in hops)
    return bool(hops) and not pending and not missing_services(hops, None)


# --- services that were not reached -------------------------------------------------------------------------


def missing_services(hops: Sequence[Hop], known: Iterable[str] | None) -> list[Missing]:
    """`known`: the services whose sidecars the server knows; None if it does not state them."""
    carried = [hop for hop in hops if hop.contract]
    keys = [key for key in entries_in(hops) if not any(is_at(hop, key) for hop in carried)]
    return [_missing(key, hops, None if known is None else set(known)) for key in keys]


def _missing(key: str, hops: Sequence[Hop], known: set[str] | None) -> Missing:
    name = key.partition(".")[0]
    if any(is_at(hop, key) for hop in hops):
        lost = next(index for index, hop in enumerate(hops) if not hop.contract)
        before = next((hop.service for hop in reversed(hops[:lost]) if hop.contract), "the caller")
        return Missing(
            key,
            CONTRACT_LOST,
            f"the contract was lost on the way to '{key}': '{before}' passes on traceparent, but neither"
            " x-devroute nor baggage nor tracestate",
        )
    names = {each for hop in hops for each in (hop.service, *hop.names)} | (known or set())
    if name not in names:
        none = f"no service on the way was '{key}'"
        if close := get_close_matches(name, sorted(names), 1):
            return Missing(key, NO_SIDECAR, f"{none}; did you mean {quote(close[0])}?")
        if known is not None:
            return Missing(
                key,
                NO_SIDECAR,
                f"{none}: no sidecar of that name has used this server since it started;"
                " is it called, and does it have a sidecar with devroute's filter?",
            )
    last = next((hop.service for hop in reversed(hops) if hop.contract), "the caller")
    return Missing(
        key,
        NOT_CALLED,
        f"'{key}' was not called, or '{last}' passes on neither x-devroute nor baggage nor traceparent",
    )


# --- text ---------------------------------------------------------------------------------------------------


def lines(hops: Sequence[Hop]) -> list[str]:
    """A line for each hop: when it received the request, what was decided, who answered and why."""
    if not hops:
        return ["no sidecar saw a contract: is the X-devroute header set, and the filter installed?"]
    entries = entries_in(hops)
    width = max(len(hop.service) for hop in hops)
    shown = [_line(hop, responder(hop, entries), width) for hop in hops]
    for before, hop in zip([None, *hops], hops, strict=False):
        if hop.by_traceparent and hop.contract:
            who = "the caller" if before is None else f"'{before.service}'"
            shown.append(
                f"the trace's id was lost before '{hop.service}', and found in traceparent:"
                f" does {who} write a contract of its own?"
            )
        elif before is not None and before.contract and not hop.contract:
            shown += _how_to_pass_on(before.service, hop.client)
    return shown


def _how_to_pass_on(service: str, client: str) -> list[str]:
    """For the app of the service, which has called the next one without the contract."""
    advice = advice_for(client)
    if advice is None:
        return []
    return [f"'{service}' calls others as {quote(client)}, so in {advice.language}: {advice.fix} ({PAGE})"]


def _line(hop: Hop, who: str, width: int) -> str:
    reason = reason_of(hop)
    what = reason
    if hop.took_ms is not None:
        answered = f"{hop.target} answered {hop.status} after {hop.took_ms:.0f} ms"
        what = f"{answered}: {reason}" if reason else answered
    elif who == PENDING:
        what = "the laptop's response has not ended"
    elif hop.result in ("laptop", "version"):
        what = f"{who} answered: {reason}" if reason and who not in reason else reason or f"{who} answered"
    if hop.carriers:
        what = f"{what}{'; ' if what else ''}came by {', '.join(hop.carriers)}"
    result = hop.result if hop.contract or hop.result else "no contract"
    return f"{hop.at_ms:+7.0f} ms  {hop.service:<{width}}  {result:<8}  {what}".rstrip()


def reason_of(hop: Hop) -> str:
    """Without the advice to trace the request, which this is."""
    return _NAMES_OTHERS.sub("", hop.reason)


def summary(hops: Sequence[Hop], known: Iterable[str] | None) -> str:
    """One sentence: who answered at each service that the contract names."""
    if not hops:
        return "no service on the way had a sidecar that saw the contract"
    entries = entries_in(hops)
    missing = {each.key: each.sentence for each in missing_services(hops, known)}
    parts = [missing.get(key) or _at(key, entry, hops, entries) for key, entry in entries.items()]
    return "; ".join(parts) or _of_hops(hops)


def _at(key: str, entry: Entry, hops: Sequence[Hop], entries: Mapping[str, Entry]) -> str:
    found = [hop for hop in hops if hop.contract and is_at(hop, key)]
    phrases = Counter(_phrase(hop, entry, responder(hop, entries)) for hop in found)
    counted = [phrase if len(phrases) == 1 else f"{phrase} {count}x" for phrase, count in phrases.items()]
    return f"{', '.join(counted)} at '{key}'{_why(found[-1])}"


def _phrase(hop: Hop, entry: Entry, who: str) -> str:
    if hop.result == "mirror":
        return f"the mesh's own service answered (and {entry.target} got a copy)"
    if who == SERVICE:
        return "the mesh's own service answered"
    if who == NONE:
        return "an error was the response"
    if who == PENDING:
        return f"the response of {entry.target} has not ended"
    if hop.result == "version":
        return f"{who} answered"
    return f"{who}'s laptop answered" if isinstance(entry.target, Laptop) else f"{who} answered"


def _why(hop: Hop) -> str:
    reason = reason_of(hop)
    return f" ({reason})" if reason and hop.result in ("service", "fallback", "error") else ""


def _of_hops(hops: Sequence[Hop]) -> str:
    """Where the contract could not be read."""
    hop = hops[0]
    if hop.result == "error":
        return f"'{hop.service}' refused the contract{_why(hop)}"
    return f"the result at '{hop.service}' is {hop.result or 'no contract'}{_why(hop)}"


# --- expectations -------------------------------------------------------------------------------------------


def unmet_expectations(hops: Sequence[Hop], expected: Iterable[tuple[str, str]]) -> list[str]:
    """A sentence for each service (as a contract names it) at which not every response came from whom it was
    expected from: a laptop's name, an address, `version:NAME` or `service`."""
    entries = entries_in(hops)
    problems = []
    for key, wanted in expected:
        found = list(dict.fromkeys(responder(hop, entries) for hop in hops if is_at(hop, key)))
        if found != [wanted]:
            seen = " and ".join(found) if found else "no request was seen"
            problems.append(f"expected {key}={wanted}, but at '{key}': {seen}")
    return problems


def describe(traced: TraceResult) -> list[str]:
    """Lines: the trace, its hops, and the summary."""
    hops, count = traced.hops, len(traced.hops)
    head = f"trace {traced.trace}: {count} {'hop' if count == 1 else 'hops'}, {traced.total_ms:.0f} ms"
    return [head, *lines(hops), *([summary(hops, traced.services)] if hops else [])]


def as_document(traced: TraceResult) -> dict[str, object]:
    """For --output json. `missed` are the keys of services that never received the contract."""
    hops, known = traced.hops, traced.services
    entries, missing = entries_in(hops), missing_services(hops, known)
    services: dict[str, object] = {
        key: {
            "responders": [responder(hop, entries) for hop in hops if hop.contract and is_at(hop, key)],
            "missing": next((each.why for each in missing if each.key == key), None),
        }
        for key in entries
    }
    return {
        "trace": traced.trace,
        "total_ms": traced.total_ms,
        "exit_code": traced.exit_code,
        "output": traced.output,
        "hops": [_hop_document(hop, responder(hop, entries)) for hop in hops],
        "services": services,
        "missed": [each.key for each in missing],
        "summary": summary(hops, known),
    }


def _hop_document(hop: Hop, who: str) -> dict[str, object]:
    return {
        "service": hop.service,
        "namespace": hop.namespace,
        "responder": who,
        "result": hop.result,
        "reason": hop.reason,
        "at_ms": hop.at_ms,
        "took_ms": hop.took_ms,
        "status": hop.status,
        "target": hop.target,
        "contract": hop.contract,
        "trace_lost": hop.by_traceparent,
        "carriers": list(hop.carriers),
        "client": hop.client,
        "request_id": hop.request_id,
    }
