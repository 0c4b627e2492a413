"""The trace that a request belongs to, by its `traceparent` (W3C Trace Context §3.2). Pure. Compiled
(setup.py): it is read for each line of the access log.
"""

from typing import Final

from devroute.headers import TRACEPARENT, line_start

_LINE: Final = line_start(TRACEPARENT)
#: Characters of a value of version 00: version, trace id, span id and flags, with three dashes between them.
_LENGTH: Final = 2 + 1 + 32 + 1 + 16 + 1 + 2
_DASH: Final = 0x2D
_HEX: Final = b"0123456789abcdef"
#: Flags (§3.2.2.3): that the caller may have recorded the trace, and that its id is random.
_SAMPLED: Final = 1
_RANDOM: Final = 2
#: Those that the last digit of a value has.
_FLAGS: Final = {digit: value & (_SAMPLED | _RANDOM) for value, digit in enumerate(_HEX)}
_NO_TRACE: Final = b"0" * 32
_NO_SPAN: Final = b"0" * 16


class TraceParent:
    """Ids in hexadecimal digits, in lower case. `flags`: those that are passed on, as a number."""

    __slots__ = ("flags", "span_id", "trace_id")

    def __init__(self, trace_id: bytes, span_id: bytes, flags: int) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.flags = flags

    @property
    def sampled(self) -> bool:
        """The caller may have recorded the trace."""
        return bool(self.flags & _SAMPLED)


def trace_parent(raw: bytes) -> TraceParent | None:
    """That of a request's head, whose names a sidecar has written in lower case. None if there is none, more
    than one, or a malformed one."""
    at = raw.find(_LINE)
    if at < 0:
        return None
    start = at + len(_LINE)
    end = start + _LENGTH
    value = raw[start:end]
    if (
        len(value) < _LENGTH
        or value[2] != _DASH
        or value[35] != _DASH
        or value[52] != _DASH
        or value.translate(None, _HEX) != b"---"
    ):
        return None
    after = raw[end : end + 1]
    if after != b"\r" and (value.startswith(b"00") or after != b"-"):  # a later version may be longer (§4.1)
        return None
    trace_id, span_id = value[3:35], value[36:52]
    if value.startswith(b"ff") or trace_id == _NO_TRACE or span_id == _NO_SPAN or raw.find(_LINE, end) >= 0:
        return None
    return TraceParent(trace_id, span_id, _FLAGS[value[54]])
