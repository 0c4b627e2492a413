"""W3C tracestate: one member read. Pure. Reads it as lua/parts/trace_state.lua does, with the same vectors;
sidecars alone write it.

Members are separated by commas; a member is a key, "=" and a value. Unlike in baggage there are no properties
and no white space around "=", and of members with the same key the first counts, since each writer puts its
own in front (Trace Context §3.3.1.4, §3.5). A value that is too long for one member, as most signed contracts
are, takes two, KEY-1 and KEY-2, of which neither counts alone.
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
    """A value as it is written, of one member or of both halves; None if there is none."""
    if len(state) > MAX_READ_BYTES:
        return None
    whole = _member(state, key)
    if whole is not None:
        return whole
    first, second = _member(state, key + b"-1"), _member(state, key + b"-2")
    return None if first is None or second is None else first + second


def _member(state: bytes, key: bytes) -> bytes | None:
    start = key + b"="
    for member in state.split(b","):
        text = member.strip(_SPACE)
        if text.startswith(start):
            return text[len(start) :].lstrip(_SPACE)
    return None
