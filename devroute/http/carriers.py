"""The carriers of a contract beside its header: other headers, which apps pass on that know nothing of
devroute. Pure. The twin of lua/parts/carriers.lua, with the same vectors.

A carrier has two slots: the contract, and the services that have detoured the request so far (`via`). In a
list (baggage, tracestate) they are members; elsewhere they are headers of their own, NAME and NAME-via.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final, Literal
from urllib.parse import quote, unquote_to_bytes

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
#: Of printable ASCII, what a value of tracestate may have (Trace Context §3.3.1.3.2); `%` begins an escape.
_IN_STATE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "%,=")
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


def with_slot(carrier: str, text: bytes, value: bytes, slot: Slot = "contract") -> bytes:
    """The header of a carrier with a slot set, or without it, where the value does not fit. Empty: none."""
    if len(text) <= baggage.MAX_READ_BYTES and read_slot(carrier, text, slot) == value:
        return text
    if carrier in _BAGGAGE:
        return baggage.with_member(text, _KEYS[slot], value)
    if carrier == TRACESTATE:
        return trace_state.with_state(text, _KEYS[slot], value)
    return value


def encode_contract(carrier: str, contract: str) -> bytes:
    """A contract as the carrier holds it: compact JSON, percent-encoded as far as the carrier needs it."""
    compact = _STRING.sub(lambda found: found[0] if found[0][0] == '"' else "", contract)
    return quote(compact, safe=_IN_STATE if carrier == TRACESTATE else "").encode("ascii")


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
