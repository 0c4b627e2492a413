"""W3C tracestate: one member read, or set in front of all others. Pure. The twin of
lua/parts/trace_state.lua, with the same vectors.

Members are separated by commas; a member is a key, "=" and a value. Unlike in baggage there are no properties
and no white space around "=", and of members with the same key the first counts, since each writer puts its
own in front (Trace Context §3.3.1.4, §3.5).
"""

from typing import Final

from devroute.http.baggage import MAX_READ_BYTES

#: Characters of a value, members, and bytes in all that are written: what W3C asks every tracer to pass on
#: (Trace Context §3.3.1.3.2, §3.3.1.1, §3.3.1.5). Some drop the whole header beyond them.
MAX_VALUE: Final = 256
MAX_MEMBERS: Final = 32
MAX_BYTES: Final = 512

_SPACE: Final = b" \t"


def state_value(state: bytes, key: bytes) -> bytes | None:
    """A member's value as it is written; None if there is none."""
    if len(state) > MAX_READ_BYTES:
        return None
    start = key + b"="
    for member in state.split(b","):
        text = member.strip(_SPACE)
        if text.startswith(start):
            return text[len(start) :]
    return None


def with_state(state: bytes, key: bytes, value: bytes) -> bytes:
    """tracestate with one member set. Others stay byte for byte. Where the member does not fit, the earlier
    ones go nevertheless, since they would be believed."""
    if len(state) > MAX_READ_BYTES:
        return state
    start = key + b"="
    kept = [each for each in state.split(b",") if not each.strip(_SPACE).startswith(start)] if state else []
    rest = b",".join(kept)
    joined = b"%b%b%b%b" % (start, value, b"," if rest else b"", rest)
    return joined if len(kept) < MAX_MEMBERS and len(joined) <= MAX_BYTES else rest
