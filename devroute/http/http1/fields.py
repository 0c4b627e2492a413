"""The field lines of an HTTP/1.1 head: which of them mean something here, how they are found and read, and
which end at this hop. Pure; never judges a head as a whole (http/http1/request.py).

They are looked for by name, since a head has a dozen and a gateway acts on one or two.
"""

import re
from typing import Final

from devroute import headers
from devroute.errors import DevrouteError
from devroute.http.message import Span

#: RFC 9112 §6.2 sets no limit; 15 digits stay an exact float everywhere and are more than any disk holds.
MAX_LENGTH_DIGITS: Final = 15

# --- found --------------------------------------------------------------------------------------------------


def _finder(*names: str) -> re.Pattern[bytes]:
    """Finds (name, value) of these fields in a head in lower case."""
    return re.compile(rb"\n(%b):[ \t]*([^\r]*)" % "|".join(map(re.escape, names)).encode())


#: All of a request's that its framing hangs on or that end here; none of them is in an ordinary GET.
RARE_IN_REQUESTS = _finder(
    *("content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection"),
    *("proxy-authorization", "te", "upgrade", "expect"),
)
OF_RESPONSES = _finder(
    *("content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "upgrade"),
    *(headers.RESULT, headers.REASON),
)

_NO_FIELDS: Final[dict[bytes, bytes]] = {}


# --- read ---------------------------------------------------------------------------------------------------

_SPACE: Final = 0x20
_TAB: Final = 0x09


def fields_of(finder: re.Pattern[bytes], low: bytes) -> dict[bytes, bytes]:
    """By name; the values of a repeated one are joined by LF, which no value holds. In lower case."""
    found: list[tuple[bytes, bytes]] = finder.findall(low)
    if not found:
        return _NO_FIELDS
    fields = dict(found)
    if len(fields) < len(found):
        fields = {}
        for name, value in found:
            fields[name] = b"%b\n%b" % (fields[name], value) if name in fields else value
    return fields


def values_of(raw: bytes, low: bytes, needle: bytes) -> list[bytes]:
    """What a field says, once for each of its lines. `needle` is LF, its name in lower case and the colon."""
    values: list[bytes] = []
    find = low.find  # bound once: looking a method up costs half as much as the search
    at = find(needle)
    while at >= 0:
        first = at + len(needle)
        last = find(b"\r", first)
        values.append(value_at(raw, first, last))
        at = find(needle, last)
    return values


def value_at(raw: bytes, first: int, last: int) -> bytes:
    """What stands there, without the white space around it."""
    if first < last and raw[first] == _SPACE:
        first += 1
    value = raw[first:last]
    if value and (value[0] == _SPACE or value[0] == _TAB or value[-1] == _SPACE or value[-1] == _TAB):
        value = value.strip(b" \t")
    return value


def length_of(value: bytes, error: type[DevrouteError]) -> int:
    value = value.strip(b" \t")
    if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
        raise error("content-length is not a plain decimal number", hint="RFC 9110 §8.6")
    return int(value)


def options_of(value: bytes) -> list[bytes]:
    if value == b"keep-alive" or value == b"close":
        return [value]
    return [option.strip(b" \t") for option in value.lower().replace(b"\n", b",").split(b",")]


# --- those that end here ------------------------------------------------------------------------------------

#: Each field line, by its name.
_LINES = re.compile(rb"(?<=\n)([^:\r\n]+):[^\n]*\n")

#: Fields that end at this hop, whatever Connection says (RFC 9110 §7.6.1); beside them the sidecar's marker.
REQUEST_HOP: Final = frozenset((
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"transfer-encoding",
    b"upgrade",
))  # fmt: skip
MATCHED: Final = headers.MATCHED.encode()
RESPONSE_HOP: Final = frozenset((
    b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade",
    headers.RESULT.encode(), headers.REASON.encode(),
))  # fmt: skip
NO_BODY_HOP: Final = RESPONSE_HOP | {b"content-length"}  # RFC 9110 §8.6: such answers have none
SWITCHING_HOP: Final = NO_BODY_HOP - {b"upgrade"}

#: Connection options that drop nothing more: without these fields the message would mean something else, or
#: they end here anyway. Nor do options that begin as our own fields: x-devroute-via guards against loops.
_NEVER_DROPPED: Final = frozenset(
    (b"host", b"content-length", b"x-request-id", b"te", b"close", b"upgrade", b"keep-alive")
)
_OUR_PREFIX: Final = headers.PREFIX.encode()

#: What to look for, of the fields that are looked for all the time.
_NEEDLES: Final = {name: b"\n%b:" % name for name in {*REQUEST_HOP, *NO_BODY_HOP, MATCHED}}


def spans_of(low: bytes, name: bytes) -> list[Span]:
    """Where the lines of a field stand that ends here. `low` is the head in lower case."""
    needle = _NEEDLES[name]
    spans: list[Span] = []
    find = low.find
    at = find(needle)
    while at >= 0:
        end = find(b"\n", at + 1)
        spans.append((at + 1, end + 1))
        at = find(needle, end)
    return spans


def dropped(low: bytes, names: frozenset[bytes], options: list[bytes]) -> list[Span]:
    """The lines of fields that end here: `names`, and those that Connection names (RFC 9110 §7.6.1)."""
    named = [each for each in options if each not in _NEVER_DROPPED and not each.startswith(_OUR_PREFIX)]
    if named:  # some thousands fit into a head, so nothing is looked for once an option
        names = names.union(named)
        return [line.span() for line in _LINES.finditer(low) if line[1] in names]
    spans: list[Span] = []
    for name in names:
        spans += spans_of(low, name)
    if len(spans) > 1:
        spans.sort()
    return spans
