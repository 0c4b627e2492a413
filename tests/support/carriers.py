"""How sidecars write contracts into carriers (lua/parts/carriers.lua), once more, to compare the two. The
package itself only reads them.
"""

from urllib.parse import quote

from devroute.headers import BAGGAGE_CONTRACT, TRACESTATE
from devroute.http import baggage
from devroute.http.baggage import MAX_READ_BYTES
from devroute.http.carriers import compact_json, is_list, read_slot
from devroute.http.trace_state import MAX_BYTES, MAX_MEMBERS, MAX_VALUE

#: Of printable ASCII, what a value of tracestate may have (Trace Context §3.3.1.3.2); `%` begins an escape.
IN_STATE = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "%,=")


def encode_contract(carrier: str, contract: str) -> bytes:
    """A contract as the carrier holds it: compact JSON, percent-encoded as far as the carrier needs it."""
    return quote(compact_json(contract), safe=IN_STATE if carrier == TRACESTATE else "").encode("ascii")


def with_contract(carrier: str, text: bytes, value: bytes) -> bytes:
    """The header of a carrier with a contract, or without it, where the value does not fit. Empty: none."""
    if len(text) <= MAX_READ_BYTES and read_slot(carrier, text) == value:
        return text
    if not is_list(carrier):
        return value
    setter = with_state if carrier == TRACESTATE else baggage.with_member
    return setter(text, BAGGAGE_CONTRACT.encode(), value)


def with_state(state: bytes, key: bytes, value: bytes) -> bytes:
    """tracestate with one value set. Others stay byte for byte. Where it does not fit, the earlier ones go
    nevertheless, since they would be believed."""
    if len(state) > MAX_READ_BYTES:
        return state
    ours = tuple(each + b"=" for each in (key, key + b"-1", key + b"-2"))
    kept = [each for each in state.split(b",") if not each.strip(b" \t").startswith(ours)] if state else []
    rest = b",".join(kept)
    if len(value) > MAX_VALUE:
        first = [b"%b-1=%b" % (key, value[:MAX_VALUE]), b"%b-2=%b" % (key, value[MAX_VALUE:])]
    else:
        first = [b"%b=%b" % (key, value)]
    joined = b",".join([*first, rest] if rest else first)
    return joined if joined.count(b",") < MAX_MEMBERS and len(joined) <= MAX_BYTES else rest
