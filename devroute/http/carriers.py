"""The carriers of a contract beside its header: other headers, which apps pass on that know nothing of
devroute. Pure. Reads them as lua/parts/carriers.lua does, with the same vectors; sidecars alone write them.

A carrier has two slots: the contract, and the services that have detoured the request so far (`via`). In a
list (baggage, tracestate) they are members; elsewhere they are headers of their own, NAME and NAME-via.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final, Literal
from urllib.parse import unquote_to_bytes

from devroute.contract.trace_id import split_trace
from devroute.headers import BAGGAGE_CONTRACT, BAGGAGE_VIA, TRACESTATE
from devroute.http import baggage, trace_state

#: In the order of precedence. Behind them come the headers that a platform team names.
KNOWN: Final = ("baggage", TRACESTATE, "ot-baggage-devroute", "uberctx-devroute", "correlation-context")
#: Those that are written unless a platform team chooses others.
DEFAULT: Final = ("baggage", TRACESTATE)

Slot = Literal["contract", "via"]

_KEYS: Final[dict[Slot, bytes]] = {"contract": BAGGAGE_CONTRACT.encode(), "via": BAGGAGE_VIA.encode()}
_BAGGAGE: Final = ("baggage", "correlation-context")
_STRING: Final = re.compile(r'"(?:[^"\\]|\\.)*"|[ \t]+')


def is_list(carrier: str) -> bool:
    """Whether the carrier's header holds members of others too."""
    return carrier in _BAGGAGE or carrier == TRACESTATE


def header_of(carrier: str, slot: Slot) -> str:
    """The header that holds the slot."""
    return f"{carrier}-via" if slot == "via" and not is_list(carrier) else carrier


def read_slot(carrier: str, text: bytes, slot: Slot = "contract") -> bytes | None:
    """What the header of a carrier holds; None if that is nothing."""
    if carrier in _BAGGAGE:
        value = baggage.member_value(text, _KEYS[slot])
    elif carrier == TRACESTATE:
        value = trace_state.state_value(text, _KEYS[slot])
    else:
        value = text.strip(b" \t") if len(text) <= baggage.MAX_READ_BYTES else None
    return value or None


def compact_json(contract: str) -> str:
    """A contract as carriers hold it, before it is encoded: without the white space between its tokens."""
    return _STRING.sub(lambda found: found[0] if found[0][0] == '"' else "", contract)


def carried_contract(value_of: Callable[[str], bytes | None], named: Sequence[str] = ()) -> str | None:
    """The contract of the first carrier that has one, without the id of a trace; None if none has.

    `value_of` has a request's header by its name in lower case, repeated ones joined by commas.
    """
    for carrier in (*KNOWN, *named):
        text = value_of(carrier)
        value = None if text is None else read_slot(carrier, text)
        if value is not None:
            return split_trace(unquote_to_bytes(value).decode("latin-1"))[0]
    return None
